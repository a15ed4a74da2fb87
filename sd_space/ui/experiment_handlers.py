"""The handlers of the experiments' events: each draws strips through `Intake`, as a call of the API does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from sd_space.backends import Backend, until_ready
from sd_space.errors import Cancelled, LicenceNotAccepted, SpaceError
from sd_space.languages import translate
from sd_space.schema import Inspection, Stage
from sd_space.serving.experiment_files import save_files
from sd_space.serving.gate import Gate
from sd_space.serving.grid import grid
from sd_space.serving.intake import Intake
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import Run, Runs
from sd_space.serving.strip import MAX_STRIP, one_picture, strip
from sd_space.settings import Settings
from sd_space.ui import bias, bias_views, experiment_views, inspection_views, limitation_views, views
from sd_space.ui.events import address_of, place_id_of
from sd_space.ui.experiment_presets import offered_values
from sd_space.ui.experiments import Experiments
from sd_space.ui.last_begun import LastBegun
from sd_space.ui.limitations import AUTOENCODER, SEEDS, limitation_shown_by, prompts_of

MAX_RUNS = MAX_STRIP * len(bias.SEEDS)  # of the largest experiment
LOWEST_PRIORITY = 1  # everything else has 0
Parts = Sequence[Sequence[Mapping[str, Any]]]  # the values of the requests of each strip


class ExperimentHandlers:
    """One method for each event, which returns updates by component."""

    def __init__(
        self,
        parts: Experiments,
        settings: Settings,
        gate: Gate,
        backend: Backend,
        intake: Intake,
        runs: Runs,
        store: ResultStore,
    ):
        self.parts = parts
        self.settings = settings
        self.gate = gate
        self.backend = backend
        self.intake = intake
        self.runs = runs
        self.store = store
        self._begun = LastBegun(runs)

    async def offer(self, words: str) -> dict:
        """What can be tried with the served model, once it is there; chosen words stay if it knows them."""
        try:
            async for _ in until_ready(self.backend):
                pass
        except SpaceError:  # the banner says so
            return {}
        own, is_picture_book = self.parts, self._is_picture_book
        known = bias.words_for(is_picture_book)
        kept = [word for word in bias.parted(words) if word in known]
        chosen = kept or (bias.PICTURE_BOOK_CHOSEN if is_picture_book else bias.CHOSEN)
        return {
            own.limitations: limitation_views.limitations(self.gate.card, is_picture_book),
            own.about_words: bias_views.introduction(is_picture_book),
            own.words: gr.update(choices=list(known), value=list(chosen)),
        }

    @property
    def _is_picture_book(self) -> bool:
        info = self.backend.status().info
        return info is not None and info.is_picture_book

    def offer_values(self, field: str) -> str:
        status = self.backend.status()
        return offered_values(field, status.ready_info) if status.is_ready else ""

    async def draw_strip(
        self, acceptance_token: str, field: str, values: str, prompt: str, seed: float, request: gr.Request
    ) -> AsyncIterator[dict]:
        def plan() -> Parts:
            return [strip({"prompt": prompt, "seed": seed}, field, values)]

        async for updates in self._draw(acceptance_token, plan, request):
            yield updates

    async def draw_limitation(self, acceptance_token: str, name: str, request: gr.Request) -> AsyncIterator[dict]:
        def plan() -> Parts:
            prompts = prompts_of(name, self._is_picture_book)
            return [[one_picture(prompt, seed) for prompt in prompts for seed in SEEDS[: 1 if inspection else None]]]

        inspection = Inspection.AUTOENCODER if name == AUTOENCODER else None
        async for updates in self._draw(acceptance_token, plan, request, inspection=inspection):
            yield updates

    async def draw_words(self, acceptance_token: str, words: str, request: gr.Request) -> AsyncIterator[dict]:
        """A strip of all words for each seed, one after the other: together they may be more than one may have.

        They take the seats that others leave; see `engine/batcher.py`.
        """

        def plan() -> Parts:
            prompts = bias.prompts_of(words, self._is_picture_book)
            return [[one_picture(prompt, seed) for prompt in prompts] for seed in bias.SEEDS]

        async for updates in self._draw(acceptance_token, plan, request, priority=LOWEST_PRIORITY):
            yield updates

    async def draw_steps(self, acceptance_token: str, prompt: str, request: gr.Request) -> AsyncIterator[dict]:
        """With the model's own guidance and without any, as one strip."""

        def plan() -> Parts:
            own = one_picture(prompt, SEEDS[0])
            return [[own, {**own, "guidance_scale": 1.0}]]

        async for updates in self._draw(acceptance_token, plan, request, inspection=Inspection.STEPS):
            yield updates

    async def _draw(
        self,
        token: str,
        plan: Callable[[], Parts],
        request: gr.Request,
        priority: int = 0,
        inspection: Inspection | None = None,
    ) -> AsyncIterator[dict]:
        """Draws the parts one after the other, so that none is larger than a strip, until one of them is stopped."""
        own, runs, refusal = self.parts, list[Run](), None
        try:
            parts = plan()
            for number, part in enumerate(parts):
                place_id = None if number else place_id_of(request)
                asked = token, part, address_of(request), place_id, priority, inspection
                async with aclosing(self.intake.begin_all(*asked)) as begun:
                    async for step in begun:
                        if isinstance(step, Stage):
                            yield {
                                own.status: views.note(
                                    f"{views.loading(step)} {translate('Your experiment comes next.')}"
                                )
                            }
                        else:
                            runs += step
                            self._begun.note(runs)
                words = translate("part {number} of {count}", number=number + 1, count=len(parts))
                note = words if len(parts) > 1 else ""
                async for updates in self._follow(runs, note):
                    yield updates
                if any(isinstance(run.outcome, Cancelled) for run in runs):
                    break
        except SpaceError as error:
            refusal = error
        if runs:
            yield self._shown(token, runs)
        if refusal:
            yield self._refused(refusal)

    async def _follow(self, runs: Sequence[Run], note: str = "") -> AsyncIterator[dict]:
        own = self.parts
        drawing = experiment_views.progress(grid(runs, by_seed=bool(note)), note)
        yield {own.runs: _ids(runs), own.status: "", own.files: "", own.pictures: drawing}
        async with aclosing(self.runs.watch_all(runs, self.settings.reconnect_s)) as watched:
            async for _ in watched:
                yield {own.pictures: experiment_views.progress(grid(runs, by_seed=bool(note)), note)}

    def _shown(self, token: str, runs: Sequence[Run]) -> dict:
        if self.gate.visitor_of(token) is None:  # withdrawn meanwhile: the next person here must not see them
            return self.clear()
        own, rows = self.parts, grid(runs)
        return {
            own.status: experiment_views.summary(rows),
            own.pictures: experiment_views.pictures(rows, self.settings.result_ttl_s, self._lesson(runs)),
        }

    def _lesson(self, runs: Sequence[Run]) -> str:
        """What there is to see in their pictures, known by their prompts, so that it is there after a reload too."""
        if runs[0].admitted.inspection is Inspection.STEPS:
            return inspection_views.steps_lesson()
        prompts = [run.admitted.request.prompt for run in runs]
        if limitation := limitation_shown_by(prompts):
            return limitation_views.lesson(limitation.look_at, limitation.why)
        words = bias.words_in(prompts, self._is_picture_book)
        return bias_views.lesson(words, self._is_picture_book) if words else ""

    def _refused(self, error: SpaceError) -> dict:
        return {self.parts.status: views.note(views.refusal(error), "error")}

    async def resume(self, token: str, ids: str) -> AsyncIterator[dict]:
        """After a reload: shows what is left of the last experiment, whether the page has heard of its runs or not."""
        visitor = self.gate.visitor_of(token)
        if runs := self._begun.of(visitor) or self._runs_of(visitor, ids):
            async for updates in self._follow(runs):
                yield updates
            yield self._shown(token, runs)
        else:
            yield {self.parts.runs: ""}

    async def stop(self, token: str, ids: str) -> None:
        with contextlib.suppress(LicenceNotAccepted):
            for run in self._runs_of(self.gate.owner_of(token), ids):
                self.runs.cancel(run.request_id)

    async def export(self, token: str, ids: str) -> AsyncIterator[dict]:
        """Makes files of what is shown, and links to them. The page doubts an event that does not answer at once."""
        yield {self.parts.files: ""}
        runs = self._runs_of(self.gate.visitor_of(token), ids)
        try:
            paths = await asyncio.to_thread(save_files, self.store, grid(runs), self.gate.card.citation)
        except SpaceError as error:
            yield self._refused(error)
        else:
            yield {self.parts.files: experiment_views.files(*map(str, paths))}

    def clear(self) -> dict:
        return dict.fromkeys(self.parts.view, "")

    def _runs_of(self, visitor: str | None, ids: str) -> list[Run]:
        """Those of this visitor's runs with these ids that are known still."""
        if visitor is None or not isinstance(ids, str):
            return []
        names = list(dict.fromkeys(ids.split()))[:MAX_RUNS]
        return [run for name in names if (run := self.runs.get(name, visitor)) is not None]


def _ids(runs: Sequence[Run]) -> str:
    return " ".join(run.request_id for run in runs)
