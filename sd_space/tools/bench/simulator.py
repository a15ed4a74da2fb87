"""Plays a day at the counter: arrivals, replicas and their batchers, with measured times in place of tensors."""

import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count

from sd_space.engine.batcher import BatchKey, StepBatcher, Trajectory
from sd_space.engine.step_times import StepTimes


@dataclass(frozen=True, slots=True)
class Work:
    """What one request for one picture costs; `start_s` is what comes before its first step."""

    key: BatchKey
    num_timesteps: int
    times: StepTimes
    start_s: float = 0.0

    def step_s(self, pictures: int) -> float:
        """Seconds of one UNet call. Raises ValueError where none was measured."""
        seconds = self.times.step_s(self.key, pictures)
        if seconds is None:
            raise ValueError("no UNet call was measured")
        return seconds

    def finish_s(self) -> float:
        return self.times.finish_s(self.key.height, self.key.width)

    def busy_s(self, width: int) -> float:
        """Seconds for which one picture keeps a replica busy whose calls are all of `width` pictures."""
        return self.num_timesteps * self.step_s(width) / width + self.start_s + self.finish_s()


@dataclass(frozen=True, slots=True)
class Outcome:
    """`waits_s` are from asking to the finished picture, in the order of asking."""

    waits_s: tuple[float, ...]
    makespan_s: float  # from the first arrival to the last picture

    @property
    def pictures_per_s(self) -> float:
        return len(self.waits_s) / self.makespan_s

    @property
    def mean_wait_s(self) -> float:
        return statistics.mean(self.waits_s)

    @property
    def p95_wait_s(self) -> float:
        return sorted(self.waits_s)[int(0.95 * (len(self.waits_s) - 1))]


def poisson(rate_per_s: float, pictures: int, seed: int = 0) -> list[float]:
    """Moments of arrival, independent of one another, the first at 0."""
    draw = random.Random(seed)
    return [0.0, *accumulate(draw.expovariate(rate_per_s) for _ in range(pictures - 1))]


@dataclass(slots=True, eq=False)
class _Replica:
    """An engine without tensors: the same batcher, one step at a time, one decode between two steps."""

    batcher: StepBatcher
    work: Work
    ongoing: int = 0
    is_stepping: bool = False
    denoised: deque[Trajectory] = field(default_factory=deque)

    def take(self, number: int) -> None:
        self.ongoing += 1
        name = str(number)
        work = self.work
        self.batcher.add(Trajectory(number, name, name, number, 0, work.key, work.num_timesteps))

    def step(self) -> tuple[float, Trajectory | None]:
        """Seconds of one `Engine.step`, and the picture that is finished after it."""
        batch = self.batcher.next_batch()
        started = sum(trajectory.step_index == 0 for trajectory in batch)
        seconds = started * self.work.start_s
        if batch:
            seconds += self.work.step_s(len(batch))
        self.denoised.extend(self.batcher.advance(batch))
        if not self.denoised:
            return seconds, None
        return seconds + self.work.finish_s(), self.denoised.popleft()

    @property
    def has_work(self) -> bool:
        return bool(len(self.batcher) or self.denoised)


def simulate(
    arrivals_s: Sequence[float], replicas: int, width: int, work: Work, max_ongoing: int | None = None, seed: int = 0
) -> Outcome:
    """One picture a request, each to the least busy of eight replicas drawn at random, as `LeastLoadedRouter` does it.

    A replica holds at most `max_ongoing` requests (twice its width when empty); beyond that they wait in line.
    """
    draw = random.Random(seed)
    limit = max_ongoing or 2 * width
    crowd = [_Replica(StepBatcher(width), work) for _ in range(replicas)]
    done_s: dict[int, float] = {}
    line: deque[int] = deque()
    woken: set[int] = set()
    order = count()
    events: list[tuple[float, int, int, Trajectory | None]] = []  # (when, tie, request or ~replica, finished picture)
    for number, when_s in enumerate(arrivals_s):
        heapq.heappush(events, (when_s, next(order), number, None))

    def begin(index: int, now_s: float) -> None:
        replica = crowd[index]
        replica.is_stepping = replica.has_work
        if replica.is_stepping:
            seconds, finished = replica.step()
            heapq.heappush(events, (now_s + seconds, next(order), ~index, finished))

    def route(now_s: float) -> None:
        while line and (free := _free(crowd, limit, draw)) is not None:
            crowd[free].take(line.popleft())
            woken.add(free)
        for index in woken:
            if not crowd[index].is_stepping:
                begin(index, now_s)
        woken.clear()

    while events:
        now_s, _, subject, finished = heapq.heappop(events)
        if subject >= 0:
            line.append(subject)
        else:
            if finished is not None:
                done_s[finished.trajectory_id] = now_s
                crowd[~subject].ongoing -= 1
            begin(~subject, now_s)
        if not events or events[0][0] > now_s:  # whoever comes at the same moment starts together
            route(now_s)
    waits_s = tuple(done_s[number] - when_s for number, when_s in enumerate(arrivals_s))
    return Outcome(waits_s, max(done_s.values()) - arrivals_s[0])


def _free(crowd: list[_Replica], limit: int, draw: random.Random) -> int | None:
    """The least busy of eight, or anyone with room when none of them has; `None` when all are full."""
    looked_at = draw.sample(range(len(crowd)), min(8, len(crowd)))
    best = min(looked_at, key=lambda index: crowd[index].ongoing)
    if crowd[best].ongoing < limit:
        return best
    return next((index for index, replica in enumerate(crowd) if replica.ongoing < limit), None)


MOST_BUSY = 0.9  # room for a replica that is lost, and for a minute that is not average


def replicas_needed(rate_per_s: float, wait_s: float, width: int, work: Work, pictures: int = 5000) -> int:
    """The fewest replicas, at most 90 % busy, with which 19 of 20 visitors have their picture within `wait_s`.

    Raises ValueError when not even an idle replica is so fast.
    """
    alone_s = simulate([0.0], 1, width, work).waits_s[0]
    if alone_s > wait_s:
        raise ValueError(f"one picture takes {alone_s:.1f} s on an idle replica, more than the {wait_s:g} s asked for")
    fewest = max(1, math.ceil(rate_per_s * work.busy_s(width) / MOST_BUSY))
    arrivals_s = poisson(rate_per_s, max(pictures, 4 * fewest * width))
    return next(n for n in _from(fewest) if simulate(arrivals_s, n, width, work).p95_wait_s <= wait_s)


def _from(fewest: int) -> Iterator[int]:
    """Every number up to 100, then in steps of a hundredth."""
    number = fewest
    while True:
        yield number
        number += max(1, number // 100)
