"""L: a crowd gets its own pictures or a quick no, and nobody's many visits take the service from others."""

import asyncio
import io
import json
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from . import faults, inside
from .crowd import CALL, Crowd, take_turns
from .rig import Rig
from .scoreboard import Attempts
from .visitor import LONG, QUICK, Answer, Visitor

VISITORS = 200
SHORT_VISITS = 2_100  # Gradio's queue remembers 2,000 sessions by default, and stops where it has forgotten one
LIMIT_S = 1.0
_PLACES = re.compile(r'"queue_position": (\d+)')
L = Attempts()


def asked(number: int) -> dict:
    """What this visitor and nobody else asks for."""
    return QUICK | {"prompt": f"cat number {number}", "seed": 1_000_003 * number, "num_inference_steps": 2}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int16)


def owners(picture: np.ndarray, pictures: dict[int, np.ndarray]) -> list[int]:
    """Whose picture it is: beside others a value differs by 1 of 255 at most (README, The engine)."""
    return [number for number, other in pictures.items() if np.abs(picture - other).max() <= 1]


@dataclass
class Burst:
    """What 200 visitors were answered who came at once; of those served, also their pictures, and each drawn alone."""

    answers: dict[int, Answer]
    files: dict[int, bytes]
    alone: dict[int, np.ndarray]


@pytest.fixture(scope="module")
def burst(rigs):
    rig = rigs.start()
    return asyncio.run(_burst(rig))


async def _burst(rig: Rig) -> Burst:
    crowd, few = Crowd(rig.url), asyncio.Semaphore(4)

    async def token() -> str:
        async with few:
            return (await crowd.call("accept_license", {"agree": True})).data[0]

    tokens = await asyncio.gather(*(token() for _ in range(VISITORS)))

    def generate(number: int):
        return crowd.call("generate", asked(number) | {"acceptance_token": tokens[number]})

    await asyncio.gather(*(generate(number) for number in range(4)))  # what a first picture costs more is not load
    answers = dict(enumerate(await asyncio.gather(*(generate(number) for number in range(VISITORS)))))
    served = [number for number, answer in answers.items() if answer.is_complete]
    files = {
        number: (await crowd.send("GET", f"/gradio_api/file={path_of(answers[number])}")).body for number in served
    }
    alone = {}
    for number in served:
        again = await generate(number)
        alone[number] = pixels((await crowd.send("GET", f"/gradio_api/file={path_of(again)}")).body)
    return Burst(answers, files, alone)


def path_of(answer: Answer) -> str:
    return answer.data[0][0]["path"]


for _number in range(VISITORS):

    @L(f"L{_number + 1:03d}", "gets another's picture, none, or no quick answer")
    def visit(burst: Burst, number=_number):
        answer, wanted = burst.answers[number], asked(number)
        if not answer.is_complete:
            assert "come back in a few minutes" in answer.sentence
            assert answer.seconds < LIMIT_S
            return
        (image,), recipe = answer.data[1]["images"], answer.data[1]["recipe"]
        assert image == {"seed": wanted["seed"], "outcome": "ok"}
        assert {name: recipe[name] for name in wanted} == wanted
        png = burst.files[number]
        assert f"{wanted['prompt']}\n".encode() in png and f"Seed: {wanted['seed']},".encode() in png
        assert owners(pixels(png), burst.alone) == [number]


@pytest.mark.parametrize("attempt", list(L), ids=str)
def test_each_of_a_crowd_gets_the_own_picture_or_a_quick_no(burst, attempt):
    attempt.make(burst)


def test_a_crowd_fills_the_queue_and_nobody_is_crossed(burst, record_property):
    kinds = Counter(answer.event or answer.status for answer in burst.answers.values())
    assert kinds["complete"] >= 20, "as many as may wait, at least"
    crossed = [n for n, png in burst.files.items() if owners(pixels(png), burst.alone) != [n]]
    slowest_s = max(answer.seconds for answer in burst.answers.values() if not answer.is_complete)
    said = f"{kinds['complete']} served, {len(crossed)} crossed, refused within {slowest_s:.2f} s"
    record_property("L", said)
    assert not crossed


def test_another_ones_picture_would_be_noticed(burst):
    (first, a), (_, b) = list(burst.files.items())[:2]
    assert owners(pixels(a), burst.alone) == [first] != owners(pixels(b), burst.alone)


# --- what one visitor can take from others


@pytest.fixture
def served(rigs):
    """Starts servers that one test has for itself."""
    started = []

    def start(**environ: str) -> Rig:
        started.append(rigs.start(**environ))
        return started[-1]

    yield start
    for rig in started:
        rig.process.kill()


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


async def leave_at_once(rig: Rig, visits: int) -> None:
    """Half of them at the first word, half before it."""
    crowd = Crowd(rig.url)

    async def come_and_go(number: int) -> None:
        posted = await crowd.send("POST", f"{CALL}/v2/model", {})
        if number % 2:
            path = f"{CALL}/model/{json.loads(posted.body)['event_id']}"
            await crowd.events(path, posted, until=lambda line: True)

    await take_turns(come_and_go, range(visits), 4)


def assert_outlives(rig: Rig, token: str, visits: int) -> None:
    """A visitor whose picture is under way meanwhile gets it, and the next one too."""
    crowd = Crowd(rig.url)

    async def main() -> list[Answer]:
        with rig.patched("sd_space.denoiser:Denoiser.decode_latents", faults.hanging):
            waiting = asyncio.create_task(crowd.call("generate", QUICK | {"acceptance_token": token}))
            await asyncio.to_thread(rig.wait_for_line, "sd_space_requests_running 1.0")
            await leave_at_once(rig, visits)
        rig.do(faults.let_go)
        answers = [await asyncio.wait_for(waiting, 5)]
        return [*answers, await asyncio.wait_for(crowd.call("generate", QUICK | {"acceptance_token": token}), 5)]

    assert all(answer.is_complete for answer in asyncio.run(main()))
    assert rig.wait_for("/readyz", timeout_s=5)


def test_the_queue_outlives_thousands_who_leave_at_once(served, arrive, record_property):
    rig = served()
    assert_outlives(rig, arrive(rig).token(), SHORT_VISITS)
    record_property("L", f"{SHORT_VISITS:,} short visits outlived")


def _make_room_for(sessions: int) -> None:
    inside.gradio_queue().pending_messages_per_session.max_size = sessions


def test_without_room_for_their_sessions_it_does_not(served, arrive):
    rig = served()
    rig.do(_make_room_for, 20)
    with pytest.raises((AssertionError, TimeoutError, EOFError)):
        assert_outlives(rig, arrive(rig).token(), 60)


def start_many(visitor: Visitor, token: str, number: int, pictures: int = 1) -> None:
    """Long runs, to which nobody listens."""
    values = LONG | {"acceptance_token": token, "num_images_per_prompt": pictures}
    for _ in range(number):
        assert visitor.send("POST", f"{CALL}/v2/generate", json=values).status == 200


def test_a_visitor_with_many_requests_does_not_starve_another(served, arrive):
    rig = served(SD_SPACE_MAX_PER_VISITOR="15", SD_SPACE_MAX_BATCH_SIZE="2")
    greedy, other = arrive(rig), arrive(rig)
    start_many(greedy, greedy.token(), 15, pictures=4)
    rig.wait_for_line("sd_space_requests_waiting 13.0")
    answer = other.generate(acceptance_token=other.token(), num_inference_steps=10)
    assert answer.is_complete
    places = [int(place) for place in _PLACES.findall(answer.body.decode())]
    assert max(places, default=0) <= 1, "behind one picture of the greedy one at most"
    assert "sd_space_requests_waiting 13.0" in rig.wait_for("/metrics").text, "and before all that were waiting"


# --- limits, and whom they count

RATE, SHARE = 60, 10  # calls a minute; requests under way of an address: half the queue


@pytest.fixture(scope="module")
def proxied(rigs):
    """Behind one proxy, as on a Space."""
    return rigs.start(SD_SPACE_TRUSTED_PROXIES="1", SD_SPACE_RATE_PER_MINUTE=str(RATE), SD_SPACE_MAX_QUEUE="20")


@pytest.fixture
def idle(proxied):
    yield proxied
    proxied.wait_until_idle()


def statuses(visitor: Visitor, number: int) -> list[int]:
    """Of so many small calls."""
    return [visitor.send("POST", f"{CALL}/v2/model", json={}).status for _ in range(number)]


def test_a_visitor_has_so_many_requests_and_no_more(idle, arrive):
    visitor, elsewhere = arrive(idle, "198.51.100.1"), arrive(idle, "198.51.100.2")
    token = visitor.token()
    start_many(visitor, token, 4)
    for place in (visitor, elsewhere):  # wherever the visitor calls from
        assert "4 of your requests are under way" in place.generate(acceptance_token=token).sentence
    assert visitor.generate(acceptance_token=visitor.token()).is_complete


def test_an_address_has_half_the_queue_however_many_visitors_it_invents(idle, arrive):
    visitor = arrive(idle, "203.0.113.1")
    for _ in range(SHARE // 2):
        start_many(visitor, visitor.token(), 2)
    for forwarded in ("203.0.113.1", "203.0.113.2, 203.0.113.1"):  # what a caller writes itself does not count
        again = arrive(idle, forwarded)
        assert f"{SHARE} of your requests are under way" in again.generate(acceptance_token=again.token()).sentence
    elsewhere = arrive(idle, "203.0.113.2")
    assert elsewhere.generate(acceptance_token=elsewhere.token()).is_complete


def test_an_address_has_so_many_calls_a_minute_and_others_have_theirs(idle, arrive):
    assert statuses(arrive(idle, "192.0.2.1"), RATE) == [200] * RATE
    assert 429 in statuses(arrive(idle, "192.0.2.1"), 3)
    assert 429 in statuses(arrive(idle, "192.0.2.2, 192.0.2.1"), 3)
    assert statuses(arrive(idle, "192.0.2.2"), 3) == [200] * 3


def test_on_a_share_link_everybody_is_counted_together(served, arrive):
    rig = served(SD_SPACE_RATE_PER_MINUTE="2")  # its tunnel ends on this machine: all come from the same address
    assert statuses(arrive(rig, "192.0.2.1"), 5) == [200] * 5, "no single address is counted"
    told = [status for k in range(2, 50) for status in statuses(arrive(rig, f"192.0.2.{k}"), 1)]
    assert told[:30] == [200] * 30 and 429 in told[30:]


def test_on_a_share_link_visitors_share_the_whole_queue(served, arrive):
    rig = served()
    visitor = arrive(rig)
    for _ in range(SHARE + 2):
        start_many(visitor, visitor.token(), 1)
    assert visitor.generate(acceptance_token=visitor.token()).is_complete


MUTANTS = (  # what is taken out, and the test that must notice
    ("runs:Runs.start", ">= self._limits[kind]", ">= 99", test_a_visitor_has_so_many_requests_and_no_more),
    (
        "runs:Runs.start",
        "if address else []",
        "if False else []",
        test_an_address_has_half_the_queue_however_many_visitors_it_invents,
    ),
    (
        "front:Front._address",
        "hops[-self._trusted_proxies]",
        "hops[0]",
        test_an_address_has_half_the_queue_however_many_visitors_it_invents,
    ),
)


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_without_a_limit_its_test_fails(idle, arrive, number):
    target, old, new, test = MUTANTS[number]
    with idle.without(f"sd_space.{target}", old, new), pytest.raises(AssertionError):
        test(idle, arrive)
