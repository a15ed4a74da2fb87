"""Ray Serve: requests spread over replicas, survive the loss of one, and never wait for nothing."""

import asyncio
import importlib
import time
from dataclasses import replace

import httpx
import pytest
import ray
import yaml
from ray import serve as ray_serve
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from sd_space.backends.ray_serve.deployment import APP, replicas
from sd_space.errors import Cancelled, EngineFailed, QueueFull
from sd_space.schema import GenerationResult, PictureFinished, Progress, RequestFailed
from sd_space.serving.limits import Capacity
from sd_space.tools.bench.clusters import replica_processes

from ..server import ROOT, serve
from ..test_api import QUICK, call
from ..test_in_process_backend import TIMEOUT_S, updates_of
from ..tiny_models import admitted
from .conftest import busiest

LONG = {"num_inference_steps": 150, "num_images_per_prompt": 4}
ENDLESS = {"num_inference_steps": 999, "width": 192, "height": 192}  # minutes, on any machine


async def until(condition) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not await asyncio.to_thread(condition):  # Serve's own calls must not be made on an event loop
            await asyncio.sleep(0.01)


def counts(backend) -> list[tuple[int, int]]:
    """What each replica has waiting and running."""
    told = backend._replicas._handle.broadcast("status").results(timeout_s=TIMEOUT_S)
    return sorted((each.status.waiting, each.status.running) for each in told)


async def cancelled(backend, name: str, tasks) -> None:
    """Ends the requests name0, name1, … of these tasks. A replica may hear of it when the next test has begun."""
    for number, _ in enumerate(tasks):
        backend.cancel(f"{name}{number}")
    await asyncio.gather(*tasks)


def test_a_request_runs_from_progress_to_result(whole):
    updates = asyncio.run(updates_of(whole, admitted("a", num_images_per_prompt=2)))
    assert isinstance(updates[0], Progress) and not updates[0].note
    assert [update.index for update in updates if isinstance(update, PictureFinished)] == [0, 1]
    assert isinstance(updates[-1], GenerationResult)
    assert whole.status().info.model == "noise-painter"
    assert whole.tokenizer().max_tokens == 75


def test_a_request_goes_where_nothing_is_drawn_yet(whole):
    began_s = time.monotonic()

    async def main():
        tasks = []
        # What a replica last said of its queue counts for a second, though its requests may be over.
        await until(lambda: time.monotonic() > began_s + 1.0 and counts(whole) == [(0, 0), (0, 0)])
        for k in range(2):
            tasks.append(asyncio.create_task(updates_of(whole, admitted(f"few{k}", **ENDLESS))))
            await until(lambda: whole.status().running == len(tasks))
        spread = await asyncio.to_thread(counts, whole)
        await cancelled(whole, "few", tasks)
        return spread

    assert asyncio.run(main()) == [(0, 1), (0, 1)]


def test_a_crowd_is_split_evenly(whole):
    async def main():
        tasks = [asyncio.create_task(updates_of(whole, admitted(f"crowd{k}", **ENDLESS))) for k in range(28)]
        await until(lambda: sum(map(sum, counts(whole))) == len(tasks))
        spread = await asyncio.to_thread(counts, whole)
        await cancelled(whole, "crowd", tasks)
        return spread

    # 14 each, but for the two requests of before: the page may hear late that they are over.
    assert min(waiting + running for waiting, running in asyncio.run(main())) >= 13


def test_cancel_reaches_the_replica(whole):
    async def main():
        running = asyncio.create_task(updates_of(whole, admitted("a", **ENDLESS)))
        await until(lambda: whole.status().running == 1)
        whole.cancel("a")
        whole.cancel("nobody")
        updates = await running
        await until(lambda: counts(whole) == [(0, 0), (0, 0)])
        return updates

    updates = asyncio.run(main())
    assert isinstance(updates[-1], RequestFailed) and isinstance(updates[-1].error, Cancelled)
    assert not any(isinstance(update, PictureFinished) for update in updates)


@pytest.mark.nightly
def test_closing_the_iterator_reaches_the_replica(whole):
    async def main():
        async with asyncio.timeout(TIMEOUT_S):
            updates = whole.generate(admitted("a", **ENDLESS))
            await anext(updates)
            await updates.aclose()
        await until(lambda: counts(whole) == [(0, 0), (0, 0)])

    asyncio.run(main())


@pytest.mark.nightly
def test_more_than_may_wait_are_refused(whole, cluster_settings):
    """Those who are let in are drawn, and no replica's own bound is met by them."""
    capacity, let_in = Capacity(cluster_settings, whole.status), []
    with pytest.raises(QueueFull, match="come back in a few minutes"):
        while True:
            capacity.enter(None)
            let_in.append(admitted(f"r{len(let_in)}", num_inference_steps=60))
    assert len(let_in) == 28, "two replicas draw four each, and twenty wait"
    assert replicas(cluster_settings)._bound_deployment.max_ongoing_requests >= len(let_in)

    async def main():
        return await asyncio.gather(*(updates_of(whole, request) for request in let_in))

    assert all(isinstance(updates[-1], GenerationResult) for updates in asyncio.run(main()))


@pytest.mark.nightly
def test_a_replica_killed_in_the_middle_costs_time_and_nothing_else(whole):
    request = admitted("a", **LONG)

    async def main():
        undisturbed = await updates_of(whole, admitted("b", **LONG))
        reruns = whole.status().reruns
        running = asyncio.create_task(updates_of(whole, request))
        await until(lambda: whole.status().running == 1)
        await asyncio.to_thread(lambda: busiest(replica_processes()).kill())
        updates = await running
        assert whole.status().reruns == reruns + 1
        await until(lambda: whole.status().replicas != {"running": 2})
        assert whole.status().is_ready, "one replica is enough"
        return undisturbed, updates

    undisturbed, updates = asyncio.run(main())
    assert [image.pixels for image in updates[-1].images] == [image.pixels for image in undisturbed[-1].images]
    finished = [update.index for update in updates if isinstance(update, PictureFinished)]
    assert sorted(finished) == [0, 1, 2, 3], "each picture comes out once"
    notes = [update.note for update in updates if isinstance(update, Progress)]
    assert notes[0] == "" and "again on another, with the same seeds" in notes[-1]


@pytest.mark.nightly
def test_a_request_is_not_run_again_without_end(whole, monkeypatch):
    monkeypatch.setattr("sd_space.backends.replicas.ATTEMPTS", 1)

    async def main():
        running = asyncio.create_task(updates_of(whole, admitted("a", **LONG)))
        await until(lambda: whole.status().running == 1)
        await asyncio.to_thread(lambda: busiest(replica_processes()).kill())
        with pytest.raises(EngineFailed, match="try again later"):
            await running

    asyncio.run(main())


@pytest.mark.nightly
def test_while_replicas_are_killed_pictures_are_right_or_refused_and_none_hangs(whole):
    requests = [admitted(f"r{k}", seed=k, num_inference_steps=40) for k in range(24)]

    async def draw(request):
        try:
            return (await updates_of(whole, request))[-1].images[0].pixels
        except EngineFailed:
            return None

    async def main():
        expected = await asyncio.gather(*(draw(request) for request in requests))
        drawn = []
        for group in (requests[:8], requests[8:16], requests[16:]):
            tasks = [asyncio.create_task(draw(request)) for request in group]
            await until(lambda: whole.status().running)
            await asyncio.to_thread(lambda: replica_processes()[0].kill())
            drawn += await asyncio.gather(*tasks)
        return expected, drawn

    expected, drawn = asyncio.run(main())
    assert drawn.count(None) <= 2
    for pixels, undisturbed in zip(drawn, expected, strict=True):
        if pixels is not None:
            assert max(abs(a - b) for a, b in zip(pixels, undisturbed, strict=True)) <= 1


@pytest.mark.nightly
def test_a_rolling_redeploy_loses_nothing(whole, cluster_settings):
    before = {process.pid for process in replica_processes()}
    target = ray_serve.RunTarget(replicas(replace(cluster_settings, turbo=True)), name=APP, route_prefix=None)

    async def main():
        reruns = whole.status().reruns
        redeploy = asyncio.create_task(asyncio.to_thread(ray_serve.run_many, [target]))
        results = []
        while not redeploy.done():
            batch = [admitted(f"r{len(results) + k}", num_inference_steps=50) for k in range(4)]
            results += await asyncio.gather(*(updates_of(whole, request) for request in batch))
        await redeploy
        assert whole.status().reruns == reruns
        await until(lambda: whole.status().info.turbo)  # the page tells its visitors what is served now
        return results

    results = asyncio.run(main())
    assert results and all(isinstance(updates[-1], GenerationResult) for updates in results)
    assert not before & {process.pid for process in replica_processes()}


def events(server, body):
    """What a visitor is told whose replica is killed in the middle."""
    url, is_killed = f"{server.url}/gradio_api/call", False
    event_id = httpx.post(f"{url}/v2/generate", json=body).json()["event_id"]
    with httpx.stream("GET", f"{url}/generate/{event_id}", timeout=TIMEOUT_S) as stream:
        for line in stream.iter_lines():
            if '"step"' in line and not is_killed:
                busiest(replica_processes()).kill()
                is_killed = True
            if line.startswith("data: "):
                yield line


async def drawn_elsewhere(whole, page, token) -> list[tuple[int, int]]:
    """Where a request goes while another page's is drawn, once what is known of the replicas is a second old."""
    slow = {"width": 96, "height": 96, "scheduler": "Heun", "acceptance_token": token}
    httpx.post(f"{page.url}/gradio_api/call/v2/generate", json=QUICK | LONG | slow)
    await until(lambda: counts(whole) == [(0, 0), (0, 1)])
    began_s = time.monotonic()
    await until(lambda: time.monotonic() - began_s > 1.1)
    ours = asyncio.create_task(updates_of(whole, admitted("r0", **ENDLESS)))
    await until(lambda: sum(map(sum, counts(whole))) == 2)
    spread = await asyncio.to_thread(counts, whole)
    await cancelled(whole, "r", [ours])
    await until(lambda: counts(whole) == [(0, 0), (0, 0)])
    return spread


@pytest.mark.nightly
def test_the_page_joins_the_cluster_and_draws_where_others_do_not_and_tells_of_a_lost_replica(whole):
    address = ray.get_runtime_context().gcs_address
    with serve("--backend", "ray", RAY_ADDRESS=address) as server:
        answer = server.wait_for("/readyz", timeout_s=120)
        assert answer.json()["replicas"] == {"running": 2}
        _, (token,) = call(server, "accept_license", {"agree": True})
        event, drawn = call(server, "generate", QUICK | {"acceptance_token": token, "width": 64, "height": 64})
        assert event == "complete" and drawn[1]["model"] == "noise-painter"
        assert 'sd_space_replicas{state="running"} 2.0' in server.get("/metrics").text
        asyncio.run(until(lambda: 'sd_space_unet_calls_total{pictures="1"}' in server.get("/metrics").text))
        assert asyncio.run(drawn_elsewhere(whole, server, token)) == [(0, 1), (0, 1)]
        *told, result = events(server, QUICK | LONG | {"acceptance_token": token, "width": 64, "height": 64})
        assert any("drawn again on another, with the same seeds" in line for line in told)
        assert result.count('"outcome": "ok"') == 4
    asyncio.run(until(lambda: len(replica_processes()) == 2))  # the cluster keeps its replicas when a page leaves


def test_the_example_config_deploys_what_its_settings_say():
    text = (ROOT / "examples" / "serve.yaml").read_text(encoding="utf-8")
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    module, _, builder = application.import_path.partition(":")
    assert application.name == APP and application.route_prefix is None
    built = call_user_app_builder_with_args_if_necessary(
        getattr(importlib.import_module(module), builder), application.args
    )
    deployment = built._bound_deployment
    autoscaling = deployment._deployment_config.autoscaling_config
    assert (autoscaling.min_replicas, autoscaling.max_replicas) == (2, 8)
    assert deployment.ray_actor_options == {"num_cpus": 1, "num_gpus": 1.0}
    (settings,) = built._bound_deployment.init_args
    assert settings.model == "CompVis/stable-diffusion-v1-4"
