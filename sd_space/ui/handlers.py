"""What happens on each event of the page. Every one is private; all that draws ends in `Gate.admit` and `Runs`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import gradio as gr

from sd_space.backends import Backend, until_ready
from sd_space.errors import LicenceNotAccepted, SpaceError
from sd_space.schema import ModelInfo, Stage
from sd_space.serving.gate import Gate
from sd_space.serving.limits import Capacity
from sd_space.serving.recipe import recipe_from_query
from sd_space.serving.results import GONE, ResultStore, SavedPicture
from sd_space.serving.runs import Run, Runs
from sd_space.settings import Settings
from sd_space.ui import views
from sd_space.ui.events import address_of, place_id_of
from sd_space.ui.form import CARD_DEFAULTS, models_own, sides, size_choices, size_value
from sd_space.ui.layout import Page


class Handlers:
    """What happens on each event. What touches a run is async: runs belong to the server's event loop."""

    def __init__(
        self,
        page: Page,
        settings: Settings,
        gate: Gate,
        backend: Backend,
        store: ResultStore,
        capacity: Capacity,
        runs: Runs,
    ):
        self.page = page
        self.settings = settings
        self.gate = gate
        self.backend = backend
        self.store = store
        self.capacity = capacity
        self.runs = runs

    def _visitor(self, token: str) -> str | None:
        """Whose acceptance this is, or `None` where it is none."""
        try:
            return self.gate.verify_token(token).visitor
        except LicenceNotAccepted:
            return None

    def _doors(self, is_open: bool) -> dict:
        page = self.page
        return {
            page.gate: gr.update(visible=not is_open),
            page.studio: gr.update(visible=is_open),
            page.withdraw: gr.update(visible=is_open),
        }

    def open_page(self, token: str, request: gr.Request) -> dict:
        """On loading: opens the gate to a remembered acceptance and fills the form from a link's recipe."""
        page = self.page
        untouched = CARD_DEFAULTS
        size = size_value(untouched.width, untouched.height)
        updates = self._doors(self._visitor(token) is not None) | self.tick(
            untouched.num_inference_steps, untouched.guidance_scale, untouched.scheduler, size, request
        )
        updates.setdefault(page.clock, gr.update(active=True))  # while the model loads
        linked = recipe_from_query(request.query_params)
        info = self.backend.status().info
        for name, component in self.fields().items():
            if name in linked:
                updates[component] = gr.update(value=linked[name])
        if "seed" in linked:
            updates[page.random_seed] = False
        if "width" in linked and "height" in linked:
            updates[page.size] = self._size_update(linked["width"], linked["height"], info)
        return updates

    def _size_update(self, width: int, height: int, info: ModelInfo | None) -> dict:
        size, choices = size_value(width, height), size_choices(info.defaults if info else CARD_DEFAULTS)
        if size not in [value for _, value in choices]:
            choices.append((size.replace("x", " × "), size))
        return gr.update(choices=choices, value=size)

    def fields(self) -> dict[str, gr.components.Component]:
        page = self.page
        return {
            "prompt": page.prompt,
            "negative_prompt": page.negative_prompt,
            "num_images_per_prompt": page.num_images,
            "num_inference_steps": page.steps,
            "guidance_scale": page.guidance,
            "seed": page.seed,
            "scheduler": page.scheduler,
        }

    def tick(self, steps: int, guidance: float, scheduler: str, size: str, request: gr.Request) -> dict:
        """Each second until the model is there: the banner; then what nobody touched becomes the model's own.

        What a link asks for stays, also where it is the card's default.
        """
        page, status = self.page, self.backend.status()
        updates = {page.banner: views.banner(status)}
        if status.stage is Stage.FAILED:
            updates[page.clock] = gr.update(active=False)
        if not status.is_ready:
            return updates
        defaults, limits = status.info.defaults, status.info.limits
        values = {"num_inference_steps": steps, "guidance_scale": guidance, "scheduler": scheduler} | sides(size)
        own = models_own(values, defaults, recipe_from_query(request.query_params))

        def kept(name: str) -> dict:
            return {"value": own[name]} if name in own else {}

        size_kept = {"value": size_value(own["width"], own["height"])} if "width" in own else {}
        return updates | {
            page.clock: gr.update(active=False),
            page.steps: gr.update(maximum=limits.max_steps, **kept("num_inference_steps")),
            page.guidance: gr.update(**kept("guidance_scale")),
            page.scheduler: gr.update(choices=list(limits.schedulers), **kept("scheduler")),
            page.size: gr.update(choices=size_choices(defaults), **size_kept),
        }

    def accept(self, agree: bool) -> dict:
        try:
            token = self.gate.issue_token(agree)
        except LicenceNotAccepted:  # the button is only there for those who agree
            return {self.page.token: ""}
        return self._doors(True) | {self.page.token: token}

    async def withdraw(self, token: str) -> dict:
        """Closes the gate, and leaves nothing for whoever sits at this computer next."""
        page = self.page
        with contextlib.suppress(LicenceNotAccepted):  # it has expired
            self.runs.cancel_all(self.gate.withdraw(token).visitor)
        return self._doors(False) | {
            page.token: "",
            page.run_id: "",
            page.agree: False,
            page.accept: gr.update(interactive=False),
            page.prompt: "",
            page.negative_prompt: "",
            page.seed: 0,
            page.generate: gr.update(visible=True),
            page.cancel: gr.update(visible=False),
            page.status: "",
            page.waiting: gr.update(value="", visible=False),
            page.results: gr.update(visible=False),
            page.gallery: gr.update(value=None, selected_index=None),
            page.recipe: "",
            page.download_all: gr.update(value=None, visible=False),
        }

    async def generate(
        self,
        acceptance_token: str,
        prompt: str,
        negative_prompt: str,
        num_images_per_prompt: int,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        scheduler: str,
        random_seed: bool,
        size: str,
        embed_recipe: bool,
        request: gr.Request,
    ) -> AsyncIterator[dict]:
        """Admits the form's values and follows the run to its end."""
        page = self.page
        values = {
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images_per_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": -1 if random_seed else seed,
            "scheduler": scheduler,
        } | sides(size)
        try:
            visitor = self.gate.verify_token(acceptance_token).visitor
            with self.capacity.claimed(place_id_of(request), visitor, address_of(request)) as place:
                is_early = not self.backend.status().is_ready
                async for stage in until_ready(self.backend):
                    yield {page.status: views.note(f"Getting ready: {stage}… Your pictures come next.")}
                info = self.backend.status().info
                if is_early:  # asked before the model had said what it draws: what nobody touched is the model's own
                    values |= models_own(values, info.defaults, recipe_from_query(request.query_params))
                run = self.runs.start(
                    self.gate.admit(acceptance_token, values, info), info, embed_recipe is True, place
                )
        except LicenceNotAccepted as error:
            yield self._doors(False) | {page.status: views.note(str(error), "error")}
        except SpaceError as error:
            yield {page.status: views.note(str(error), "error")}
        else:
            async for updates in self._follow(run):
                yield updates

    async def resume(self, token: str, run_id: str, prompt: str, request: gr.Request) -> AsyncIterator[dict]:
        """After a reload: shows the last run, finished or still going. The form becomes the run's own, unless a link
        has filled it; words that were being written stay."""
        visitor = self._visitor(token)
        run = self.runs.get(run_id, visitor) if visitor is not None else None
        if run is None or (run.is_done and not _still_there(run)):
            yield {self.page.status: ""}
            return
        is_linked = bool(recipe_from_query(request.query_params))
        if not is_linked:
            asked = run.admitted.request
            form = {component: getattr(asked, name) for name, component in self.fields().items()}
            form[self.page.size] = self._size_update(asked.width, asked.height, run.info)
            yield form | ({self.page.prompt: prompt} if prompt else {})
        async for updates in self._follow(run):
            if is_linked:
                updates.pop(self.page.seed, None)
            yield updates

    async def _follow(self, run: Run) -> AsyncIterator[dict]:
        page = self.page
        yield {
            page.run_id: run.request_id,
            page.seed: run.admitted.request.seed,
            page.generate: gr.update(visible=False),
            page.cancel: gr.update(visible=True, interactive=True, value="Cancel"),
            page.status: "",
            page.waiting: gr.update(value=views.waiting(run), visible=True),
            page.results: gr.update(visible=False),
        }
        async for _ in self.runs.watch(run, grace_s=self.settings.reconnect_s):
            if not run.is_done:
                yield {page.waiting: views.waiting(run)}
        there = _still_there(run)
        pictures = [(str(picture.path), picture.caption) for picture in there]
        verdict, archive = views.verdict(run), None
        if len(there) < len(run.finished):
            verdict += views.note(GONE, "error")
        try:
            archive = await asyncio.to_thread(self.store.zip, run.request_id, there)
        except SpaceError as error:  # the pictures are there, and the form must come back
            verdict += views.note(str(error), "error")
        yield {
            page.generate: gr.update(visible=True),
            page.cancel: gr.update(visible=False),
            page.status: verdict,
            page.waiting: gr.update(value="", visible=False),
            page.results: gr.update(visible=bool(pictures)),
            page.gallery: gr.update(value=pictures, selected_index=None),
            page.recipe: views.recipe(run) if pictures else "",
            page.download_all: gr.update(value=str(archive) if archive else None, visible=archive is not None),
        }

    async def cancel(self, token: str, run_id: str) -> dict:
        visitor = self._visitor(token)
        if visitor is not None and (run := self.runs.get(run_id, visitor)):
            self.runs.cancel(run.request_id)
        return {self.page.cancel: gr.update(interactive=False, value="Cancelling…")}


def _still_there(run: Run) -> list[SavedPicture]:
    """Those of the run's pictures whose files nobody has deleted."""
    return [picture for picture in run.finished if picture.path.is_file()]
