"""Faults that tests put into a running server: each takes what was there and returns what is there instead."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from . import inside

released = threading.Event()  # lets go of what hangs


def raising(
    original: Callable, error: str = "RuntimeError", message: str = "a fault", first: int | None = None
) -> Callable:
    """Raises the error at every call, or at the `first` so many."""
    kind = {"OutOfMemoryError": torch.OutOfMemoryError, "AcceleratorError": torch.AcceleratorError}.get(error)
    kind = kind or getattr(__import__("builtins"), error)
    calls = []

    def raises(*args, **kwargs):
        calls.append(1)
        if first is not None and len(calls) > first:
            return original(*args, **kwargs)
        raise kind(message)

    return raises


def raising_os_error(original: Callable, number: int) -> Callable:
    def raises(*args, **kwargs):
        raise OSError(number, "a fault")

    return raises


def answering(original: Callable, answer: Any) -> Callable:
    return lambda *args, **kwargs: answer


def filled(original: Callable, value: float, share: float = 1.0) -> Callable:
    """The same tensor with `value` in it: in all of it, or in the first `share` of its rows."""

    def fills(*args, **kwargs):
        tensor = original(*args, **kwargs)
        tensor = tensor[0] if isinstance(tensor, tuple) else tensor
        tensor = tensor.clone()
        tensor[: max(1, round(len(tensor) * share))] = value
        return tensor

    return fills


def filled_sample(original: Callable, value: float) -> Callable:
    """A model's answer, a tuple of one tensor, filled with `value`."""
    return lambda *args, **kwargs: (torch.full_like(original(*args, **kwargs)[0], value),)


def hanging(original: Callable) -> Callable:
    def hangs(*args, **kwargs):
        released.wait(60)
        return original(*args, **kwargs)

    return hangs


def let_go() -> None:
    released.set()


def slow(original: Callable, seconds: float) -> Callable:
    def waits(*args, **kwargs):
        time.sleep(seconds)
        return original(*args, **kwargs)

    return waits


def pausing(original: Callable, at: int, page: int) -> Callable:
    """Stops the engine's process and the page's within that call, which goes on for a while once they may continue."""
    calls = []

    def pauses(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            for pid in (page, os.getpid()):
                os.kill(pid, signal.SIGSTOP)
            time.sleep(2.0)  # in which whoever waits for the step looks at the clock
        return original(*args, **kwargs)

    return pauses


def value(original: Any, new: Any) -> Any:
    return new


def hold() -> None:
    released.clear()


def no_step_was_slow() -> None:
    """What counts as a hang goes by the slowest step so far."""
    inside.live("Heartbeat")._slowest_step_s = 0.0


def raising_when_shared(original: Callable) -> Callable:
    """A step of several rows fails, one of a single row does not."""

    def raises(denoiser, states):
        if len(states) > 1:
            raise RuntimeError("a fault")
        return original(denoiser, states)

    return raises


def spoiling(original: Callable, seed: int, value: float) -> Callable:
    """The latents of the picture with that seed turn into `value` after a step."""

    def spoils(denoiser, states):
        errors = original(denoiser, states)
        for state in states:
            if state.generator.initial_seed() == seed:
                state.latents = torch.full_like(state.latents, value)
        return errors

    return spoils


def succeeding(original: Callable) -> Callable:
    return lambda *arguments, **options: True


def expire_after(seconds: float) -> None:
    """Results are kept so long from now on; the app takes no less than ten seconds for a setting."""
    inside.live("ResultStore")._ttl_s = inside.live("Runs")._result_ttl_s = seconds


def deleting_after_the_first(original: Callable) -> Callable:
    """The run's folder is gone once its first picture is in it."""

    def saves(store, request_id, index, *args):
        picture = original(store, request_id, index, *args)
        if index == 0:
            shutil.rmtree(picture.path.parent)
        return picture

    return saves
