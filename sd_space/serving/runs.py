"""Runs: the requests of visitors, in progress or finished, so that a reload or a lost connection loses nothing.

A run outlives the connection that asked for it: it goes on for a grace period without a watcher, its finished pictures
stay on disk until they expire, and its visitor can watch it again by its unguessable id. Everything here lives on
the server's event loop; the only thread used is the one that writes files.
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from sd_space.backends import Backend
from sd_space.errors import Cancelled, EngineFailed, SpaceError, TooManyWatchers
from sd_space.languages import Phrase
from sd_space.runtime_errors import traceback_without_message
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    Inspection,
    Outcome,
    PictureFinished,
    Progress,
    RequestFailed,
    Update,
)
from sd_space.served_model import ModelInfo
from sd_space.serving.difference import Difference, save_difference
from sd_space.serving.limits import Capacity, Place
from sd_space.serving.results import ResultStore, SavedPicture
from sd_space.serving.routes import FILE
from sd_space.serving.time_left import TimeLeft

logger = logging.getLogger(__name__)

MAX_WATCHERS = 8  # of one run: each costs an update for every step, and a page is one
BROKEN = Phrase("Something broke while your pictures were made; please try again.")
RunOutcome = GenerationResult | SpaceError


@dataclass(slots=True)
class Run:
    """One admitted request in progress, or finished. Owned by `Runs`; everything else only reads it.

    `pictures` are in order, `None` where one is not finished yet; `inspected` is what an inspection shows of them, by
    the number that it has among all. `outcome` is `None` until the run is over. What
    `progress` says is done never becomes less, also where a lost engine's work is drawn again.
    """

    admitted: AdmittedRequest
    info: ModelInfo
    embed_recipe: bool
    pictures: list[SavedPicture | None]
    progress: Progress | None = None
    outcome: RunOutcome | None = None
    inspected: dict[int, SavedPicture] = field(default_factory=dict)
    difference: Difference | None = None
    done_at_s: float = 0.0
    _watchers: int = 0
    _time_left: TimeLeft = field(default_factory=TimeLeft)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def _notify(self) -> None:
        """Wakes every watcher; each waits on the event that was current when it last looked."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def request_id(self) -> str:
        return self.admitted.request_id

    @property
    def is_done(self) -> bool:
        return self.outcome is not None

    def result(self) -> GenerationResult:
        """What a finished run has come to. Raises the error that it ended with."""
        if isinstance(self.outcome, GenerationResult):
            return self.outcome
        raise self.outcome or EngineFailed(BROKEN)

    @property
    def finished(self) -> list[SavedPicture]:
        return [picture for picture in self.pictures if picture is not None]

    @property
    def is_shown(self) -> bool:
        """Whether all that is finished may be seen."""
        return all(picture.outcome is Outcome.OK for picture in self.finished)


class Runs:
    """Starts runs on the backend, hands them to watchers and forgets them when their files expire.

    `on_done` is called with each finished run and its outcome, for the metrics.
    """

    def __init__(
        self,
        backend: Backend,
        store: ResultStore,
        result_ttl_s: float,
        capacity: Capacity,
        on_done: Callable[[Run, RunOutcome], None],
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._backend = backend
        self._store = store
        self._result_ttl_s = result_ttl_s
        self._capacity = capacity
        self._on_done = on_done
        self._now_s = now_s
        self._runs: dict[str, Run] = {}
        self._consumers: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    def start(self, admitted: AdmittedRequest, info: ModelInfo, embed_recipe: bool, place: Place) -> Run:
        """Begins `admitted` and returns at once; `watch` yields the rest. The last run in a place gives it back.

        Raises Cancelled where its caller has left already.
        """
        if place.is_abandoned:
            raise Cancelled("Cancelled; nobody waits for these pictures any more.")
        self._forget_expired()
        run = Run(admitted, info, embed_recipe, pictures=[None] * admitted.request.num_images_per_prompt)
        self._runs[admitted.request_id] = run
        place.runs[admitted.request_id] = functools.partial(self.cancel, admitted.request_id)
        consumer = asyncio.get_running_loop().create_task(self._consume_updates(run, place))
        self._consumers.add(consumer)
        consumer.add_done_callback(self._consumers.discard)
        return run

    def get(self, request_id: object, visitor: str) -> Run | None:
        """This visitor's run with this id, or `None` when there is none, or not any more."""
        self._forget_expired()
        run = self._runs.get(request_id) if isinstance(request_id, str) else None
        return run if run is not None and run.admitted.visitor == visitor else None

    def picture_at(self, address: object, visitor: str) -> SavedPicture | None:
        """This visitor's finished picture that is served at `address`, if there is one."""
        _, is_file, name = address.partition(FILE) if isinstance(address, str) else ("", "", "")
        own = [run for run in self._runs.values() if run.admitted.visitor == visitor] if is_file else []
        name = unquote(name)
        return next((picture for run in own for picture in run.finished if str(picture.path) == name), None)

    def cancel(self, request_id: str) -> None:
        """Frees the run's share of the device at the next step; unknown and finished runs are left alone."""
        run = self._runs.get(request_id)
        if run is not None and not run.is_done:
            self._backend.cancel(run.request_id)

    def cancel_all(self, visitor: str) -> None:
        """Cancels all of this visitor's runs that are in progress."""
        for run in list(self._runs.values()):
            if run.admitted.visitor == visitor:
                self.cancel(run.request_id)

    async def watch(self, run: Run, grace_s: float, every_s: float = 0.1) -> AsyncGenerator[Run]:
        """Yields `run` whenever it changed, at most every `every_s` seconds, and a last time when it is done.

        When the last watcher leaves before that, the run is cancelled unless somebody watches it again in `grace_s`.
        Raises TooManyWatchers where it is watched by as many already as it may be.
        """
        async with aclosing(self.watch_all((run,), grace_s, every_s)) as watched:
            async for _ in watched:
                yield run

    async def watch_all(
        self, runs: Sequence[Run], grace_s: float, every_s: float = 0.1
    ) -> AsyncGenerator[Sequence[Run]]:
        """The same for several at once: yields `runs` whenever one of them changed, until all of them are done."""
        if any(run._watchers >= MAX_WATCHERS for run in runs):
            raise TooManyWatchers(
                Phrase("This run is open in {most} windows already; please close one of them.", most=MAX_WATCHERS)
            )
        for run in runs:
            run._watchers += 1
        try:
            while True:
                changed = [run._changed for run in runs if not run.is_done]
                yield runs
                if not changed:
                    return
                await asyncio.sleep(every_s)
                await _any_of(changed)
        finally:
            for run in runs:
                run._watchers -= 1
                if grace_s:
                    asyncio.get_running_loop().call_later(grace_s, self._cancel_unwatched, run)
                else:
                    self._cancel_unwatched(run)

    def _cancel_unwatched(self, run: Run) -> None:
        if not run._watchers:
            self.cancel(run.request_id)

    async def _consume_updates(self, run: Run, place: Place) -> None:
        outcome: RunOutcome = EngineFailed(BROKEN)
        try:
            async with aclosing(self._backend.generate(run.admitted)) as updates:  # also where saving fails
                async for update in updates:
                    outcome = await self._apply(update, run) or outcome
                    run._notify()
        except SpaceError as error:
            outcome = error
        except Exception as error:
            logger.error(
                "request %s: an update could not be handled:\n%s", run.request_id, traceback_without_message(error)
            )
            outcome = EngineFailed(BROKEN)
            self._backend.cancel(run.request_id)
        finally:
            del place.runs[run.request_id]
            if not place.runs:
                self._capacity.release(place)
            self._store.finish(run.request_id)
            run.admitted = replace(run.admitted, request=run.admitted.request.without_pixels())
            run.outcome = outcome
            run.done_at_s = self._now_s()
            run._notify()
            self._on_done(run, outcome)

    async def _apply(self, update: Update, run: Run) -> RunOutcome | None:
        """Writes down what the backend says of the run, and returns how it ended once it has."""
        match update:
            case Progress():
                done = max(update.fraction_done, run.progress.fraction_done if run.progress else 0.0)
                seconds_left = run._time_left.update(update.seconds_left)
                run.progress = replace(update, fraction_done=done, seconds_left=seconds_left)
            case PictureFinished() if update.of_step is not None and not run.is_shown:
                pass  # drawn again on another device, whose checker has passed the picture
            case PictureFinished():
                saved = await asyncio.to_thread(
                    self._store.save,
                    run.request_id,
                    update.index,
                    update.image,
                    run.admitted.request,
                    run.info,
                    run.embed_recipe,
                    update.of_step,
                )
                if update.of_step is None:
                    run.pictures[update.index] = saved
                else:
                    run.inspected[update.index] = saved
            case GenerationResult():
                if run.admitted.inspection is Inspection.AUTOENCODER:
                    own = self._store, run.request_id, update.images, run.info
                    run.difference = await asyncio.to_thread(save_difference, *own)
                run.info = _drawn_on(update.devices, run.info, self._backend.status())
                return replace(update, images=())  # their pixels are in files by now
            case RequestFailed():
                return update.error
        return None

    def _forget_expired(self) -> None:
        oldest_s = self._now_s() - self._result_ttl_s
        expired = [key for key, run in self._runs.items() if run.is_done and run.done_at_s < oldest_s]
        for key in expired:
            del self._runs[key]


async def _any_of(events: Sequence[asyncio.Event]) -> None:
    """Waits until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _drawn_on(devices: Sequence[str], info: ModelInfo, status: BackendStatus) -> ModelInfo:
    """`info` with what has drawn: `devices` where there are several, and the memory profiles that are in use by now."""
    if not devices:
        return replace(info, memory_profile=status.info.memory_profile) if status.info else info
    profiles = {device.device: device.memory_profile for device in status.devices}
    in_use = dict.fromkeys(profiles.get(device) or info.memory_profile for device in devices)
    return replace(info, device=", ".join(dict.fromkeys(devices)), memory_profile=", ".join(in_use))
