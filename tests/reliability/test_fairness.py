"""L: nobody's many requests, visits or calls take the service from others."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from sd_space.serving.limits import RateLimiter

from ..generated import sampled
from . import faults, inside
from .crowd import CALL, Crowd, take_turns
from .rig import Rig
from .scoreboard import Attempt, Attempts, Mutant
from .visitor import LONG, QUICK, Answer, Visitor

STEP = "sd_space.engine.denoiser:Denoiser.denoise_step"
SHORT_VISITS, FEW_SESSIONS = 60, 20
THOUSANDS = 2_100  # Gradio's queue remembers 2,000 sessions by default, and stops where it has forgotten one
_PLACES = re.compile(r'"queue_position": (\d+)')
_WAITING = re.compile(r"^sd_space_requests_waiting (\S+)", re.MULTILINE)
L = Attempts()
RATE, SHARE = 10, 10  # calls a minute; requests under way of an address: half the queue
PROXIED = {"SD_SPACE_TRUSTED_PROXIES": "1", "SD_SPACE_MAX_QUEUE": str(2 * SHARE)}  # as on a Space
SETTINGS = {  # those of the claims that need a server of another kind
    "L202": {"SD_SPACE_MAX_PER_VISITOR": "15", "SD_SPACE_MAX_BATCH_SIZE": "2"},
    "L203": PROXIED,
    "L204": PROXIED,
    "L205": PROXIED,
}


@pytest.fixture(scope="module")
def server_for(rigs, rig) -> Callable[[Attempt], Rig]:
    started: dict[str, Rig] = {}

    def server(claim: Attempt) -> Rig:
        environ = SETTINGS.get(claim.id)
        if environ and str(environ) not in started:
            started[str(environ)] = rigs.start(**environ)
        return started[str(environ)] if environ else rig

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


@pytest.mark.parametrize("claim", sampled(L, 1), ids=str)
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


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_limit_somebody_does(server_for, arrive, mutant):
    claim = L.named(mutant.caught_by)
    rig = server_for(claim)
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        attempted(rig, arrive, claim)


def keep_messages_of(sessions: int) -> int:
    """Gradio keeps the messages of so many sessions; returns of how many the app has it keep."""
    messages = inside.gradio_queue().pending_messages_per_session
    messages.max_size, size = sessions, messages.max_size
    while len(messages) > sessions:  # of those who came before
        messages.popitem(last=False)
    return size


@pytest.mark.parametrize("mutant", ["mutant L201 few sessions are kept"])
def test_without_room_for_their_sessions_the_queue_stops(rig, arrive, mutant):
    """Fewer visits than there is room for would show nothing: so many are enough to be missed."""
    token, size = arrive(rig).token(), rig.do(keep_messages_of, FEW_SESSIONS)
    with pytest.raises((AssertionError, TimeoutError, EOFError)):
        assert_outlives(rig, token, SHORT_VISITS, patience_s=3.0)
    rig.do(keep_messages_of, size)
    rig.wait_until_idle()


@pytest.mark.nightly
@pytest.mark.parametrize("claim", ["L201 thousands who leave at once stop the queue"])
def test_thousands_who_leave_do_not_stop_the_queue(rig, arrive, claim):
    assert_outlives(rig, arrive(rig).token(), THOUSANDS)
