"""A report as it grows: begins parts while the budget lasts, and saves all that is known after each."""

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sd_space.tools.bench.figures import plain, print_table, save
from sd_space.tools.bench.report.parts import MACHINE, Part
from sd_space.tools.bench.report.process import CUT_SHORT, DONE, FAILED, LEFT_OUT, Ending, run
from sd_space.tools.bench.report.summary import summary_of

COLUMNS = ("part", "ended", "s", "why")
USUAL_S, USUAL_ON_CUDA_S = 10.0, 23.0  # of the part `machine`, most of it imports
MARGIN_S = 2.0  # between the moment at which a part is to end itself, and the one at which it is ended


class Session:
    """Owns `folder`. `command` is what runs a part: where it keeps its figures and when it ends are handed in."""

    def __init__(
        self,
        folder: Path,
        budget_s: float,
        command: Callable[[Part, Path, float], list[str]],
        now_s: Callable[[], float] = time.monotonic,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._command = command
        self._now_s = now_s
        self._began_s = now_s()
        self._budget_s = budget_s
        self.report: dict[str, Any] = {
            "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "budget_s": budget_s,
            "is_finished": False,
            "parts": [],
        }
        for name in ("report.log", "report.md", "errors.log", "running.json"):
            (folder / name).unlink(missing_ok=True)
        self._save()

    @property
    def left_s(self) -> float:
        return self._budget_s - (self._now_s() - self._began_s)

    def measure_all(self, parts: Sequence[Part]) -> None:
        """Measures `parts` in their order, so that each leaves to the next ones what these need at least.

        On a machine that is busy with other things they need more, and only the first of them can be had.
        """
        if sum(part.needs_s for part in parts) > self.left_s:
            parts = [part.shortened for part in parts]
        slowness = max([1.0, *(one["seconds"] / _usual_s(one) for one in self._parts if one["name"] == MACHINE.name)])
        for number, part in enumerate(parts, start=1):
            taken_s = slowness * part.needs_s
            for later in parts[number:]:
                if taken_s + slowness * later.needs_s <= self.left_s:
                    taken_s += slowness * later.needs_s
            self.measure(part, reserved_s=taken_s - slowness * part.needs_s)

    def measure(self, part: Part, reserved_s: float = 0.0) -> dict[str, Any]:
        """The figures of `part`, whole or as far as it came; none when it had none or was not begun."""
        left_s = self.left_s
        if left_s < part.needs_s:
            self.leave_out(part.name, f"takes {part.needs_s:.0f} s at least, and {max(0.0, left_s):.0f} s were left")
            return {}
        limit_s = min(part.most_s, max(part.needs_s, left_s - reserved_s))
        running = self._folder / "running.json"
        command = self._command(part, running.resolve(), max(1.0, limit_s - MARGIN_S))
        print(f"\n## {part.name}: {part.shows}\n", flush=True)
        began_s = self._now_s()
        ending = Ending(CUT_SHORT, "the report itself was ended")
        try:
            ending = run(command, limit_s, self._folder / "report.log", self._folder / "errors.log")
        except OSError as error:
            ending = Ending(FAILED, f"could not be begun: {type(error).__name__}")
        finally:
            figures = self._taken(running)
            self._note(part.name, ending, self._now_s() - began_s, limit_s, command, figures)
        if ending.text:
            print(ending.text, flush=True)
        if ending.ended != DONE:
            print(f"{part.name}: {ending.ended}, {ending.reason}", flush=True)
        return figures

    def leave_out(self, name: str, reason: str) -> None:
        self._note(name, Ending(LEFT_OUT, reason))

    def finish(self) -> None:
        self.report["is_finished"] = True
        self._save()

    def print_table(self) -> None:
        print()
        print_table(COLUMNS, [[one[name] for name in ("name", "ended", "seconds", "reason")] for one in self._parts])
        print(f"\n{summary_of(self.report)}")
        print(f"Everything is in {self._folder / 'report.json'}.", flush=True)

    @property
    def _parts(self) -> list[dict[str, Any]]:
        return self.report["parts"]

    @staticmethod
    def _taken(running: Path) -> dict[str, Any]:
        """What a part has left in the file for its figures, which is then gone."""
        figures: Any = {}
        with contextlib.suppress(OSError, ValueError):
            figures = json.loads(running.read_text(encoding="utf-8"))
        running.unlink(missing_ok=True)
        return figures if isinstance(figures, dict) else {}

    def _note(
        self,
        name: str,
        ending: Ending,
        seconds: float = 0.0,
        limit_s: float | None = None,
        command: list[str] | None = None,
        figures: dict[str, Any] | None = None,
    ) -> None:
        self._parts.append(
            {
                "name": name,
                "ended": ending.ended,
                "reason": ending.reason,
                "seconds": round(seconds, 1),
                "limit_s": limit_s and round(limit_s, 1),
                "command": command,
                "figures": figures or None,
            }
        )
        self._save()

    def _save(self) -> None:
        self.report["seconds"] = round(self._now_s() - self._began_s, 1)
        save(self._folder / "report.json", plain(self.report))
        with contextlib.suppress(Exception):  # of any type: figures may have any form, and are saved already
            (self._folder / "report.md").write_text(summary_of(plain(self.report)), encoding="utf-8")


def _usual_s(machine: dict[str, Any]) -> float:
    return USUAL_ON_CUDA_S if (machine["figures"] or {}).get("kind") == "cuda" else USUAL_S
