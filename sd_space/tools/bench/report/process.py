"""One part in a process of its own: with a limit that holds whatever it does, and why it ended in one line."""

import contextlib
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

DONE, CUT_SHORT, FAILED, LEFT_OUT = "done", "cut short", "failed", "left out"
LONGEST_REASON = 300
TERM_S, KILL_S = 1.0, 5.0  # how long an end is waited for; what sits in the kernel may never come


@dataclass(frozen=True, slots=True)
class Ending:
    """How a part ended, and why in one line; `text` is what it printed for people."""

    ended: str
    reason: str = ""
    text: str = ""


def run(command: list[str], limit_s: float, log: Path, errors: Path) -> Ending:
    """Runs `command` for at most `limit_s`, adding what it prints to `log` and `errors`. All that it began ends too."""
    with log.open("ab") as out, errors.open("ab") as err:
        out_from, err_from = out.seek(0, os.SEEK_END), err.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,  # so that what it begins can be ended with it
        )
        status = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(limit_s)
        finally:
            end(process)
    printed, complaints = _text(log, out_from), _text(errors, err_from)
    text = "\n".join(line for line in printed.splitlines() if not line.startswith('{"'))
    if status == 0:
        return Ending(DONE, "", text)
    if status is None or "Timeout (" in complaints:  # the latter is faulthandler's word
        return Ending(CUT_SHORT, f"did not end within {limit_s:.0f} s{place_of(complaints)}", text)
    return Ending(FAILED, reason_of(status, complaints), text)


def end(process: subprocess.Popen) -> None:
    """Ends the process if it has not ended, and all of its group."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TERM_S)
    _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_S)


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def place_of(complaints: str) -> str:
    """Where faulthandler saw the main thread, which it tells last and from the innermost call on: ours, if any is."""
    thread = complaints.rpartition("(most recent call first)")[2]
    calls = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', thread)
    if not calls:
        return ""
    file, line, function = next((call for call in calls if "sd_space" in call[0]), calls[0])
    return f"; it was in {function}, {Path(file).name}:{line}"


def reason_of(status: int, complaints: str) -> str:
    if status < 0:
        hint = "; the machine may have had no memory left" if status == -getattr(signal, "SIGKILL", 9) else ""
        return f"was ended by {signal.Signals(-status).name}{hint}"
    said = [line.strip() for line in complaints.splitlines() if line.strip()]
    return (said[-1] if said else f"ended with status {status} and no word")[:LONGEST_REASON]


def _text(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read().decode("utf-8", "replace")
