"""The public endpoints accept_license, generate, model and verify, for gradio_client, plain HTTP and MCP."""

import asyncio
from dataclasses import asdict
from typing import Any

import gradio as gr

from sd_space.backends import Backend, until_ready
from sd_space.request import REQUEST_FIELDS
from sd_space.serving.gate import Gate, sent_token
from sd_space.serving.limits import Capacity
from sd_space.serving.recipe import result_json
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run, Runs
from sd_space.serving.verifier import Verifier
from sd_space.ui.events import address_of, place_id_of, public_address_of, translate_errors
from sd_space.ui.form import CARD_DEFAULTS, CARD_LIMITS


def add_endpoints(gate: Gate, backend: Backend, capacity: Capacity, runs: Runs, verifier: Verifier) -> None:
    """Adds them to the current Blocks. Gradio makes their documentation from signatures and docstrings."""
    public = PublicEndpoints(gate, backend, capacity, runs, verifier)
    for method in (public.accept_license, public.generate, public.model, public.verify):
        endpoint = translate_errors(method)
        endpoint.__doc__ = (endpoint.__doc__ or "").replace("{fields}", _field_lines())
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None)


class PublicEndpoints:
    """One method for each endpoint."""

    def __init__(self, gate: Gate, backend: Backend, capacity: Capacity, runs: Runs, verifier: Verifier):
        self._gate = gate
        self._backend = backend
        self._capacity = capacity
        self._runs = runs
        self._verifier = verifier

    def accept_license(self, agree: bool) -> str:
        """Accepts the CreativeML OpenRAIL-M licence of Stable Diffusion v1-4 and returns an acceptance token.

        Read https://huggingface.co/spaces/CompVis/stable-diffusion-license first: you may not deliberately produce or
        share illegal or harmful content, and you answer for how you use the pictures.

        Args:
            agree: true if you have read the licence and accept it
        """
        return self._gate.issue_token(agree)

    # Gradio makes the endpoint's documentation from the signature, and knows no type of a generator.
    async def generate(  # type: ignore[misc]
        self,
        prompt: str,
        negative_prompt: str = "",
        num_images_per_prompt: int = CARD_DEFAULTS.num_images_per_prompt,
        num_inference_steps: int = CARD_DEFAULTS.num_inference_steps,
        guidance_scale: float = CARD_DEFAULTS.guidance_scale,
        seed: int = -1,
        width: int | None = None,
        height: int | None = None,
        scheduler: str = CARD_DEFAULTS.scheduler,
        acceptance_token: str = "",
        init_image: str = "",
        mask: str = "",
        strength: float = 0.8,
        variation_seed: int = -1,
        variation_strength: float = 0.0,
        request: gr.Request | None = None,
    ) -> tuple[list[gr.FileData], dict]:
        """Draws pictures of a prompt, or changes one, and returns those that the safety checker has passed.

        Needs the token of accept_license. A picture that was withheld or failed is a placeholder, as `outcome` says.
        Prohibited: illegal or harmful content, harassment, disinformation, sexual content involving minors, and the
        other uses that the licence's Attachment A names.

        Args:
            {fields}
            acceptance_token: what accept_license returned; may also travel in the header X-License-Token
        """
        values: dict[str, Any] = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images_per_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "width": width,
            "height": height,
            "scheduler": scheduler,
            "init_image": init_image,
            "mask": mask,
            "strength": strength,
            "variation_seed": variation_seed,
            "variation_strength": variation_strength,
        }
        token = sent_token(acceptance_token, request.headers if request else {})
        visitor = self._gate.verify_token(token).visitor
        with self._capacity.claimed(place_id_of(request), visitor, address_of(request)) as place:
            async for stage in until_ready(self._backend):
                yield [], {"progress": {"stage": stage}}
            info = self._backend.status().ready_info
            values["init_image"] = self._runs.picture_at(init_image, visitor) or init_image
            admitted = await asyncio.to_thread(self._gate.admit, token, values, info)  # decoding may take a while
            run = self._runs.start(admitted, info, embed_recipe=True, place=place)
        async for _ in self._runs.watch(run, grace_s=0):
            if not run.is_done:
                yield [], {"progress": _progress_json(run)}
        result = run.result()
        files = [_file_data(picture, request) for picture in run.finished]
        yield files, result_json(run.admitted.request, run.info, run.finished, result)

    def model(self) -> dict:
        """Describes the served model: id, revision, device, dtype, memory profile, schedulers, limits, default size."""
        status = self._backend.status()
        described = {"ready": status.is_ready, "stage": str(status.stage), "waiting": status.waiting}
        if status.reason:
            described["reason"] = status.reason
        described["devices"] = [asdict(device) for device in status.devices]
        return described | (status.info.as_dict() if status.info else {})

    async def verify(self, picture: str, acceptance_token: str = "", request: gr.Request | None = None) -> dict:
        """Says what a picture carries: Content Credentials, the watermark of Stable Diffusion, and its recipe.

        Needs the token of accept_license. Nothing found proves nothing: most services strip such marks.

        Args:
            picture: a PNG, JPEG or WebP as a data URI, data:image/png;base64,…
            acceptance_token: what accept_license returned; may also travel in the header X-License-Token
        """
        self._gate.verify_token(sent_token(acceptance_token, request.headers if request else {}))
        return (await self._verifier.verify(picture)).as_dict()


def _file_data(picture: SavedPicture, request: gr.Request | None) -> gr.FileData:
    return gr.FileData(
        path=str(picture.path),
        url=f"{public_address_of(request)}/gradio_api/file={picture.path}",
        orig_name=picture.path.name,
        mime_type="image/png",
    )


def _field_lines() -> str:
    """A line for each field of a request, as the docstring of an endpoint has them."""
    lines = (f"{name}: {field.describe(CARD_LIMITS)}" for name, field in REQUEST_FIELDS.items())
    return f"\n{' ' * 12}".join(lines)


def _progress_json(run: Run) -> dict:
    """How far the run is. `step` and `steps` are the earlier names of `step_index` and `num_timesteps`."""
    progress = run.progress
    if progress is None:
        return {"stage": "queued"}
    return {
        "queue_position": progress.queue_position,
        "step_index": progress.step_index,
        "num_timesteps": progress.num_timesteps,
        "step": progress.step_index,
        "steps": progress.num_timesteps,
        "pictures_done": progress.pictures_done,
        "seconds_left": progress.seconds_left,
    } | ({"note": progress.note} if progress.note else {})
