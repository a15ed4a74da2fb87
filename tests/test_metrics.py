import pytest
from prometheus_client.parser import text_string_to_metric_families

from sd_space.devices import Device, DeviceState
from sd_space.errors import Cancelled
from sd_space.schema import BackendStatus, GenerationResult, Outcome, Stage
from sd_space.serving.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """(name, label values…) -> value, as Prometheus reads them."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_pictures_are_counted_by_outcome_from_zero():
    metrics = Metrics(lambda: BackendStatus(Stage.READY))
    assert samples(metrics)["sd_space_pictures_total", "withheld"] == 0
    metrics.count([Outcome.OK, Outcome.OK, Outcome.WITHHELD], GenerationResult("r", (), {"total": 3.0}))
    read = samples(metrics)
    assert (read["sd_space_pictures_total", "ok"], read["sd_space_pictures_total", "withheld"]) == (2, 1)
    assert read["sd_space_stage_seconds_sum", "total"] == 3.0


def test_a_failed_run_is_counted_by_kind_with_the_pictures_it_finished():
    metrics = Metrics(lambda: BackendStatus(Stage.READY))
    metrics.count([Outcome.OK], Cancelled("Cancelled by somebody in particular"))
    read = samples(metrics)
    assert read["sd_space_failures_total", "Cancelled"] == 1 and read["sd_space_pictures_total", "ok"] == 1
    assert b"particular" not in metrics.exposition()


def test_calls_that_are_turned_away_are_counted_by_status():
    metrics = Metrics(lambda: BackendStatus(Stage.READY))
    for status in (503, 429, 503):
        metrics.count_refusal(status)
    read = samples(metrics)
    assert (read["sd_space_refusals_total", "503"], read["sd_space_refusals_total", "429"]) == (2, 1)


@pytest.mark.parametrize(("stage", "ready"), [(Stage.READY, 1), (Stage.LOADING, 0), (Stage.FAILED, 0)])
def test_the_queue_is_read_at_the_moment_of_asking(stage, ready):
    read = samples(Metrics(lambda: BackendStatus(stage, waiting=3, running=2)))
    assert read[("sd_space_requests_waiting",)] == 3 and read[("sd_space_requests_running",)] == 2
    assert read[("sd_space_ready",)] == ready


def test_replicas_are_counted_by_state():
    status = BackendStatus(Stage.READY, replicas={"running": 2, "starting": 1}, reruns=3)
    read = samples(Metrics(lambda: status))
    assert read["sd_space_replicas", "running"] == 2 and read["sd_space_replicas", "starting"] == 1
    assert read[("sd_space_reruns_total",)] == 3


def test_the_state_of_each_device_is_told():
    devices = (Device("cuda:0", DeviceState.READY), Device("cuda:1", DeviceState.FAILED))
    read = samples(Metrics(lambda: BackendStatus(Stage.READY, devices=devices)))
    found = {key[1:]: value for key, value in read.items() if key[0] == "sd_space_engine_state"}
    assert {pair for pair, value in found.items() if value} == {("cuda:0", "ready"), ("cuda:1", "failed")}
    assert len(found) == 2 * len(DeviceState), "a state that is over reads 0"


def test_unet_calls_are_counted_by_the_pictures_that_shared_them():
    read = samples(Metrics(lambda: BackendStatus(Stage.READY, unet_calls={4: (10, 2.5), 1: (3, 0.5)})))
    assert (read["sd_space_unet_calls_total", "4"], read["sd_space_unet_seconds_total", "4"]) == (10, 2.5)
    assert read["sd_space_unet_calls_total", "1"] == 3


def test_two_servers_in_one_process_count_apart():
    first, second = (Metrics(lambda: BackendStatus(Stage.READY)) for _ in range(2))
    first.count([Outcome.OK], GenerationResult("r", (), {}))
    assert samples(second)["sd_space_pictures_total", "ok"] == 0


def test_no_metric_tells_whether_a_prompt_was_encoded_before():
    metrics = Metrics(lambda: BackendStatus(Stage.READY))
    metrics.count([], GenerationResult("r", (), {"encode_prompt": 0.25, "total": 3.25}))
    read = samples(metrics)
    assert ("sd_space_stage_seconds_sum", "encode_prompt") not in read
    assert read["sd_space_stage_seconds_sum", "total"] == 3.0
