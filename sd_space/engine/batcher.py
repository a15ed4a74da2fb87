"""Which pictures run the next step: fair between visitors. Imports no torch.

At most `width` trajectories have a *seat*. Visitors are kept in the order in which they came, and seats are assigned
round by round: to each visitor's first picture, then to each one's second, until no seat is left. So a single picture
takes the seat of a visitor who has two, and never waits for four pictures of another. When a visitor's first picture
is finished, the visitor goes to the end of the order: those without a seat are served first come, first served, and
none waits forever. Pictures with a higher `priority` get the seats that those with a lower one leave.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from sd_space.request import GenerationRequest


class BatchKey(NamedTuple):
    """What rows must agree on to share a UNet call: the latents' size, and guidance (two rows a picture) or none."""

    height: int
    width: int
    has_guidance: bool

    @classmethod
    def of(cls, request: GenerationRequest) -> "BatchKey":
        return cls(request.height, request.width, request.guidance_scale > 1.0)


class TrajectoryStatus(StrEnum):
    WAITING = "waiting"  # has no latents yet
    RUNNING = "running"
    FINISHED = "finished"  # its last step is done; it may still have to be decoded


@dataclass(slots=True, eq=False)
class Trajectory:
    """One picture from its request to its last step: picture `index` of that request. The engine holds its tensors."""

    trajectory_id: int
    request_id: str
    visitor: str
    seed: int
    index: int
    key: BatchKey
    num_timesteps: int
    step_index: int = 0
    last_tick: int = -1
    status: TrajectoryStatus = TrajectoryStatus.WAITING
    priority: int = 0
    of_step: int | None = None  # of an inspection, with no steps of its own: the one that it shows, or 0

    @property
    def steps_left(self) -> int:
        return self.num_timesteps - self.step_index


class FairQueue:
    """Trajectories in the order of their turns: by priority, then round by round of their visitors."""

    def __init__(self) -> None:
        self._ring: OrderedDict[tuple[int, str], list[Trajectory]] = OrderedDict()  # by priority and visitor, in order

    def __len__(self) -> int:
        return sum(len(trajectories) for trajectories in self._ring.values())

    def add(self, trajectory: Trajectory) -> None:
        self._ring.setdefault((trajectory.priority, trajectory.visitor), []).append(trajectory)

    def in_order(self) -> Iterator[Trajectory]:
        for priority in sorted({priority for priority, _ in self._ring}):
            visitors = [trajectories for (own, _), trajectories in self._ring.items() if own == priority]
            for turn in range(max(map(len, visitors))):
                for trajectories in visitors:
                    if turn < len(trajectories):
                        yield trajectories[turn]

    def take_out(self, trajectory: Trajectory) -> None:
        """One whose turn is over; its visitor goes to the end of the order if it was that one's first."""
        key = trajectory.priority, trajectory.visitor
        trajectories = self._ring[key]
        was_first = trajectories[0] is trajectory
        trajectories.remove(trajectory)
        if not trajectories:
            del self._ring[key]
        elif was_first:
            self._ring.move_to_end(key)

    def pop(self, most: int) -> list[Trajectory]:
        """Takes out the first ones, at most so many."""
        first = list(islice(self.in_order(), most))
        for trajectory in first:
            self.take_out(trajectory)
        return first

    def remove(self, request_id: str) -> list[Trajectory]:
        """Removes all trajectories of a request, and returns them."""
        removed = [trajectory for trajectory in self.in_order() if trajectory.request_id == request_id]
        for trajectory in removed:
            self.take_out(trajectory)
        return removed


class StepBatcher(FairQueue):
    """Assigns `width` seats, and forms the batch of each step from the trajectories that have one."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self._tick = 0

    def seated(self) -> list[Trajectory]:
        return list(islice(self.in_order(), self.width))

    def next_batch(self) -> list[Trajectory]:
        """The trajectories that step together now; empty if there are none.

        Keys take turns: the seated trajectory that has waited longest for a step runs, with all that share its key.
        """
        seated = self.seated()
        if not seated:
            return []
        key = min(seated, key=lambda trajectory: trajectory.last_tick).key
        return [trajectory for trajectory in seated if trajectory.key == key]

    def advance(self, batch: list[Trajectory]) -> list[Trajectory]:
        """Counts one step for each of `batch`; returns those that are finished, which have no seat any more."""
        self._tick += 1
        finished = []
        for trajectory in batch:
            trajectory.step_index += 1
            trajectory.last_tick = self._tick
            if not trajectory.steps_left:
                trajectory.status = TrajectoryStatus.FINISHED
                finished.append(trajectory)
        for trajectory in finished:
            self.take_out(trajectory)
        return finished

    def queue_positions(self) -> dict[str, int]:
        """Of each request: 0 while a picture of it has a seat, else its position among those that wait (1 is next)."""
        positions: dict[str, int] = {}
        waiting = 0
        for seat, trajectory in enumerate(self.in_order()):
            if trajectory.request_id not in positions:
                waiting += seat >= self.width
                positions[trajectory.request_id] = waiting
        return positions
