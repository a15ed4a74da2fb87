"""The handlers of the page's events: all private, and all pictures are asked for through `Gate.admit` and `Runs`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from sd_space.backends import Backend, until_ready
from sd_space.errors import Cancelled, InvalidRequest, LicenceNotAccepted, SpaceError
from sd_space.languages import Phrase, translate
from sd_space.serving.gate import Gate
from sd_space.serving.limits import Capacity, Place
from sd_space.serving.recipe import recipe_from_text, recipe_values
from sd_space.serving.results import GONE, ResultStore, SavedPicture
from sd_space.serving.runs import Run, Runs
from sd_space.settings import Settings
from sd_space.ui import aid_views, run_views, views
from sd_space.ui.events import address_of, place_id_of
from sd_space.ui.form import CARD_DEFAULTS, apply_model_defaults, linked_values, request_values
from sd_space.ui.form_filler import FormFiller
from sd_space.ui.last_begun import LastBegun
from sd_space.ui.layout import ABOUT, DRAW, Page

_START_GONE = Phrase("{name} is not on the server any more; choose another one.")


class Handlers:
    """One method for each event, which returns updates by component. Methods that touch a run are async, because runs
    belong to the server's event loop.
    """

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
        self.filler = FormFiller(page, backend)
        self.settings = settings
        self.gate = gate
        self.backend = backend
        self.store = store
        self.capacity = capacity
        self.runs = runs
        self._waiting: dict[str | None, Place] = {}  # by session: those whose pictures wait for the model
        self._begun = LastBegun(runs)

    def _visibility(self, is_open: bool) -> dict:
        page = self.page
        return {
            page.gate: gr.update(visible=not is_open),
            page.tabs: gr.update(selected=DRAW if is_open else ABOUT),
            **{tab: gr.update(visible=is_open) for tab in page.licensed_tabs},
            page.leave: gr.update(visible=is_open),
            page.confirm: gr.update(visible=False),
        }

    def open_page(self, token: str, link: str, request: gr.Request) -> dict:
        """On loading: shows the workspace to a valid token and fills the form with a link's values.

        The gate is there before: who has no token may have accepted before this answer comes.
        """
        page = self.page
        linked = linked_values(link, request.query_params)
        updates = self._visibility(self.gate.visitor_of(token) is not None) if token else {}
        updates |= self.filler.model_updates(asdict(CARD_DEFAULTS), linked)
        updates.setdefault(page.clock, gr.update(active=True))  # while the model loads
        return updates | self.filler.fill(linked)

    def tick(self, request: gr.Request, **form: Any) -> dict:
        """Each second while the model loads: refreshes the banner; once it is ready, the controls as well."""
        return self.filler.model_updates(request_values(form), linked_values(form["link"], request.query_params))

    def accept(self, agree: bool) -> dict:
        try:
            token = self.gate.issue_token(agree)
        except LicenceNotAccepted:  # the button is enabled only while the box is ticked
            return {self.page.token: ""}
        return self._visibility(True) | {self.page.token: token}

    async def withdraw(self, token: str) -> dict:
        """Shows the gate, ends this visitor's runs, and clears the page for the next person at this computer."""
        page = self.page
        with contextlib.suppress(LicenceNotAccepted):  # the secret has changed since
            self.runs.cancel_all(self.gate.withdraw(token))
        return self._visibility(False) | {
            page.token: "",
            page.run_id: "",
            page.shown_id: "",
            page.agree: False,
            page.accept: gr.update(interactive=False),
            page.prompt: "",
            page.controls["negative_prompt"]: "",
            page.controls["seed"]: 0,
            **self.filler.without_start(),
            page.generate: gr.update(visible=True),
            page.cancel: gr.update(visible=False),
            page.status: "",
            page.progress: gr.update(value="", visible=False),
            page.results: gr.update(visible=False),
            page.gallery: gr.update(value=None, selected_index=None),
            page.recipe: "",
            page.aids.record: "",
            page.aids.reading: "",
            page.checking.found: "",
            page.download_all: gr.update(value=None, visible=False),
        }

    async def generate(self, acceptance_token: str, request: gr.Request, **form: Any) -> AsyncIterator[dict]:
        """Admits the request and shows its run until it ends."""
        page, values = self.page, request_values(form)
        try:
            visitor = self.gate.verify_token(acceptance_token).visitor
            with self.capacity.claimed(place_id_of(request), visitor, address_of(request)) as place:
                is_early = not self.backend.status().is_ready
                async for updates in self._wait_for_model(place, request):
                    yield updates
                info = self.backend.status().ready_info
                if is_early:  # the form still showed the card's defaults
                    linked = linked_values(form["link"], request.query_params)
                    values |= apply_model_defaults(values, info.defaults, linked)
                values["init_image"] = self._start_picture(values["init_image"], visitor)
                admitted = await asyncio.to_thread(self.gate.admit, acceptance_token, values, info)
                run = self.runs.start(admitted, info, form["embed_recipe"] is True, place)
                self._begun.note([run])
        except LicenceNotAccepted as error:
            yield self._visibility(False) | self._idle() | {page.status: views.note(views.refusal(error), "error")}
        except SpaceError as error:
            yield self._idle() | {page.status: ""}  # so that a refusal in the same words is a new one
            yield {page.status: views.refused(error)}
        else:
            async for updates in self._follow(run, self.runs.get(form["shown_id"], visitor)):
                yield updates

    def _start_picture(self, chosen: object, visitor: str) -> object:
        """What was chosen, or if that is the address of a result of this visitor's, the result."""
        if not chosen or not isinstance(chosen, str) or chosen.startswith("data:"):
            return chosen
        if (picture := self.runs.picture_at(chosen, visitor)) is None:
            raise InvalidRequest("init_image", Phrase(_START_GONE, name="init_image"))
        return picture

    async def _wait_for_model(self, place: Place, request: gr.Request) -> AsyncIterator[dict]:
        """Says how far the loading is until the model is there, or the visitor cancels."""
        page = self.page
        self._waiting[request.session_hash] = place
        try:
            async for stage in until_ready(self.backend):
                if place.is_abandoned:
                    raise Cancelled(views.STOPPED)
                yield {
                    page.generate: gr.update(visible=False),
                    page.cancel: gr.update(visible=True, interactive=True, value=translate("Cancel")),
                    page.status: views.note(f"{views.loading(stage)} {translate('Your pictures come next.')}"),
                }
        finally:
            self._waiting.pop(request.session_hash, None)

    def _idle(self) -> dict:
        return {self.page.generate: gr.update(visible=True), self.page.cancel: gr.update(visible=False)}

    async def resume(
        self, token: str, run_id: str, shown_id: str, prompt: str, link: str, request: gr.Request
    ) -> AsyncIterator[dict]:
        """After a reload: shows the last run, finished or not, and its values in the form.

        Values from a link, and a prompt that was being written, stay. That a run's pictures are gone is said once.
        A page that is loaded anew may not have heard of the last run that it has begun.
        """
        visitor = self.gate.visitor_of(token)
        run, shown = (self.runs.get(name, visitor) if visitor is not None else None for name in (run_id, shown_id))
        if (begun := self._begun.of(visitor)) and not _is_gone(begun[0]):
            run = begun[0]
        elif run is None or _is_gone(run):
            run, shown = shown, None
        if run is None or _is_gone(run):
            had_pictures = bool(run.finished if run else shown_id and visitor)
            gone = {self.page.shown_id: "", self.page.status: views.deleted(self.settings.result_ttl_s)}
            yield {self.page.run_id: ""} | (gone if had_pictures else {self.page.status: ""})
            return
        is_linked = bool(linked_values(link, request.query_params))
        if not is_linked:
            asked = run.admitted.request
            form = self.filler.fill(recipe_values(asked) | {"variation_seed": -1})  # the next ones are others
            if not asked.variation_strength:
                del form[self.page.random_seed]
            yield form | ({self.page.prompt: prompt} if prompt else {})
        async for updates in self._follow(run, shown):
            if is_linked:
                updates.pop(self.page.controls["seed"], None)
            yield updates

    def fill_in(self, recipe: str) -> dict:
        """Puts a recipe into the form, from which it is drawn as if it had been typed."""
        return {self.page.size: gr.skip()} | self.filler.fill(recipe_from_text(recipe))  # Gradio takes no empty answer

    async def bring_back(self, token: str, run_id: str, recipe: str) -> AsyncIterator[dict]:
        """Shows a run that the browser remembers: its values in the form, and its pictures while they exist."""
        visitor = self.gate.visitor_of(token)
        if visitor is None:
            yield self._visibility(False)
            return
        self._begun.forget(visitor)
        yield {self.page.status: ""} | self.filler.fill(recipe_from_text(recipe))
        run = self.runs.get(run_id, visitor)
        if run is None or not _still_there(run):
            yield {self.page.status: views.note(translate(aid_views.DRAW_AGAIN))}
            return
        async for updates in self._follow(run, None):
            yield updates

    async def _follow(self, run: Run, shown: Run | None) -> AsyncIterator[dict]:
        """Shows the run until it ends. Where it made no pictures, those of the run that was shown before come back."""
        page = self.page
        yield {
            page.run_id: run.request_id,
            page.controls["seed"]: run.admitted.request.seed,
            page.generate: gr.update(visible=False),
            page.cancel: gr.update(visible=True, interactive=True, value=translate("Cancel")),
            page.status: "",
            page.progress: gr.update(value=run_views.progress_html(run), visible=True),
            page.results: gr.update(visible=False),
            page.gallery: gr.update(visible=True),  # within the results; its scripts come while the pictures are made
        }
        async for _ in self.runs.watch(run, grace_s=self.settings.reconnect_s):
            if not run.is_done:
                yield {page.progress: run_views.progress_html(run)}
        summary = run_views.run_summary(run)
        if not run.finished and shown is not None and _still_there(shown):
            run, summary = shown, summary + views.note(translate(views.STILL_HERE))
        there, archive = _still_there(run), None
        pictures = [(str(picture.path), translate(picture.caption)) for picture in there]
        if len(there) < len(run.finished):
            summary += views.note(translate(GONE), "error")
        try:
            archive = await asyncio.to_thread(self.store.zip, run.request_id, there)
        except SpaceError as error:  # the pictures can be seen without it
            summary += views.note(views.refusal(error), "error")
        yield self._idle() | {
            page.run_id: run.request_id,
            page.shown_id: run.request_id if pictures else "",
            page.status: summary,
            page.progress: gr.update(value="", visible=False),
            page.results: gr.update(visible=bool(pictures)),
            page.gallery: gr.update(value=pictures, selected_index=None),
            page.recipe: run_views.recipe(run, self.settings.result_ttl_s) if pictures else "",
            page.aids.record: aid_views.record(run) if pictures else "",
            page.download_all: gr.update(value=str(archive) if archive else None, visible=archive is not None),
        }

    async def cancel(self, token: str, run_id: str, request: gr.Request) -> dict:
        """Ends the run that this page shows, or its wait for the model."""
        if place := self._waiting.get(request.session_hash):
            place.abandon()
        with contextlib.suppress(LicenceNotAccepted):  # the secret has changed since
            if run := self.runs.get(run_id, self.gate.owner_of(token)):
                self.runs.cancel(run.request_id)
        return {self.page.cancel: gr.update(interactive=False, value=translate("Cancelling…"))}


def _is_gone(run: Run) -> bool:
    """Whether it is over and none of its pictures exists any more."""
    return run.is_done and not _still_there(run)


def _still_there(run: Run) -> list[SavedPicture]:
    """The run's pictures whose files still exist."""
    return [picture for picture in run.finished if picture.path.is_file()]
