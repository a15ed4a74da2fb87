"""Metrics for Prometheus: pictures, failed runs, refused calls, seconds by stage, and the queue."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sd_space.devices import DeviceState
from sd_space.errors import SpaceError
from sd_space.schema import BackendStatus, GenerationResult, Outcome
from sd_space.serving.recipe import public_seconds
from sd_space.serving.runs import Run

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHARED = ["pictures"]


class Metrics:
    """The counters of one server, in a registry of its own. No prompt, token or address is ever a label."""

    def __init__(self, status: Callable[[], BackendStatus]):
        self._registry = CollectorRegistry()
        self._registry.register(_Queue(status))
        names: dict[str, Any] = {"namespace": "sd_space", "registry": self._registry}
        self._pictures = Counter("pictures", "Finished pictures by outcome", ["outcome"], **names)
        self._failures = Counter("failures", "Requests that ended without a result, by kind", ["kind"], **names)
        self._refusals = Counter("refusals", "Calls that were refused, by HTTP status", ["status"], **names)
        self._seconds = Histogram(
            "stage_seconds", "Seconds of a request by stage", ["stage"], buckets=_SECONDS, **names
        )
        for outcome in Outcome:
            self._pictures.labels(outcome)

    def count_run(self, run: Run, end: GenerationResult | SpaceError) -> None:
        self.count([picture.outcome for picture in (*run.finished, *run.inspected.values())], end)

    def count(self, pictures: Iterable[Outcome], end: GenerationResult | SpaceError) -> None:
        """Counts a run by its finished pictures, also where it failed, and by how it ended."""
        for outcome in pictures:
            self._pictures.labels(outcome).inc()
        if isinstance(end, SpaceError):
            self._failures.labels(type(end).__name__).inc()
        else:
            for stage, seconds in public_seconds(end).items():
                self._seconds.labels(stage).observe(seconds)

    def count_refusal(self, status: int) -> None:
        """Counts a call that the request filter has refused, by the HTTP status of its answer."""
        self._refusals.labels(status).inc()

    def exposition(self) -> bytes:
        """The page that Prometheus reads (text format 0.0.4)."""
        return generate_latest(self._registry)


class _Queue(Collector):
    """The queue as it is at the moment of asking."""

    def __init__(self, status: Callable[[], BackendStatus]):
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield GaugeMetricFamily("sd_space_requests_running", "Requests that are being drawn", status.running)
        yield GaugeMetricFamily("sd_space_requests_waiting", "Requests in the queue", status.waiting)
        replicas = GaugeMetricFamily("sd_space_replicas", "Replicas of the engine by state", labels=["state"])
        for state, count in status.replicas.items():
            replicas.add_metric([state], count)
        yield replicas
        yield CounterMetricFamily("sd_space_reruns", "Requests run again because their replica was lost", status.reruns)
        restarts = CounterMetricFamily(
            "sd_space_engine_restarts", "Processes of engines that were lost and replaced", labels=["reason"]
        )
        for reason, count in status.restarts.items():
            restarts.add_metric([reason], count)
        yield restarts
        engines = GaugeMetricFamily(
            "sd_space_engine_state", "1 for the state in which a device's engine is", labels=["device", "state"]
        )
        for device in status.devices:
            for state in DeviceState:
                engines.add_metric([device.device, state], float(device.state is state))
        yield engines
        calls = CounterMetricFamily(
            "sd_space_unet_calls", "UNet calls by the pictures that shared them", labels=_SHARED
        )
        seconds = CounterMetricFamily("sd_space_unet_seconds", "Seconds of those calls", labels=_SHARED)
        for pictures, (number, seconds_in_all) in sorted(status.unet_calls.items()):
            calls.add_metric([str(pictures)], number)
            seconds.add_metric([str(pictures)], seconds_in_all)
        yield from (calls, seconds)
        yield GaugeMetricFamily("sd_space_ready", "1 while a picture could be made", float(status.is_ready))
