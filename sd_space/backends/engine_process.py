"""A process around one engine: what it receives goes to the engine's thread, and what that says goes back.

It ends when it is asked to, and when the process that has started it is gone.
"""

import contextlib
import ctypes
import gc
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from sd_space.backends.engine_thread import EngineThread
from sd_space.backends.loading import has_nvidia_driver, num_gpus
from sd_space.backends.outbox import Outbox
from sd_space.errors import SpaceError
from sd_space.logs import set_up_logs
from sd_space.process_memory import freeze_gc, tune_malloc
from sd_space.schema import AdmittedRequest, BackendStatus, PromptTokenizer, Update
from sd_space.settings import Settings

LOOK_S = 0.1  # how often the engine's state is looked at
BEAT_S = 1.0  # the longest time between two reports of it


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the process; what is being drawn is cancelled."""


@dataclass(frozen=True, slots=True)
class Report:
    """The engine's state. `num_gpus` is how many the process sees, 0 while that is not known.

    The first report of an engine that is ready has the model's tokenizer.
    """

    status: BackendStatus
    num_gpus: int = 0
    tokenizer: PromptTokenizer | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A request is over without a result, because its engine is."""

    request_id: str
    error: SpaceError


Message = Update | Report | Ended


@dataclass(frozen=True, slots=True)
class _Stream:
    """Carries a request's updates into the pipe, for `EngineThread`."""

    admitted: AdmittedRequest
    outbox: Outbox[Message]

    def send(self, update: Update | SpaceError) -> bool:
        self.outbox.put(Ended(self.admitted.request_id, update) if isinstance(update, SpaceError) else update)
        return True


def run(connection: Connection, settings: Settings, environ: Mapping[str, str]) -> None:
    """The life of the process. `environ` is set first: which device it sees is read when torch is imported."""
    os.environ.update(environ)
    _end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends them to all; the parent decides about the end
        signal.signal(number, signal.SIG_IGN)
    set_up_logs()
    if not has_nvidia_driver():
        tune_malloc()
    gc.disable()  # nearly all that loading makes lives on
    engine, outbox = EngineThread(settings), Outbox[Message](connection)
    engine.start()
    threading.Thread(target=_report, args=(engine, outbox), daemon=True).start()
    _receive(connection, engine, outbox)
    outbox.close(1.0)
    os._exit(0)  # an interpreter that ends while a thread computes may crash


def _end_with_parent() -> None:
    """On Linux: also while this process is stopped or hangs, so that it cannot see the end of the pipe."""
    pr_set_pdeathsig = 1  # prctl.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _report(engine: EngineThread, outbox: Outbox[Message]) -> None:
    """Reports the engine's state whenever it has changed, and once in `BEAT_S`."""
    last, sent_s, is_frozen, tokenizer = None, 0.0, False, None
    while True:
        status = engine.status()
        if not is_frozen and status.is_ready:
            freeze_gc()
            is_frozen, tokenizer = True, engine.tokenizer()
        if status != last or time.monotonic() - sent_s >= BEAT_S:
            outbox.put(Report(status, num_gpus() if status.is_ready else 0, tokenizer))
            last, sent_s, tokenizer = status, time.monotonic(), None
        time.sleep(LOOK_S)


def _receive(connection: Connection, engine: EngineThread, outbox: Outbox[Message]) -> None:
    """Passes on what comes until the process is to end, which it is too when the other end of the pipe is gone."""
    while True:
        try:
            message: AdmittedRequest | Cancel | Close = connection.recv()
        except (EOFError, OSError):
            return
        match message:
            case AdmittedRequest():
                try:
                    engine.submit(_Stream(message, outbox))
                except SpaceError as error:
                    outbox.put(Ended(message.request_id, error))
            case Cancel(request_id):
                engine.cancel(request_id)
            case Close():
                return
