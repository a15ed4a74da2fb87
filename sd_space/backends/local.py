"""Draws on this machine: an engine in a process of its own for each device."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

from sd_space.backends import STOPPED
from sd_space.backends.engine_slot import EngineSlot
from sd_space.backends.loading import has_nvidia_driver
from sd_space.backends.replicas import ReplicatedBackend, shortest
from sd_space.backends.totals import UNetCallTotals
from sd_space.backends.update_stream import UpdateStream
from sd_space.devices import Device
from sd_space.errors import ModelUnavailable
from sd_space.lived_time import LivedTime
from sd_space.schema import AdmittedRequest, BackendStatus, PictureFinished, PromptTokenizer, Stage, Update
from sd_space.settings import Settings

LOOK_S = 0.05  # how often a request looks for an engine while none is up
_STATES = {Stage.READY: "running", Stage.FAILED: "failed"}  # of an engine; any other is "starting"
_ORDER = tuple(Stage)  # of loading, from the first to the last


class LocalBackend(ReplicatedBackend):
    """Implements `backends.Backend` on engine processes."""

    def __init__(self, settings: Settings):
        super().__init__(EngineProcesses(settings))


class EngineProcesses:
    """Implements `backends.replicas.Replicas`."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._lived_s = LivedTime()  # a page that was paused has not lost its engines
        self._lock = threading.Lock()  # guards all that follows; held for moments only
        self._is_stopped = False
        self._totals = UNetCallTotals()
        self._ready_s = self._lived_s()  # when an engine was last known to be ready
        self._slots = [self._slot(number) for number in range(_num_at_first(settings))]

    def _slot(self, number: int) -> EngineSlot:
        environ = _environ(self._settings, number)
        return EngineSlot(self._settings, environ, self._lived_s, on_gpus=self._add_slots if number == 0 else None)

    def _add_slots(self, num_gpus: int) -> None:
        """Once the first engine has counted the GPUs: one more engine for each other that is to be used."""
        with self._lock:
            most = num_gpus if self._settings.devices == "all" else min(num_gpus, _count(self._settings))
            new = [] if self._is_stopped else [self._slot(number) for number in range(len(self._slots), most)]
            self._slots += new
        for slot in new:
            slot.start()

    def start(self) -> None:
        """Starts the processes; returns at once."""
        self._lived_s.start()
        for slot in self._slots:
            slot.start()

    def status(self) -> BackendStatus:
        """The state of the engine that has come furthest, with the counts of all."""
        with self._lock:
            found = [(slot.source_id, slot.status(), slot.restarts()) for slot in self._slots]
            devices = tuple(self._device(number) for number in range(len(self._slots)))
            for source_id, status, _ in found:
                self._totals.update(source_id, status.unet_calls)
            furthest = max((status for _, status, _ in found), key=_progress)
            if furthest.is_ready:
                self._ready_s = self._lived_s()
            status = replace(
                furthest,
                replicas=Counter(_STATES.get(status.stage, "starting") for _, status, _ in found),
                running=sum(status.running for _, status, _ in found),
                outlook_s=shortest(status.outlook_s for _, status, _ in found if status.is_ready),
                unet_calls=self._totals.total(),
                restarts=sum((Counter(restarts) for _, _, restarts in found), Counter()),
                devices=devices,
            )
            return replace(status, stage=Stage.STOPPED, reason=STOPPED) if self._is_stopped else status

    def tokenizer(self) -> PromptTokenizer | None:
        """See `Replicas.tokenizer`."""
        return next((tokenizer for slot in self._slots if (tokenizer := slot.tokenizer())), None)

    async def stream(self, admitted: AdmittedRequest) -> AsyncGenerator[Update]:
        """See `Replicas.stream`."""
        while (slot := self._least_busy()) is None:
            await asyncio.sleep(LOOK_S)
        stream = UpdateStream(admitted, asyncio.get_running_loop())
        slot.submit(stream)
        device = self._device(self._slots.index(slot)).device if len(self._slots) > 1 else ""
        try:
            async for update in stream:
                yield replace(update, device=device) if isinstance(update, PictureFinished) else update
        finally:
            slot.cancel(admitted.request_id)

    def _least_busy(self) -> EngineSlot | None:
        """One that is ready, else one that loads. Raises ModelUnavailable where none can come up any more."""
        status = self.status()
        if status.stage is Stage.FAILED:
            raise ModelUnavailable(status.reason)
        up = [slot for slot in self._slots if slot.is_up]
        return min(up, key=lambda slot: (not slot.status().is_ready, slot.load), default=None)

    def _device(self, number: int) -> Device:
        """The device of an engine, with a number in its name where there are several."""
        device = self._slots[number].device()
        kind = device.device or ("cpu" if _is_without_gpu(self._settings) else "cuda")
        name = kind if len(self._slots) == 1 else f"{kind}:{_index(self._settings, number)}"
        return replace(device, device=name)

    def now_s(self) -> float:
        return self._lived_s()

    def seconds_without_replica(self, since_s: float) -> float:
        """See `Replicas`."""
        return self._lived_s() - max(self._ready_s, since_s)

    def stop(self) -> None:
        """See `Replicas`."""
        with self._lock:
            self._is_stopped = True

    def leave(self) -> None:
        """Ends the processes."""
        for slot in self._slots:
            slot.close()
        for slot in self._slots:
            slot.join()
        self._lived_s.stop()


def _progress(status: BackendStatus) -> int:
    return -1 if status.stage is Stage.FAILED else _ORDER.index(status.stage)


def _count(settings: Settings) -> int:
    """How many engines `settings.devices` asks for: a number, or as many as its list has; 1 for `all`."""
    if "," in settings.devices:
        return len(_list(settings))
    return 1 if settings.devices == "all" else int(settings.devices)


def _list(settings: Settings) -> list[str]:
    return [number for number in settings.devices.split(",") if number]


def _num_at_first(settings: Settings) -> int:
    """How many engines can be started before it is known how many GPUs there are."""
    return _count(settings) if _is_without_gpu(settings) or "," in settings.devices else 1


def _index(settings: Settings, number: int) -> int:
    """Of an engine's device among those that are there."""
    return int(_list(settings)[number]) if "," in settings.devices else number


def _is_without_gpu(settings: Settings) -> bool:
    return settings.device in ("cpu", "mps") or not has_nvidia_driver()


def _environ(settings: Settings, number: int) -> dict[str, str]:
    """What makes an engine's process see its own device alone, or take its share of the cores."""
    if _is_without_gpu(settings):
        threads = str(max(1, (os.cpu_count() or 1) // _count(settings)))
        return {} if _count(settings) == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
    if settings.devices == "all" and number == 0:
        return {}  # it counts them, and uses the first
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    index = _index(settings, number)
    name = visible[index] if index < len(visible) and visible != [""] else str(index)
    return {"CUDA_VISIBLE_DEVICES": name}
