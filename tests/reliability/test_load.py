"""L: a crowd gets its own pictures or a quick no, and nobody's many visits take the service from others."""

import asyncio
import contextlib
import gc
import io
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from PIL import Image

from sd_space.serving.limits import RateLimiter

from ..generated import SEED, sampled
from ..server import until
from . import faults, inside
from .crowd import CALL, Crowd, take_turns
from .rig import Rig
from .scoreboard import Attempt, Attempts, Mutant, TooSlow
from .test_gate import gate
from .visitor import LONG, QUICK, Answer, Visitor

STEP = "sd_space.engine.denoiser:Denoiser.denoise_step"
VISITORS = 200
ALONE = 5  # so many of those served are drawn again, alone
SHORT_VISITS, FEW_SESSIONS = 60, 20
THOUSANDS = 2_100  # Gradio's queue remembers 2,000 sessions by default, and stops where it has forgotten one
LIMIT_S = 1.0
_PLACES = re.compile(r'"queue_position": (\d+)')
_WAITING = re.compile(r"^sd_space_requests_waiting (\S+)", re.MULTILINE)
L = Attempts()


def asked(number: int) -> dict:
    """What this visitor and nobody else asks for."""
    return QUICK | {"prompt": f"cat number {number}", "seed": 1_000_003 * number, "num_inference_steps": 2}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int16)


def owners(picture: np.ndarray, pictures: dict[int, np.ndarray]) -> list[int]:
    """Whose picture it is: beside others a value differs by 1 of 255 at most (sd_space/tools/README.md, The engine)."""
    return [number for number, other in pictures.items() if np.abs(picture - other).max() <= 1]


@dataclass
class Burst:
    """What visitors were answered who came at once; of those served, also their pictures, and some drawn alone."""

    answers: dict[int, Answer]
    files: dict[int, bytes]
    alone: dict[int, np.ndarray]


@pytest.fixture(scope="module")
def crowded(rigs):
    return rigs.start()


def tokens(number: int) -> list[str]:
    """Of so many visitors, as the server would give them."""
    own = gate()
    return [own.issue_token(True) for _ in range(number)]


async def come_at_once(rig: Rig, tokens: Sequence[str], patience_s: float) -> Burst:
    crowd = Crowd(rig.url)

    async def generate(number: int) -> Answer:
        values = asked(number) | {"acceptance_token": tokens[number]}
        try:
            return await asyncio.wait_for(crowd.call("generate", values), patience_s)
        except TimeoutError:
            return Answer(0, b"", patience_s)

    async def picture(answer: Answer) -> bytes:
        return (await crowd.send("GET", f"/gradio_api/file={answer.data[0][0]['path']}")).body

    await asyncio.gather(*(generate(number) for number in range(4)))  # what a first picture costs more is not load
    gc.disable()  # or the looks through all of this process are timed with the answers
    try:
        answers = dict(enumerate(await asyncio.gather(*map(generate, range(len(tokens))))))
    finally:
        gc.enable()
    served = [number for number, answer in answers.items() if answer.is_complete]
    files = {number: await picture(answers[number]) for number in served}
    again = random.Random(SEED).sample(served, min(ALONE, len(served)))
    alone = {number: pixels(await picture(await generate(number))) for number in again}
    return Burst(answers, files, alone)


def assert_nobody_is_crossed(burst: Burst) -> None:
    """Each who is served has what only this one asked for: its words, and of some who are drawn again, its pixels."""
    for number, png in burst.files.items():
        (image,), recipe = (burst.answers[number].data[1][name] for name in ("images", "recipe"))
        wanted = asked(number)
        assert (image["seed"], image["outcome"]) == (wanted["seed"], "ok"), "another's seed"
        assert {name: recipe[name] for name in wanted} == wanted, "another's recipe"
        assert f"{wanted['prompt']}\n".encode() in png and f"Seed: {wanted['seed']},".encode() in png, "another's file"
    drawn = {number: pixels(png) for number, png in burst.files.items()}
    for number, picture in burst.alone.items():
        assert owners(picture, drawn) == [number], "another's picture"


def assert_others_are_refused(burst: Burst) -> None:
    for answer in burst.answers.values():
        assert answer.status, "nobody answers"
        assert answer.is_complete or "come back in a few minutes" in answer.sentence, answer
        assert answer.is_complete or answer.status in (429, 503), "not at the door, but after a wait in Gradio's queue"


def slowest_refusal_s(burst: Burst) -> float:
    return max(answer.seconds for answer in burst.answers.values() if not answer.is_complete)


def crowd_gets_its_own_or_a_quick_no(
    rig: Rig, record: Callable[[str, object], None], visitors: int = VISITORS, patience_s: float = 120.0
) -> None:
    burst = asyncio.run(come_at_once(rig, tokens(visitors), patience_s))
    assert_others_are_refused(burst)
    assert_nobody_is_crossed(burst)
    assert len(burst.files) >= 20 and len(burst.alone) == ALONE, "as many as may wait, at least"
    if slowest_refusal_s(burst) >= LIMIT_S:
        raise TooSlow(f"a refusal took {slowest_refusal_s(burst):.2f} s")
    record("L", f"{len(burst.files)} of {VISITORS} at once served, refused within {slowest_refusal_s(burst):.2f} s")


@pytest.mark.parametrize("claim", ["L001 of 200 at once, one gets another's picture, none, or no quick answer"])
def test_each_of_a_crowd_gets_the_own_picture_or_a_quick_no(crowded, record_property, claim):
    """One experiment, however many come."""
    crowd_gets_its_own_or_a_quick_no(crowded, record_property)


def test_nobody_is_held_up_by_a_look_through_all_that_the_start_has_left(crowded):
    until(lambda: crowded.do(gc.isenabled))  # right after it is ready
    assert crowded.do(gc.get_freeze_count) > 100_000


def test_another_ones_picture_would_be_noticed():
    first, second = (np.full((2, 2, 3), value, dtype=np.int16) for value in (10, 12))
    assert owners(first + 1, {1: first, 2: second + 1}) == [1]
    assert owners(second, {1: first, 2: second}) == [2]


# --- what one visitor can take from others

RATE, SHARE = 10, 10  # calls a minute; requests under way of an address: half the queue
PROXIED = {"SD_SPACE_TRUSTED_PROXIES": "1", "SD_SPACE_MAX_QUEUE": str(2 * SHARE)}  # as on a Space
SETTINGS = {  # those of the claims that need a server of another kind
    "L202": {"SD_SPACE_MAX_PER_VISITOR": "15", "SD_SPACE_MAX_BATCH_SIZE": "2"},
    "L203": PROXIED,
    "L204": PROXIED,
    "L205": PROXIED,
}


@pytest.fixture(scope="module")
def server_for(rigs, crowded) -> Callable[[Attempt], Rig]:
    started: dict[str, Rig] = {}

    def server(claim: Attempt) -> Rig:
        environ = SETTINGS.get(claim.id)
        if environ and str(environ) not in started:
            started[str(environ)] = rigs.start(**environ)
        return started[str(environ)] if environ else crowded

    return server


@pytest.fixture
def arrive():
    """Makes visitors, who leave at the end; `forwarded` is the header by which proxies tell whom they let in."""
    arrived = []

    def make(rig: Rig, forwarded: str | None = None) -> Visitor:
        arrived.append(Visitor(rig.url, {"X-Forwarded-For": forwarded} if forwarded else None))
        return arrived[-1]

    yield make
    for visitor in arrived:
        visitor.close()


@L("L201", "many who leave at once stop the queue")
def short_visits(rig: Rig, arrive: Callable):
    assert rig.do(sessions_kept) > 10**6, "more than can come"
    assert_outlives(rig, arrive(rig).token(), SHORT_VISITS)


def sessions_kept() -> int:
    return inside.gradio_queue().pending_messages_per_session.max_size


def assert_outlives(rig: Rig, token: str, visits: int, patience_s: float = 15.0) -> None:
    """A visitor whose picture is under way meanwhile gets it, and the next one too."""
    crowd = Crowd(rig.url)

    async def come_and_go(number: int) -> None:
        """Half of them leave at the first word, half before it."""
        posted = await crowd.send("POST", f"{CALL}/v2/model", {})
        if number % 2:
            path = f"{CALL}/model/{json.loads(posted.body)['event_id']}"
            await crowd.events(path, posted, until=lambda line: True)

    async def main() -> list[Answer]:
        rig.do_in_engine(faults.hold)
        with rig.patched("sd_space.engine.denoiser:Denoiser.decode_latents", faults.hanging):
            waiting = asyncio.create_task(crowd.call("generate", QUICK | {"acceptance_token": token}))
            await asyncio.to_thread(rig.wait_for_lines, "sd_space_requests_running 1.0")
            await take_turns(come_and_go, range(visits), 4)
        rig.do_in_engine(faults.let_go)
        answers = [await asyncio.wait_for(waiting, patience_s)]
        return [
            *answers,
            await asyncio.wait_for(crowd.call("generate", QUICK | {"acceptance_token": token}), patience_s),
        ]

    assert all(answer.is_complete for answer in asyncio.run(main()))
    rig.wait_for(timeout_s=5)


def start_many(visitor: Visitor, token: str, number: int, **changes: int) -> None:
    """Long runs, to which nobody listens."""
    values = LONG | {"acceptance_token": token, "num_images_per_prompt": 1} | changes
    for _ in range(number):
        assert visitor.send("POST", f"{CALL}/v2/generate", json=values).status == 200


@L("L202", "a visitor with many requests starves another")
def greedy(rig: Rig, arrive: Callable):
    greedy, other = arrive(rig), arrive(rig)
    start_many(greedy, greedy.token(), 15, num_images_per_prompt=4, num_inference_steps=50)
    for waiting in ("14.0", "13.0"):  # all but the first, and then the first is over
        rig.wait_for_lines(f"sd_space_requests_waiting {waiting}", timeout_s=60)
    posted = other.send(
        "POST", f"{CALL}/v2/generate", json=QUICK | {"num_inference_steps": 10, "acceptance_token": other.token()}
    )
    path = f"{CALL}/generate/{json.loads(posted.body)['event_id']}"
    answer = other.events(path, posted, until=lambda line: most_ahead(line) > 1)
    assert most_ahead(answer.body.decode()) <= 1, "behind one picture of the greedy one at most"
    assert answer.is_complete
    waiting = float(_WAITING.search(rig.wait_for("/metrics").text)[1])
    assert waiting > 10, "and before all that were waiting, but for those that began while this was asked"


def most_ahead(told: str) -> int:
    return max(map(int, _PLACES.findall(told)), default=0)


# --- limits, and whom they count


@contextlib.contextmanager
def rated(rig: Rig, per_minute: int) -> Iterator[None]:
    """So many calls a minute may come, counted from now on."""
    rig.do(set_rate, per_minute)
    try:
        yield
    finally:
        rig.do(set_rate, 10**5)


def set_rate(per_minute: int) -> None:
    inside.live("RequestFilter")._limiter = RateLimiter(per_minute, time.monotonic)


def statuses(visitor: Visitor, number: int) -> list[int]:
    """Of so many small calls."""
    return [visitor.send("POST", f"{CALL}/v2/model", json={}).status for _ in range(number)]


@L("L203", "a visitor has more requests under way than four")
def many_requests(rig: Rig, arrive: Callable):
    visitor, elsewhere = arrive(rig, "198.51.100.1"), arrive(rig, "198.51.100.2")
    token = visitor.token()
    with rig.patched(STEP, partial(faults.slow, seconds=0.05)):
        start_many(visitor, token, 4)
        for place in (visitor, elsewhere):  # wherever the visitor calls from
            assert "4 of your requests are under way" in place.generate(acceptance_token=token).sentence
    assert visitor.generate(acceptance_token=visitor.token()).is_complete


@L("L204", "an address that invents visitors has more than half the queue")
def invented_visitors(rig: Rig, arrive: Callable):
    visitor = arrive(rig, "203.0.113.1")
    with rig.patched(STEP, partial(faults.slow, seconds=0.05)):
        for _ in range(SHARE // 2):
            start_many(visitor, visitor.token(), 2)
        for forwarded in ("203.0.113.1", "203.0.113.2, 203.0.113.1"):  # what a caller writes itself does not count
            again = arrive(rig, forwarded)
            assert f"{SHARE} of your requests are under way" in again.generate(acceptance_token=again.token()).sentence
    elsewhere = arrive(rig, "203.0.113.2")
    assert elsewhere.generate(acceptance_token=elsewhere.token()).is_complete


@L("L205", "an address calls more often than it may, or takes others' calls")
def many_calls(rig: Rig, arrive: Callable):
    with rated(rig, RATE):
        assert statuses(arrive(rig, "192.0.2.1"), RATE) == [200] * RATE
        assert 429 in statuses(arrive(rig, "192.0.2.1"), 3)
        assert 429 in statuses(arrive(rig, "192.0.2.2, 192.0.2.1"), 3)
        assert statuses(arrive(rig, "192.0.2.2"), 3) == [200] * 3


@L("L206", "through a share link come calls without end, or one caller bars the others")
def shared_calls(rig: Rig, arrive: Callable):
    with rated(rig, 2):  # the link's tunnel ends on this machine: all come from the same address
        assert statuses(arrive(rig, "192.0.2.1"), 5) == [200] * 5, "no single address is counted"
        told = [status for k in range(2, 50) for status in statuses(arrive(rig, f"192.0.2.{k}"), 1)]
        assert told[:30] == [200] * 30 and 429 in told[30:]


@L("L207", "through a share link all have only one address's half of the queue")
def shared_queue(rig: Rig, arrive: Callable):
    visitor = arrive(rig)
    for _ in range(SHARE + 2):
        start_many(visitor, visitor.token(), 1)
    assert visitor.generate(acceptance_token=visitor.token()).is_complete


def cancel_all() -> None:
    backend = inside.live("LocalBackend")
    for request_id in list(backend._calls):
        backend.cancel(request_id)


def attempted(rig: Rig, arrive: Callable, claim: Attempt) -> None:
    try:
        claim.make(rig, arrive)
    finally:
        rig.do(cancel_all)
        rig.wait_until_idle()


@pytest.mark.parametrize("claim", list(L), ids=str)
def test_nobody_takes_the_service_from_others(server_for, arrive, claim):
    attempted(server_for(claim), arrive, claim)


ROUND_BY_ROUND = "for turn in range(max(map(len, visitors))):\n            for trajectories in visitors:"
VISITOR_BY_VISITOR = "for trajectories in visitors:\n            for turn in range(max(map(len, visitors))):"
LIMITS, CLIENT_ADDRESS = "sd_space.serving.limits:", "sd_space.serving.middleware:client_address"
MUTANTS = (
    Mutant(
        "sd_space.engine.batcher:FairQueue.in_order", ROUND_BY_ROUND, VISITOR_BY_VISITOR, "L202", "behind one picture"
    ),
    Mutant(
        f"{LIMITS}Capacity._check_share", ">= self._settings.max_per_visitor", ">= 99", "L203", "4 of your requests"
    ),
    Mutant(f"{LIMITS}Capacity.enter", "address is not None and", "False and", "L204", "of your requests are under way"),
    Mutant(CLIENT_ADDRESS, "hops[-trusted_proxies]", "hops[0]", "L204", "of your requests are under way"),
    Mutant(f"{LIMITS}RateLimiter._rates", "[(address, self._per_minute)]", "[]", "L205", "429 in statuses"),
    Mutant(f"{LIMITS}RateLimiter._rates", "self._per_minute * GLOBAL_FACTOR", "10**6", "L206", "429 in told"),
    Mutant(
        CLIENT_ADDRESS,
        'None if key is None or key.startswith("127.") or key == "::/64" else key',
        "key",
        "L207",
        "/v2/generate",  # the first ten are one address's half
    ),
)


CROWD_MUTANTS = (
    (
        Mutant(
            "sd_space.serving.gate:Gate._admitted", "secrets.token_urlsafe(16)", "'the same'", "L001", "nobody answers"
        ),
        6,
        10.0,
    ),
    (
        Mutant(f"{LIMITS}Capacity.enter", ">= max(settings", ">= 10**6 + max(settings", "L001", "not at the door"),
        VISITORS,
        120.0,
    ),
)


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_limit_somebody_does(server_for, arrive, mutant):
    claim = L.named(mutant.caught_by)
    rig = server_for(claim)
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        attempted(rig, arrive, claim)


@pytest.mark.nightly
@pytest.mark.parametrize(("mutant", "visitors", "patience_s"), CROWD_MUTANTS, ids=str)
def test_without_a_guard_a_crowd_is_crossed_or_waits(crowded, record_property, mutant, visitors, patience_s):
    with crowded.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        crowd_gets_its_own_or_a_quick_no(crowded, record_property, visitors, patience_s)
    crowded.wait_until_idle()


def keep_messages_of(sessions: int) -> int:
    """Gradio keeps the messages of so many sessions; returns of how many the app has it keep."""
    messages = inside.gradio_queue().pending_messages_per_session
    messages.max_size, size = sessions, messages.max_size
    while len(messages) > sessions:  # of those who came before
        messages.popitem(last=False)
    return size


@pytest.mark.parametrize("mutant", ["mutant L201 few sessions are kept"])
def test_without_room_for_their_sessions_the_queue_stops(crowded, arrive, mutant):
    """Fewer visits than there is room for would show nothing: so many are enough to be missed."""
    token, size = arrive(crowded).token(), crowded.do(keep_messages_of, FEW_SESSIONS)
    with pytest.raises((AssertionError, TimeoutError, EOFError)):
        assert_outlives(crowded, token, SHORT_VISITS, patience_s=3.0)
    crowded.do(keep_messages_of, size)
    crowded.wait_until_idle()


@pytest.mark.nightly
@pytest.mark.parametrize("claim", ["L201 thousands who leave at once stop the queue"])
def test_thousands_who_leave_do_not_stop_the_queue(crowded, arrive, claim):
    assert_outlives(crowded, arrive(crowded).token(), THOUSANDS)
