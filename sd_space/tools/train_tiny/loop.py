"""The loop that every stage runs in: seeded by the step's number, saved every few minutes, resumed where it stopped."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

SAVE_EVERY_S = 240.0


def save_atomically(value: Any, path: Path) -> None:
    """`torch.save` beside `path`, then a rename: a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(value, scratch)
    os.replace(scratch, path)


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def in_bfloat16(device: str) -> torch.autocast:
    """Autocast; without effect on a CPU that has no instructions for bfloat16, where it would be slower."""
    is_fast = device != "cpu" or (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_fast)


def step_rng(seed: int, stage: str, step: int) -> np.random.Generator:
    """The whole randomness of one training step: whoever resumes at `step` draws what an unbroken run draws."""
    return np.random.default_rng([seed, *stage.encode(), step])


def train(
    stage: str,
    path: Path,
    parts: dict[str, Any],
    step: Callable[[int, np.random.Generator], float],
    *,
    seed: int,
    steps: int | None = None,
    minutes: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> int:
    """Calls `step(number, rng) -> loss` until `steps` are done or `minutes` have passed; returns the step reached.

    `parts` (anything with `state_dict` and `load_state_dict`) are restored from `path` first, and saved there every
    `save_every_s` seconds, at the end, and on SIGTERM or Ctrl-C, which end the program after the step under way.
    """
    done = 0
    losses: list[list[float]] = []  # [step, mean loss since the entry before]
    if path.exists():
        saved = load(path)
        if steps is not None and saved["step"] >= steps:
            return saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        done, losses = saved["step"], saved["losses"]

    recent: list[float] = []

    def save() -> None:
        if recent:
            losses.append([float(done), float(np.mean(recent))])
            recent.clear()
        state = {name: part.state_dict() for name, part in parts.items()}
        save_atomically({"parts": state, "step": done, "seed": seed, "losses": losses}, path)

    started = saved_at = time.monotonic()
    with (
        _stopped_by_signals() as stopped,
        tqdm(total=steps, initial=done, desc=stage, mininterval=10, unit="step", dynamic_ncols=True) as bar,
    ):
        while not stopped.is_set() and (steps is None or done < steps):
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                break
            recent.append(step(done, step_rng(seed, stage, done)))
            done += 1
            bar.update()
            if done % 25 == 0:
                bar.set_postfix(loss=f"{np.mean(recent[-100:]):.4f}", refresh=False)
            if time.monotonic() - saved_at > save_every_s:
                save()
                saved_at = time.monotonic()
        save()
    if stopped.is_set():
        raise SystemExit(f"{stage}: stopped, saved at step {done}")
    return done


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, clipped: torch.nn.Module | None = None) -> float:
    """Takes one step of `optimizer` and returns the loss; the gradient of `clipped` is cut to a norm of 1 at most."""
    optimizer.zero_grad()
    loss.backward()
    if clipped is not None:
        torch.nn.utils.clip_grad_norm_(clipped.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Is set by SIGTERM and Ctrl-C for as long as the block runs, in place of what they do otherwise."""
    stopped = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Average:
    """An exponential moving average of a module's weights, short-sighted at first: min(decay, (1 + n) / (10 + n))."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.module, self.decay, self.count = module, decay, 0
        self.weights = {name: weight.detach().clone() for name, weight in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, weight in self.module.state_dict().items():
            self.weights[name].lerp_(weight, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        for name, weight in state["weights"].items():
            self.weights[name].copy_(weight)
