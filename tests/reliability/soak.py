"""Thousands of visits to one server, and what grows: ``python -m tests.reliability.soak --generations 10000``.

Prints a line at every hundredth part, then the slope of its memory (least squares, after a tenth as warm-up), and as
its last line one JSON object. One visit in twenty asks for something that is refused, one leaves while its picture is
drawn, and one never listens.
"""

import argparse
import asyncio
import gc
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import inside
from .crowd import CALL, Crowd, take_turns
from .rig import Rig, Rigs
from .visitor import QUICK, Answer, Visitor

PICTURE_BOOK = Path(__file__).parents[2] / "sd_space" / "tiny"
AT_ONCE = 4
TTL_S = 10
ENVIRON = {"SD_SPACE_RESULT_TTL_S": str(TTL_S), "SD_SPACE_MAX_PER_VISITOR": "100", "SD_SPACE_MAX_QUEUE": "100"}


@dataclass(frozen=True)
class Sample:
    """A server after so many visits, as the operating system sees it."""

    visits: int
    seconds: float
    rss_mb: float
    open_files: int
    threads: int
    result_files: int


def sample(rig: Rig, visits: int, began_s: float) -> Sample:
    process = Path(f"/proc/{rig.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    return Sample(
        visits,
        round(time.monotonic() - began_s, 1),
        pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        len(files_of(rig)),
    )


def files_of(rig: Rig) -> list[Path]:
    """Everything in the server's temporary folder, results and their folders included, but the folder of them all."""
    walked = os.walk(rig.folder)  # `rglob` minds that folders go meanwhile
    paths = [Path(folder, name) for folder, folders, files in walked for name in (*folders, *files)]
    served = next(rig.results.glob("*/results"), rig.results)
    return [path for path in paths if path not in (rig.results, served, *served.parent.glob(".*"), served.parent)]


def slope_mb(samples: list[Sample]) -> float:
    """Least squares: MB of resident memory for each 1,000 visits."""
    x = torch.tensor([[s.visits / 1000, 1.0] for s in samples], dtype=torch.float64)
    y = torch.tensor([[s.rss_mb] for s in samples], dtype=torch.float64)
    return float(torch.linalg.lstsq(x, y).solution[0])


def assert_drawn(answer: Answer, number: int) -> None:
    assert answer.is_complete and answer.data[1]["images"][0]["seed"] == number, answer


async def visit(crowd: Crowd, token: str, number: int) -> None:
    """One visitor, in a session of its own."""
    values = QUICK | {"seed": number, "acceptance_token": token}
    kind = number % 20
    if kind == 5:
        answer = await crowd.call("generate", values | {"seed": -9})
        assert answer.event == "error" and "-9" in answer.sentence, answer
    elif kind in (10, 15):
        posted = await crowd.send("POST", f"{CALL}/v2/generate", values)
        assert posted.status == 200, posted
        if kind == 10:  # leaves at the first word
            await crowd.events(f"{CALL}/generate/{json.loads(posted.body)['event_id']}", posted, lambda line: True)
    else:
        assert_drawn(await crowd.call("generate", values), number)


async def visits(rig: Rig, token: str, numbers: range) -> None:
    crowd = Crowd(rig.url)
    await take_turns(lambda number: visit(crowd, token, number), numbers, AT_ONCE)


def gradio_census() -> dict[str, int]:
    """In the server's process: how much is in everything of Gradio's that could grow with visits."""
    gc.collect()
    queue = inside.gradio_queue()
    app = queue.server_app
    held = {
        "messages": queue.pending_messages_per_session,
        "event ids": queue.pending_event_ids_session,
        "events": queue.event_ids_to_events,
        "events on record": queue.event_analytics,
        "iterators": app.iterators,
        "cancelled iterators": app.iterators_to_reset,
        "session states": app.state_holder.session_data,
    }
    return {name: len(what) for name, what in held.items()} | {"objects": len(gc.get_objects())}


def census() -> dict[str, int]:
    """The same, and what is in our own."""
    runs = inside.live("Runs")
    held = {
        "runs": runs._runs,
        "places": inside.live("Capacity")._places,
        "consumers": runs._consumers,
        "result folders": inside.live("ResultStore")._results,
        "update streams": inside.live("EngineSlot")._streams,
        "streams": inside.live("EventStreams")._closed,
    }
    return gradio_census() | {name: len(what) for name, what in held.items()}


def seconds_until_gone(rig: Rig, ttl_s: float = TTL_S) -> float | None:
    """Until nothing that visitors left is on the disk any more, or `None` if it outlives its time."""
    began_s = time.monotonic()
    while files_of(rig):
        if time.monotonic() - began_s > 2.5 * ttl_s:
            return None
        time.sleep(0.05)
    return time.monotonic() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rigs = Rigs(Path(folder), PICTURE_BOOK)
        try:
            soak(rigs.start(**ENVIRON), arguments.generations)
        finally:
            rigs.close()


def soak(rig: Rig, generations: int) -> None:
    visitor = Visitor(rig.url)
    token = visitor.token()
    samples, began_s, part = [], time.monotonic(), max(1, generations // 100)
    for first in range(0, generations, part):
        numbers = range(first, min(first + part, generations))
        asyncio.run(visits(rig, token, numbers))
        samples.append(sample(rig, numbers.stop, began_s))
        print(*(f"{name} {value:g}" for name, value in asdict(samples[-1]).items()), sep="  ", flush=True)
    rig.wait_for(timeout_s=5)
    gone_s = seconds_until_gone(rig)
    visitor.generate(acceptance_token=token)
    after = [s for s in samples if s.visits > generations / 10]
    figures = {
        "visits": generations,
        "seconds": samples[-1].seconds,
        "rss_mb_per_1000": round(slope_mb(after), 2),
        "rss_mb": [round(after[0].rss_mb, 1), round(after[-1].rss_mb, 1)],
        "open_files": [min(s.open_files for s in after), max(s.open_files for s in after)],
        "threads": [min(s.threads for s in after), max(s.threads for s in after)],
        "most_result_files": max(s.result_files for s in after),
        "files_gone_after_s": gone_s and round(gone_s, 1),
        "ttl_s": TTL_S,
        "left": rig.do(census),
    }
    print(f"{figures['rss_mb_per_1000']:+.2f} MB of memory for 1,000 visits after the first {generations // 10}.")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
