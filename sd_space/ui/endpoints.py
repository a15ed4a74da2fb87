"""The public endpoints accept_license, generate, compare, model and verify, for gradio_client, plain HTTP and MCP."""

import inspect
import math
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from sd_space.backends import Backend
from sd_space.errors import SpaceError
from sd_space.request import REQUEST_FIELDS
from sd_space.schema import Stage
from sd_space.serving.gate import Gate, sent_token
from sd_space.serving.intake import Intake
from sd_space.serving.model_description import described
from sd_space.serving.recipe import result_json
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run
from sd_space.serving.strip import strip
from sd_space.serving.verifier import Verifier
from sd_space.ui.events import address_of, place_id_of, public_address_of, translate_errors
from sd_space.ui.form import CARD_DEFAULTS, CARD_LIMITS


def add_endpoints(gate: Gate, backend: Backend, intake: Intake, verifier: Verifier) -> None:
    """Adds them to the current Blocks. Gradio makes their documentation from signatures and docstrings."""
    public = PublicEndpoints(gate, backend, intake, verifier)
    for method in (public.accept_license, public.generate, public.compare, public.model, public.verify):
        endpoint = translate_errors(method)
        lines = _field_lines(inspect.signature(endpoint).parameters)
        endpoint.__doc__ = (endpoint.__doc__ or "").replace("{fields}", lines)
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_limit=None)


class PublicEndpoints:
    """One method for each endpoint."""

    def __init__(self, gate: Gate, backend: Backend, intake: Intake, verifier: Verifier):
        self._gate = gate
        self._backend = backend
        self._intake = intake
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
        given = locals()
        values = {name: given[name] for name in REQUEST_FIELDS}
        token = sent_token(acceptance_token, request.headers if request else {})
        async with aclosing(self._draw(token, [values], request)) as steps:
            async for step in steps:
                if isinstance(step, dict):
                    yield [], {"progress": step}
                else:
                    (run,) = step
        result = run.result()
        files = [_file_data(picture, request) for picture in run.finished]
        yield files, result_json(run.admitted.request, run.info, run.finished, result)

    async def compare(  # type: ignore[misc]
        self,
        field: str,
        values: str,
        prompt: str,
        negative_prompt: str = "",
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
        """Draws a strip: one picture for each of several values of one field, with all else alike, the seed too.

        Needs the token of accept_license. `results` has the result of each value as generate returns it; a value whose
        picture could not be drawn has an `error` in its place, and no file. Licence and checks are those of generate.

        Args:
            field: the name of the field that changes: one of those below, or size
            values: 2 to 8 values with commas between them, as in 1.5, 2, 3; prompts stand in a line each
            {fields}
            acceptance_token: what accept_license returned; may also travel in the header X-License-Token
        """
        given = locals()
        common = {name: given[name] for name in REQUEST_FIELDS if name in given}
        token = sent_token(acceptance_token, request.headers if request else {})
        self._gate.verify_token(token)
        several = strip(common, field, values)
        async with aclosing(self._draw(token, several, request)) as steps:
            async for step in steps:
                if isinstance(step, dict):
                    yield [], {"progress": step}
                else:
                    runs = step
        files = [_file_data(picture, request) for run in runs for picture in run.finished]
        yield files, {"field": field, "results": [_result_or_error(run) for run in runs]}

    async def _draw(
        self, token: object, several: Sequence[Mapping[str, object]], request: gr.Request | None
    ) -> AsyncGenerator[dict[str, Any] | list[Run]]:
        """Yields how far the runs of a call are, and last the runs themselves, which are done."""
        async with aclosing(self._intake.begin_all(token, several, address_of(request), place_id_of(request))) as begun:
            async for step in begun:
                if isinstance(step, Stage):
                    yield {"stage": step}
                else:
                    runs = step
        async with aclosing(self._intake.watch(*runs)) as watched:
            async for _ in watched:
                if not all(run.is_done for run in runs):
                    yield _progress_json(runs[0]) if len(runs) == 1 else _strip_progress_json(runs)
        yield runs

    def model(self) -> dict:
        """Describes the served model: id, revision, device, dtype, memory profile, schedulers, limits, default size."""
        return described(self._backend.status())

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


def _field_lines(parameters: Collection[str]) -> str:
    """A line for each field of a request among them, as the docstring of an endpoint has them."""
    named = (pair for pair in REQUEST_FIELDS.items() if pair[0] in parameters)
    lines = (f"{name}: {field.describe(CARD_LIMITS)}" for name, field in named)
    return f"\n{' ' * 12}".join(lines)


def _result_or_error(run: Run) -> dict:
    try:
        return result_json(run.admitted.request, run.info, run.finished, run.result())
    except SpaceError as error:
        images = [{"seed": picture.seed, "outcome": str(picture.outcome)} for picture in run.finished]
        return {"error": str(error), "images": images}


def _strip_progress_json(runs: Sequence[Run]) -> dict:
    """How far a strip is: as the run of it that has longest to go, with the pictures of all that are done."""
    last = max(
        (run for run in runs if not run.is_done),
        key=lambda run: run.progress.seconds_left or 0.0 if run.progress else math.inf,
    )
    return _progress_json(last) | {"pictures_done": sum(run.is_done for run in runs)}


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
        "fraction_done": progress.fraction_done,
    } | ({"note": progress.note} if progress.note else {})
