"""The engine's process on one device: starts it, watches it, and starts another when it is lost."""

import atexit
import logging
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from sd_space.backends import engine_process
from sd_space.backends.engine_process import Cancel, Close, Ended, Report
from sd_space.backends.engine_thread import BROKEN
from sd_space.backends.outbox import Outbox
from sd_space.backends.replicas import ReplicaLost
from sd_space.backends.update_stream import UpdateStream
from sd_space.devices import Device, DeviceState
from sd_space.errors import ModelUnavailable, SpaceError
from sd_space.languages import Phrase
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    PromptTokenizer,
    RequestFailed,
    Stage,
    Update,
)
from sd_space.settings import Settings

logger = logging.getLogger(__name__)

CONTEXT = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
LOOK_S = 0.25
SILENT_S = 20.0  # without a report for this long, a process that is ready counts as hung
SILENT_LOADING_S = 180.0  # and one that still imports or loads, which may hold the interpreter's lock
PAUSES_S = (0.0, 1.0, 4.0, 15.0, 60.0)  # before another start, after so many that never became ready
STOP_S = 1.5  # that a process gets to end by itself, or to be gone once it is killed
RESTARTING = Phrase("The model is started again after a fault; please try again in a minute.")


class EngineSlot:
    """Owns one device's process. All methods without an underscore may be called from any thread.

    `environ` is what the process has in its environment beside ours, such as the device that it sees. `on_gpus` is
    called once, with how many GPUs it sees, where there are any.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        now_s: Callable[[], float],
        on_gpus: Callable[[int], None] | None = None,
    ):
        self._settings = replace(settings, secret=None)
        self._environ = environ
        self._now_s = now_s
        self._on_gpus = on_gpus
        self._thread = threading.Thread(target=self._supervise, name="engine process", daemon=True)
        self._closing = threading.Event()
        self._process: BaseProcess | None = None
        self._heard_s, self._was_ready = 0.0, False  # of the present process
        self._lock = threading.Lock()  # guards all that follows; held for moments only
        self._outbox: Outbox[AdmittedRequest | Cancel | Close] | None = None
        self._streams: dict[str, UpdateStream] = {}  # of all unfinished requests, by request_id
        self._status = BackendStatus(Stage.STARTING)
        self._tokenizer: PromptTokenizer | None = None
        self._starts = 0
        self._restarts: Counter[str] = Counter()
        atexit.register(self._kill)  # else the interpreter waits for it, which ends only after us

    def start(self) -> None:
        """Starts the process and its watch; returns at once."""
        self._thread.start()

    @property
    def load(self) -> int:
        """How many requests are unfinished."""
        return len(self._streams)

    @property
    def is_up(self) -> bool:
        """Whether requests can be sent: the process runs, though its model may still be loading."""
        return self._outbox is not None

    @property
    def source_id(self) -> str:
        """Differs for each process, also for those that replace one another."""
        return f"{id(self)}-{self._starts}"

    def status(self) -> BackendStatus:
        with self._lock:
            return self._status

    def device(self) -> Device:
        """What is known of the device, which has no name before the model is loaded."""
        with self._lock:
            status, is_first = self._status, not self._restarts
        states = {Stage.READY: DeviceState.READY, Stage.FAILED: DeviceState.FAILED}
        state = states.get(status.stage, DeviceState.STARTING if is_first else DeviceState.RESTARTING)
        return replace(*status.devices, state=state) if status.devices else Device("", state)

    def tokenizer(self) -> PromptTokenizer | None:
        """The model's, from the first time on that it was ready."""
        return self._tokenizer

    def restarts(self) -> Mapping[str, int]:
        """How often a process was lost and replaced, by reason."""
        with self._lock:
            return dict(self._restarts)

    def submit(self, stream: UpdateStream) -> None:
        """Raises ReplicaLost where there is no process at the moment."""
        with self._lock:
            if self._outbox is None:
                raise ReplicaLost("it is not up")
            self._streams[stream.admitted.request_id] = stream
            self._outbox.put(stream.admitted)

    def cancel(self, request_id: str) -> None:
        """Frees the request's rows at the next step; ignores finished and unknown requests."""
        with self._lock:
            if self._streams.pop(request_id, None) is not None and self._outbox is not None:
                self._outbox.put(Cancel(request_id))

    def close(self) -> None:
        """Begins to end the process; `join` waits for it."""
        self._closing.set()
        with self._lock:
            if self._outbox is not None:
                self._outbox.put(Close())

    def join(self) -> None:
        """Ends the process, by force if it does not end by itself, and joins the thread."""
        if self._thread.ident is not None:
            self._thread.join(2 * STOP_S)

    def _kill(self) -> None:
        self._closing.set()
        if self._process is not None and self._process.exitcode is None:
            self._process.kill()

    # What follows runs in the slot's thread.

    def _supervise(self) -> None:
        in_vain = 0  # starts that never became ready
        while not self._closing.is_set():
            process, connection = self._launch()
            reason = self._watch(process, connection)
            in_vain = 0 if self._was_ready else in_vain + 1
            is_given_up = in_vain == len(PAUSES_S)
            if self._closing.is_set():
                reason = None
            if reason is not None:
                self._take_loss(reason, is_given_up)
            self._end(process, connection, reason or "closed")
            if reason is None or is_given_up:
                return
            self._closing.wait(PAUSES_S[in_vain])

    def _take_loss(self, reason: str, is_given_up: bool) -> None:
        """Tells what has become of the process, before its requests hear of it."""
        logger.error("the engine's process was lost: %s", reason)
        with self._lock:
            if is_given_up:
                self._status = BackendStatus(Stage.FAILED, reason=BROKEN)
            else:
                self._status = BackendStatus(Stage.STARTING, reason=RESTARTING)
                self._restarts[reason] += 1

    def _launch(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=engine_process.run,
            args=(theirs, self._settings, self._environ),
            name="sd_space engine",
            daemon=True,
        )
        process.start()
        theirs.close()
        self._heard_s, self._was_ready = self._now_s(), False
        with self._lock:
            self._process, self._outbox, self._starts = process, Outbox(ours), self._starts + 1
        return process, ours

    def _watch(self, process: BaseProcess, connection: Connection) -> str | None:
        """Passes on what the process says until it is lost; why, or `None` where there is to be no other one."""
        while not self._closing.is_set():
            try:
                if connection.poll(LOOK_S):
                    message = connection.recv()
                    self._heard_s = self._now_s()
                    if self._was_ready and _is_end(message):
                        return "failed"
                    if isinstance(message, Report):
                        self._take_report(message)
                    else:
                        self._pass_on(message)
            except (EOFError, OSError):
                process.join(STOP_S)
                return "killed" if process.exitcode == -9 else "crashed"
            if self._status.stage is Stage.FAILED:
                return None
            if self._now_s() - self._heard_s > (SILENT_S if self._was_ready else SILENT_LOADING_S):
                return "hung"
        return None

    def _take_report(self, report: Report) -> None:
        self._tokenizer = report.tokenizer or self._tokenizer
        self._set(report.status)
        self._was_ready |= report.status.is_ready
        if report.num_gpus and self._on_gpus is not None:
            self._on_gpus(report.num_gpus)
            self._on_gpus = None

    def _pass_on(self, message: Update | Ended) -> None:
        """To its caller."""
        is_over = isinstance(message, Ended | GenerationResult | RequestFailed)
        update: Update | SpaceError = message.error if isinstance(message, Ended) else message
        with self._lock:
            streams = self._streams
            stream = streams.pop(message.request_id, None) if is_over else streams.get(message.request_id)
        if stream is not None and not stream.send(update):
            self.cancel(message.request_id)

    def _set(self, status: BackendStatus) -> None:
        with self._lock:
            self._status = status

    def _end(self, process: BaseProcess, connection: Connection, reason: str) -> None:
        """Ends the process for certain; its requests are lost."""
        with self._lock:
            outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.close()
        if self._closing.is_set():
            process.join(STOP_S)
        if process.exitcode is None:
            process.kill()
            process.join(STOP_S)
        connection.close()
        with self._lock:
            streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.send(ReplicaLost(reason))


def _is_end(message: Update | Ended | Report) -> bool:
    """Whether an engine that was ready is lost by what it says: it draws nothing more, whatever is asked of it."""
    match message:
        case Report(status):
            return status.stage is Stage.FAILED
        case Ended(_, error):
            return isinstance(error, ModelUnavailable)
    return False
