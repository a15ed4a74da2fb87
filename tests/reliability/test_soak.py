"""K: hundreds of visits leave nothing behind; `soak.py` runs thousands and measures memory."""

import asyncio
import time
from functools import partial

import pytest

from sd_space.ui.serving import SESSION_CAPACITY

from ..generated import sampled
from . import faults, inside
from .rig import Rig
from .scoreboard import Attempts, Mutant
from .soak import AT_ONCE, ENVIRON, census, files_of, sample, seconds_until_gone, visits
from .visitor import Visitor

STATES, VISITS, FEW = 20, 60, 40
TTL_S, UNREAD_TTL_S = 2.0, 1.0
K = Attempts()


class Soaked:
    """A server before and after visits, each time when all that they left has had its time."""

    def __init__(self, rig: Rig):
        self.rig, self.visitor = rig, Visitor(rig.url)
        self.token, self.number = self.visitor.token(), 0
        self.visit(VISITS)  # in which Gradio's and our threads come up
        self.before, self.sampled_before = self.after, self.sampled_after

    def visit(self, number: int, is_patient: bool = True) -> None:
        numbers = range(self.number, self.number + number)
        self.number += number
        asyncio.run(visits(self.rig, self.token, numbers))
        self.rig.wait_until_idle()
        self.most_files = len(files_of(self.rig))
        if is_patient:
            self.gone_s = seconds_until_gone(self.rig, TTL_S)
            self.visitor.generate(acceptance_token=self.token)
        deadline_s = time.monotonic() + 3 * UNREAD_TTL_S
        while (after := self.rig.do(census))["event ids"] and time.monotonic() < deadline_s:
            time.sleep(0.2)
            self.visitor.send("GET", "/config")  # each request lets the server tidy up
        self.after, self.sampled_after = after, sample(self.rig, self.number, 0.0)


def keep_few_states(number: int) -> int:
    """Gradio keeps the states of the last so many sessions; returns how many the app has it keep."""
    holder = inside.gradio_queue().server_app.state_holder
    holder.capacity, capacity = number, holder.capacity
    return capacity


@pytest.fixture(scope="module")
def soaked(rigs):
    rig = rigs.start(**ENVIRON)
    rig.do(faults.expire_after, TTL_S)
    assert rig.do(keep_few_states, STATES) == SESSION_CAPACITY
    with rig.patched("sd_space.serving.gradio_queue:UNREAD_RESULT_TTL_S", partial(faults.value, new=UNREAD_TTL_S)):
        soaked = Soaked(rig)
        soaked.visit(VISITS)
        yield soaked
    soaked.visitor.close()


for _id, _what, _most in (
    ("K01", "messages", 2), ("K02", "event ids", 2), ("K03", "events", 1), ("K04", "events on record", 1),
    ("K05", "iterators", 0), ("K06", "cancelled iterators", 0), ("K07", "session states", STATES),
    ("K08", "runs", 1), ("K09", "places", 0), ("K10", "consumers", 0), ("K11", "result folders", 1),
    ("K12", "update streams", 0), ("K13", "streams", 0),
):  # fmt: skip

    @K(_id, f"{_what} that stay")
    def stay(soaked: Soaked, what=_what, most=_most):
        assert soaked.after[what] <= most


@K("K14", "objects of Python")
def objects(soaked: Soaked):
    before = soaked.before["objects"]
    if soaked.after["objects"] - before >= 1.5 * VISITS:  # what comes up late grows once, a leak each time
        before = soaked.after["objects"]
        soaked.visit(VISITS)
    assert soaked.after["objects"] - before < 1.5 * VISITS


@K("K15", "open files")
def open_files(soaked: Soaked):
    assert soaked.sampled_after.open_files <= soaked.sampled_before.open_files + 4


@K("K16", "threads")
def threads(soaked: Soaked):
    assert soaked.sampled_after.threads <= soaked.sampled_before.threads + 8


@K("K17", "results and temporary files after their time")
def result_files(soaked: Soaked):
    assert soaked.most_files > AT_ONCE and soaked.gone_s


@pytest.mark.parametrize("attempt", list(K), ids=str)
def test_visits_leave_nothing_behind(soaked, attempt):
    attempt.make(soaked)


FILTER = "sd_space.serving.middleware:RequestFilter"
MUTANTS = (
    Mutant(
        f"{FILTER}._forward_or_refuse",
        "self._contract.evict_idle(self._streams.sessions)",
        "pass",
        "K01",
        "soaked.after[what] <= most",
    ),
    Mutant(
        "sd_space.serving.gradio_queue:_may_be_fetched",
        "now_s < since_s + UNREAD_RESULT_TTL_S",
        "True",
        "K02",
        "soaked.after[what] <= most",
    ),
    Mutant(
        "sd_space.serving.runs:Runs._forget_expired",
        "run.is_done and run.done_at_s < oldest_s",
        "False",
        "K08",
        "soaked.after[what] <= most",
    ),
    Mutant(
        "sd_space.serving.results:ResultStore.sweep", "results.ended_s <= oldest_s", "False", "K17", "soaked.gone_s"
    ),
)


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_guard_something_stays(soaked, mutant):
    with soaked.rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        soaked.visit(FEW, is_patient=mutant.caught_by in ("K08", "K17"))
        K.named(mutant.caught_by).make(soaked)
