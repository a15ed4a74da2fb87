"""Counts of UNet calls, summed over engines that come and go."""

from collections import Counter
from collections.abc import Mapping


class UNetCallTotals:
    """Keeps the last counts of engines that are gone: the sums are Prometheus counters, which must never fall."""

    def __init__(self) -> None:
        self._by_source: dict[str, Mapping[int, tuple[int, float]]] = {}

    def update(self, source_id: str, unet_calls: Mapping[int, tuple[int, float]]) -> None:
        """Replaces the counts of one engine: by pictures a call, how many calls and their seconds in all.

        One that has none, because it is lost or has just begun, takes nothing back.
        """
        if unet_calls:
            self._by_source[source_id] = unet_calls

    def total(self) -> dict[int, tuple[int, float]]:
        calls: Counter[int] = Counter()
        seconds: dict[int, float] = {}
        for unet_calls in self._by_source.values():
            for pictures, (number, seconds_in_all) in unet_calls.items():
                calls[pictures] += number
                seconds[pictures] = seconds.get(pictures, 0.0) + seconds_in_all
        return {pictures: (calls[pictures], seconds[pictures]) for pictures in calls}
