"""The same attempts at `stock_app.py`, as far as they mean anything there: ``python -m tests.reliability.compare``.

Judged more gently than the real app: a refusal must be words of any kind and need not name the field. Prints each
attempt that got through, and a line for each family.
"""

import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from ..tiny_models import save_model_folder
from . import faults, inside, test_gate, test_load, test_safety, test_values
from .crowd import CALL, Crowd, take_turns
from .rig import Rig, Rigs, holds_picture
from .scoreboard import Attempts
from .visitor import FOR_PROGRAMMERS, QUICK, Answer, Visitor

PIPELINE = "diffusers:StableDiffusionPipeline.__call__"
# G: what is not about a token, an endpoint that a stock app does not have, or the status by which ours refuses.
GATE = [f"G{n:02d}" for n in (21, 22, 23, 24, 25, 29, 30, 32, 33, 34, 35, 37, 42, 43, 44, 45)]
# V: about parameters that a stock app does not have; an upload is no malformed value there.
OURS_ALONE = {"an unknown field", "a field named like a method", "an upload"}


def as_stock(values: Any) -> Any:
    """What goes to our endpoints and page, in the form in which it goes to the stock app's."""
    if not isinstance(values, dict):
        return values
    values = {name: value for name, value in values.items() if name not in ("acceptance_token", "scheduler")}
    match values.get("data"):
        case [_, prompt, negative_prompt, pictures, steps, guidance, seed, _, _, "64x64", _]:
            values["data"] = [prompt, negative_prompt, pictures, steps, guidance, seed, 64, 64]
        case data if data == list(QUICK.values()):
            values["data"] = data[:-1]
    return values


class StockVisitor(Visitor):
    """Asks the stock app for what a `Visitor` would ask ours."""

    def send(self, method: str, path: str, **options: Any) -> Answer:
        try:
            if "json" in options:
                options["json"] = as_stock(options["json"])
            elif method == "POST" and "content" in options:
                options["content"] = json.dumps(as_stock(json.loads(options["content"])))
        except (ValueError, RecursionError):
            pass  # it is meant to be no JSON
        try:
            return super().send(method, path, **options)
        except httpx.TransportError:  # after an HTTP 500 the server closes the connection
            return super().send(method, path, **options)


class StockVictim(test_gate.Victim):
    def _notice(self, line: str) -> bool:
        if "process_starts" in line:
            self._is_running.set()
        return False

    def assert_served(self) -> None:
        self._thread.join(20)
        assert self.answer is not None and self.answer.is_complete, "the victim was not served"


def has_picture(answer: Answer) -> bool:
    return holds_picture(answer.body) or any(kind in answer.body for kind in (b".png", b".webp"))


def attempt_gate(rig: Rig, visitor: Visitor, make: Callable) -> None:
    rig.invited = 0
    before = rig.count("asked")
    for answer in make(rig, visitor, ""):
        assert not has_picture(answer), "a picture came"
    while not rig.do(_is_idle):
        time.sleep(0.02)
    assert rig.count("asked") - rig.invited == before, "a picture was begun"


def _is_idle() -> bool:
    return not inside.gradio_queue().event_ids_to_events


def words(answer: Answer) -> str:
    if answer.sentence:
        return answer.sentence
    try:
        return " ".join(str(part["msg"]) for part in json.loads(answer.body)["detail"])
    except (ValueError, KeyError, TypeError):
        return ""


def attempt_value(rig: Rig, visitor: Visitor, make: Callable, names: str) -> None:
    answer = make(rig, visitor, "")
    if answer.status == 200 and not answer.event and b"event_id" in answer.body:
        answer = visitor.events(f"{CALL}/generate/{json.loads(answer.body)['event_id']}", answer)
    if answer.is_complete:
        assert not names, "taken as if it were valid"
        return
    assert answer.status < 500, f"HTTP {answer.status}"
    assert answer.status >= 400 or answer.event == "error", "no end"
    if names:
        assert len(words(answer)) > 5, "no words"
        assert not FOR_PROGRAMMERS.search(words(answer)), "words for programmers"


def _checker() -> Any:
    return inside.live("StableDiffusionPipeline").safety_checker


def _weight(name: str, index: Any, value: float) -> None:
    with torch.no_grad():
        _checker().get_parameter(name)[index] = value


def _no_checker() -> None:
    inside.live("StableDiffusionPipeline").safety_checker = None


def _embedding(value: float) -> None:
    _checker().visual_projection.register_forward_hook(lambda module, args, output: torch.full_like(output, value))


HARMS = {  # S: done to the pipeline of a running app; a picture that comes then was judged by no working checker
    "S01": (_no_checker,),
    "S05": (_weight, "visual_projection.weight", (0, 0), float("nan")),
    "S06": (_weight, "vision_model.post_layernorm.weight", 0, float("inf")),
    "S07": (_weight, "visual_projection.weight", ..., 0.0),
    "S08": (_weight, "concept_embeds_weights", ..., 1.0),
    **{id: (_embedding, value) for id, value in test_safety.EMBEDDINGS.items()},
}
FAULTS = {id: test_safety.FAULTS[id][1:] for id in ("S51", "S52", "S53", "S55")}
FAULTS["S46"] = ("diffusers:UNet2DConditionModel.forward", partial(faults.filled_sample, value=float("nan")))


def attempt_picture(visitor: Visitor) -> None:
    assert not has_picture(visitor.generate()), "a picture came"


class Tally:
    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {}

    def attempt(self, id: str, what: str, make: Callable, *arguments: Any) -> None:
        try:
            make(*arguments)
            reason = ""
        except (AssertionError, httpx.HTTPError, OSError, EOFError, LookupError, TimeoutError) as error:
            reason = str(error).split("\n")[0][:100] or type(error).__name__
        self.held.setdefault(id[0], []).append(not reason)
        if reason:
            print(f"{id} {what}: {reason}", flush=True)

    def line(self) -> str:
        return " · ".join(f"{family} {sum(held)}/{len(held)}" for family, held in self.held.items())


def start(rigs: Rigs) -> Rig:
    rig = rigs.start(program="tests.reliability.stock_app", is_ready=False)
    rig.wait_for("/config", timeout_s=120)
    rig.do(inside.patch, PIPELINE, partial(inside.counted, name="asked"))
    return rig


def chosen(attempts: Attempts, ids: list[str]) -> Iterator:
    return (attempt for attempt in attempts if attempt.id in ids)


def main() -> None:
    test_gate.Visitor, test_gate.Victim = StockVisitor, StockVictim
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        rigs = Rigs(Path(folder), save_model_folder(Path(folder) / "model"))
        try:
            rig = start(rigs)
            visitor = StockVisitor(rig.url)
            assert visitor.generate().is_complete, "the stock app draws what it is asked for"
            for attempt in chosen(test_gate.G, GATE):
                tally.attempt(attempt.id, attempt.what, attempt_gate, rig, visitor, attempt.make)
            rig, visitor = renewed(rigs, rig, visitor)
            for attempt in test_values.V:
                is_about_us = attempt.what.startswith(("scheduler", "page")) or attempt.what in OURS_ALONE
                if attempt.id != "V301" and not is_about_us:
                    names = test_values._EXPECTED[attempt.id]
                    tally.attempt(attempt.id, attempt.what, attempt_value, rig, visitor, attempt.make, names)
            for id, (harm, *arguments) in HARMS.items():
                rig, visitor = renewed(rigs, rig, visitor)
                rig.do(harm, *arguments)
                tally.attempt(id, f"{harm.__name__} {arguments}", attempt_picture, visitor)
            rig, visitor = renewed(rigs, rig, visitor)
            for id, (target, factory) in FAULTS.items():
                with rig.patched(target, factory):
                    tally.attempt(id, target, attempt_picture, visitor)
            rig, visitor = renewed(rigs, rig, visitor)
            load(rig, tally)
            visitor.close()
        finally:
            rigs.close()
    print(tally.line())


def renewed(rigs: Rigs, rig: Rig, visitor: Visitor) -> tuple[Rig, Visitor]:
    """A server to which nothing has been done yet."""
    visitor.close()
    rig.process.kill()
    rig = start(rigs)
    return rig, StockVisitor(rig.url)


def load(rig: Rig, tally: Tally) -> None:
    answers, files, alone = asyncio.run(burst(Crowd(rig.url)))
    for number in range(test_load.VISITORS):
        tally.attempt(f"L{number + 1:03d}", "", attempt_visit, number, answers[number], files, alone)
    kinds = [answer.event or answer.status for answer in answers]
    slowest_s = max(answer.seconds for answer in answers)
    print(f"L: {kinds.count('complete')} served, the last after {slowest_s:.1f} s")
    try:
        asyncio.run(outlives(rig))
        print(f"L: {test_load.SHORT_VISITS:,} short visits outlived")
    except (AssertionError, EOFError, TimeoutError, OSError) as error:
        print(f"L: {test_load.SHORT_VISITS:,} short visits not outlived: {type(error).__name__} {str(error)[:200]}")


def attempt_visit(number: int, answer: Answer, files: dict, alone: dict) -> None:
    if not answer.is_complete:
        assert words(answer) and answer.seconds < test_load.LIMIT_S, f"{answer.seconds:.1f} s {words(answer)!r}"
        return
    closest = min(alone, key=lambda other: abs(test_load.pixels(files[number]) - alone[other]).mean())
    assert closest == number, "another's picture"


async def burst(crowd: Crowd) -> tuple:
    def generate(number: int):
        return crowd.call("generate", as_stock(test_load.asked(number)))

    async def picture(answer: Answer) -> bytes:
        path = re.search(rb'"path": ?"([^"]+)"', answer.body)[1].decode()
        return (await crowd.send("GET", f"/gradio_api/file={path}")).body

    await asyncio.gather(*(generate(number) for number in range(4)))
    answers = await asyncio.gather(*(generate(number) for number in range(test_load.VISITORS)), return_exceptions=True)
    answers = [a if isinstance(a, Answer) else Answer(0, b"", 99.0) for a in answers]
    served = [number for number, answer in enumerate(answers) if answer.is_complete]
    files = {number: await picture(answers[number]) for number in served}
    alone = {number: test_load.pixels(await picture(await generate(number))) for number in served}
    return answers, files, alone


async def outlives(rig: Rig) -> None:
    """As `test_load.assert_outlives`; the short visits tick the licence's box."""
    crowd, asked = Crowd(rig.url), rig.count("asked")
    with rig.patched("diffusers:AutoencoderKL.decode", faults.hanging):
        waiting = asyncio.create_task(crowd.call("generate", as_stock(QUICK)))
        while rig.count("asked") == asked:
            await asyncio.sleep(0.02)

        async def come_and_go(number: int) -> None:
            posted = await crowd.send("POST", f"{CALL}/lambda", {"data": [True]})
            assert posted.status == 200, posted
            if number % 2:
                path = f"{CALL}/lambda/{json.loads(posted.body)['event_id']}"
                await crowd.events(path, posted, until=lambda line: True)

        await take_turns(come_and_go, range(test_load.SHORT_VISITS), 4)
    rig.do(faults.let_go)
    assert (await asyncio.wait_for(waiting, 10)).is_complete
    assert (await asyncio.wait_for(crowd.call("generate", as_stock(QUICK)), 10)).is_complete


if __name__ == "__main__":
    sys.exit(main())
