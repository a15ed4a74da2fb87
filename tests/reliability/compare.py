"""The same attempts at `stock_app.py`, as far as they mean anything there: ``python -m tests.reliability.compare``.

Judged more gently than the real app: a refusal must be words of any kind and need not name the field. Prints each
attempt that got through, and a line for each family. `--soak 3000` makes the visits of `soak.py` there instead.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from ..server import until
from ..tiny_models import save_model_folder
from . import (
    faults,
    inside,
    soak,
    test_fairness,
    test_faults,
    test_gate,
    test_load,
    test_privacy,
    test_safety,
    test_soak,
    test_values,
)
from .crowd import CALL, Crowd, take_turns
from .rig import Rig, Rigs, holds_picture
from .scoreboard import Attempts
from .visitor import FOR_PROGRAMMERS, QUICK, Answer, Visitor

PIPELINE = "diffusers:StableDiffusionPipeline.__call__"
DENOISER = test_faults.DENOISER
# What does there what a part of ours does: a fault goes in there, and calls are counted there.
COUNTERPARTS = {
    "sd_space.backends.replicas:ReplicatedBackend.generate": PIPELINE,
    f"{DENOISER}.encode_prompt": "diffusers:StableDiffusionPipeline.encode_prompt",
    f"{DENOISER}.prepare_latents": "diffusers:StableDiffusionPipeline.prepare_latents",
    f"{DENOISER}.num_timesteps": "diffusers:PNDMScheduler.set_timesteps",
    f"{DENOISER}.denoise_step": "diffusers:UNet2DConditionModel.forward",
    f"{DENOISER}.decode_latents": "diffusers:AutoencoderKL.decode",
    "sd_space.serving.results:ResultStore.save": "PIL.Image:Image.save",
}
# G: what is not about a token, an endpoint that a stock app does not have, or the status by which ours refuses.
GATE = [f"G{n:02d}" for n in (21, 22, 23, 24, 25, 29, 30, 32, 33, 34, 35, 37, 42, 43, 44, 45)]
# K, F, P: what is not about parts that only ours has: its stores and threads, tokens, archive, recipes, clocks, the
# words of its progress, its routes; nor about the Hub, which the stock app asks before there is a page, SIGINT, which
# it may get before it is done launching, and a refusal that repeats the caller's own path.
SOAK = [f"K{n:02d}" for n in (*range(1, 8), 14, 15, 16, 17)]
RUNNING = [f"F{n:02d}" for n in (*range(1, 13), 16, 17, 18, 20, 21, 22, 23, 26, 29, *range(38, 44))]
PROCESS = [f"F{n:02d}" for n in (51, 53, 58, 59, 60)]
PRIVACY = [f"P{n:02d}" for n in (1, 3, 4, 5, 7, 8, 10, 11, 13, 15, 16, 17, 18, 19, 21, 22)]
# V: about parameters that a stock app does not have; an upload is no malformed value there.
OURS_ALONE = {"an unknown field", "a field named like a method", "an upload"}


def as_stock(values: Any) -> Any:
    """What goes to our endpoints and page, in the form in which it goes to the stock app's."""
    if not isinstance(values, dict):
        return values
    values = {name: value for name, value in values.items() if name not in ("acceptance_token", "scheduler")}
    match values.get("data"):
        case [_, prompt, negative_prompt, pictures, steps, _, guidance, seed, *others] if "64x64" in others:
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

    def events(self, path: str, posted: Answer, until: Callable[[str], bool] = lambda line: False) -> Answer:
        """A stream whose end never comes says every 15 s that it is there: such a visitor leaves at the second time."""
        deadline_s = time.monotonic() + 20
        return super().events(path, posted, lambda line: until(line) or time.monotonic() > deadline_s)

    def generate(self, **changes: Any) -> Answer:
        """The files come as ours do: one for each picture, without what a gallery puts around them."""
        answer = super().generate(**changes)
        if not answer.is_complete:
            return answer
        return replace(answer, data=[[shown["image"] for shown in answer.data[0]]])

    def token(self) -> str:
        return "there are no tokens here"  # what must not be found anywhere


class StockCrowd(Crowd):
    async def send(self, method: str, path: str, values: Any = None, **headers: str) -> Answer:
        return await super().send(method, path, as_stock(values), **headers)


class StockRig(Rig):
    """Readiness is whether the page is there, for want of another word for it."""

    def do(self, function: Callable, *arguments: Any) -> Any:
        if function is inside.patch:
            target, factory = arguments
            if target == f"{DENOISER}.decode_latents" and getattr(factory, "func", None) is faults.filled:
                factory = partial(faults.filled_sample, value=factory.keywords["value"])
            arguments = COUNTERPARTS.get(target, target), factory
        elif function is faults.expire_after:
            return None
        return super().do(function, *arguments)

    def do_in_engine(self, function: Callable, *arguments: Any) -> Any:
        return self.do(function, *arguments)  # which is in its only process

    def wait_for(self, path: str = "/readyz", status: int = 200, timeout_s: float = 60.0) -> httpx.Response | None:
        return super().wait_for("/config", timeout_s=timeout_s) if status == 200 else None

    def wait_until_idle(self, timeout_s: float = 60.0) -> None:
        until(lambda: self.do(_is_idle), timeout_s, "the device is still at work")


class StockRigs(Rigs):
    kind = StockRig

    def start(self, *arguments: str, **options: Any) -> Rig:
        rig = super().start(*arguments, **options | {"program": "tests.reliability.stock_app"})
        rig.results = rig.folder / "gradio"
        return rig


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
    before, number = rig.count("asked"), 0
    for answer in make(rig, visitor, ""):
        number += 1
        assert not has_picture(answer), "a picture came"
    assert number, "nothing was asked"
    rig.wait_until_idle()
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
    """What held; prints what did not."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {}

    def attempt(self, id: str, what: str, make: Callable, *arguments: Any) -> bool:
        try:
            make(*arguments)
            reason = ""
        except (AssertionError, httpx.HTTPError, OSError, EOFError, LookupError, TimeoutError, TypeError) as error:
            reason = str(error).split("\n")[0][:100] or type(error).__name__
        self.held.setdefault(id[0], []).append(not reason)
        if reason:
            print(f"{id} {what}: {reason}", flush=True)
        return not reason

    def line(self) -> str:
        return " · ".join(f"{family} {sum(held)}/{len(held)}" for family, held in self.held.items())


def chosen(attempts: Attempts, ids: list[str]) -> Iterator:
    return (attempt for attempt in attempts if attempt.id in ids)


def told(answer: Answer, sentence: str) -> None:
    assert answer.event == "error" or answer.status >= 400, "no refusal"
    assert len(words(answer)) > 5, "no words"
    assert not FOR_PROGRAMMERS.search(words(answer)), "words for programmers"
    assert not has_picture(answer), "a picture came"


def outcomes(answer: Answer) -> list[str]:
    if not answer.is_complete:
        told(answer, "")
        return ["said"]
    return ["ok"] * len(answer.data[0])


def attempt_fault(rig: Rig, visitor: Visitor, make: Callable) -> None:
    """A picture that is broken or was not checked must not come as if it were one; words will do."""
    try:
        test_faults.assert_survived(rig, visitor, "", make)
    finally:
        rig.do_in_engine(faults.let_go)


def asked_to_stop(server: Rig, *numbers: int, limit_s: float = test_faults.STOP_LIMIT_S) -> None:
    for number in numbers[:-1]:
        os.kill(server.process.pid, number)
    status = server.stop(numbers[-1], limit_s)
    assert status == 0, f"exit status {status}"
    assert not list(server.results.rglob("*.*")), "results stayed behind"


def stop_queue() -> int:
    inside.gradio_queue().stopped = True
    return 503  # there is no readiness to ask for


def assert_drawn(answer: Answer, number: int) -> None:
    assert answer.is_complete, answer


async def called_as_tool(rig: Rig, arguments: dict) -> str:
    """There are no tools."""
    return "image/png"


def pretend() -> None:
    """The attempts of these modules go to the stock app."""
    for module in (test_faults, test_gate, test_privacy, test_soak, soak):
        module.Visitor = StockVisitor
    soak.Crowd, test_gate.Victim = StockCrowd, StockVictim
    soak.assert_drawn, soak.census, test_soak.census = assert_drawn, soak.gradio_census, soak.gradio_census
    test_faults.told, test_faults.outcomes, test_faults.asked_to_stop = told, outcomes, asked_to_stop
    test_faults.stop_queue, test_privacy.called_as_tool = stop_queue, called_as_tool


def main() -> None:
    families = {"G": gate, "V": values, "S": safety, "L": load, "K": soaked, "F": survived, "P": privacy}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, metavar="VISITS")
    parser.add_argument("--families", default="GVSLKFP", help="those whose attempts are made, by their letters")
    arguments = parser.parse_args()
    pretend()
    with tempfile.TemporaryDirectory() as folder:
        model = soak.PICTURE_BOOK if arguments.soak else save_model_folder(Path(folder) / "model")
        rigs = StockRigs(Path(folder), model)
        try:
            if arguments.soak:
                soak.soak(rigs.start(SD_SPACE_VARIANT="fp16"), arguments.soak)
            else:
                tally = Tally()
                for letter in arguments.families:
                    families[letter](rigs, tally)
                print(tally.line())
        finally:
            rigs.close()


def gate(rigs: Rigs, tally: Tally) -> None:
    rig, visitor = fresh(rigs)
    assert visitor.generate().is_complete, "the stock app draws what it is asked for"
    for attempt in chosen(test_gate.G, GATE):
        tally.attempt(attempt.id, attempt.what, attempt_gate, rig, visitor, attempt.make)


def values(rigs: Rigs, tally: Tally) -> None:
    rig, visitor = fresh(rigs)
    for attempt in test_values.V:
        is_about_us = attempt.what.startswith(("scheduler", "page")) or attempt.what in OURS_ALONE
        if attempt.id != "V301" and not is_about_us:
            names = test_values._EXPECTED[attempt.id]
            tally.attempt(attempt.id, attempt.what, attempt_value, rig, visitor, attempt.make, names)


def safety(rigs: Rigs, tally: Tally) -> None:
    for id, (harm, *arguments) in HARMS.items():
        rig, visitor = fresh(rigs)
        rig.do(harm, *arguments)
        tally.attempt(id, f"{harm.__name__} {arguments}", attempt_picture, visitor)
        rig.process.kill()
    rig, visitor = fresh(rigs)
    for id, (target, factory) in FAULTS.items():
        with rig.patched(target, factory):
            tally.attempt(id, target, attempt_picture, visitor)


def soaked(rigs: Rigs, tally: Tally) -> None:
    rig = rigs.start()
    soaked = test_soak.Soaked(rig)
    soaked.visit(test_soak.VISITS)
    for attempt in chosen(test_soak.K, SOAK):
        tally.attempt(attempt.id, attempt.what, attempt.make, soaked)
    print("K:", soaked.after, soaked.sampled_before, soaked.sampled_after)


def survived(rigs: Rigs, tally: Tally) -> None:
    rig, visitor = fresh(rigs)
    for attempt in chosen(test_faults.F, RUNNING):
        if not tally.attempt(attempt.id, attempt.what, attempt_fault, rig, visitor, attempt.make):
            rig.process.kill()  # what has befallen it is not held against it again
            rig, visitor = fresh(rigs)
    for attempt in chosen(test_faults.PROCESS, PROCESS):
        tally.attempt(attempt.id, attempt.what, attempt.make, rigs)


def privacy(rigs: Rigs, tally: Tally) -> None:
    with test_privacy.traced(test_privacy.start(rigs)) as traces:
        for attempt in chosen(test_privacy.P, PRIVACY):
            tally.attempt(attempt.id, attempt.what, attempt.make, traces)


def fresh(rigs: Rigs) -> tuple[Rig, Visitor]:
    """A server to which nothing has been done yet."""
    rig = rigs.start()
    return rig, StockVisitor(rig.url)


def load(rigs: Rigs, tally: Tally) -> None:
    rig = rigs.start()
    answers, files, alone = asyncio.run(burst(Crowd(rig.url)))
    tally.attempt("L001", f"{test_load.VISITORS} at once", attempt_crowd, answers, files, alone)
    kinds = [answer.event or answer.status for answer in answers]
    slowest_s = max(answer.seconds for answer in answers)
    print(f"L: {kinds.count('complete')} served, the last after {slowest_s:.1f} s")
    try:
        asyncio.run(outlives(rig))
        print(f"L: {test_fairness.THOUSANDS:,} short visits outlived")
    except (AssertionError, EOFError, TimeoutError, OSError) as error:
        print(f"L: {test_fairness.THOUSANDS:,} short visits not outlived: {type(error).__name__} {str(error)[:200]}")


def attempt_crowd(answers: list[Answer], files: dict, alone: dict) -> None:
    """Each gets the own picture, or words within a second: one experiment, however many come."""
    for answer in answers:
        is_said = words(answer) and answer.seconds < test_load.LIMIT_S
        assert answer.is_complete or is_said, f"{answer.seconds:.1f} s {words(answer)!r}"
    for number, picture in alone.items():
        closest = min(files, key=lambda other: abs(test_load.pixels(files[other]) - picture).mean())
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
    again = served[:: max(1, len(served) // test_load.ALONE)]
    alone = {number: test_load.pixels(await picture(await generate(number))) for number in again}
    return answers, files, alone


async def outlives(rig: Rig) -> None:
    """As `test_fairness.assert_outlives`; the short visits tick the licence's box."""
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

        await take_turns(come_and_go, range(test_fairness.THOUSANDS), 4)
    rig.do_in_engine(faults.let_go)
    assert (await asyncio.wait_for(waiting, 10)).is_complete
    assert (await asyncio.wait_for(crowd.call("generate", as_stock(QUICK)), 10)).is_complete


if __name__ == "__main__":
    sys.exit(main())
