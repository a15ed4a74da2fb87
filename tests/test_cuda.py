"""The CUDA path on a pretended device: where the host waits, what its clock says, and memory that runs out anywhere."""

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from sd_space.backends.loading import build_engine
from sd_space.engine.batcher import BatchKey
from sd_space.engine.engine import Engine
from sd_space.engine.pacing import make_pacer
from sd_space.model.cuda_graphs import RECORD_AT
from sd_space.model.kernels import USUAL, Kernels
from sd_space.model.memory import GIB, MEMORY_PROFILES
from sd_space.model.pipeline import LoadedPipeline
from sd_space.model.placement import Placement, tile_decode
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.model.unipc import UniPC
from sd_space.schema import Outcome, Progress
from sd_space.served_model import SCHEDULERS
from sd_space.settings import Settings

from .generated import drawn, sampled, taking_turns
from .pretend_cuda import counted
from .test_denoiser import prepared
from .test_engine import failures, pixels, plain_pixels, progress_of, results, run
from .test_placement import far_apart
from .tiny_models import admitted, make_engine, make_request, make_source

STEP_S, LAUNCHING_S = 0.144, 0.010  # of v1-4 on a T4: a step, and what of it the host needs to launch it


@pytest.fixture
def gpu(pretended_gpu):
    return pretended_gpu


def engine_of(gpu, loaded, **changes) -> Engine:
    return make_engine(loaded, now_s=gpu.pretended.clock, can_go_lower=True, **changes)


def drawn_by(engine: Engine, **changes) -> np.ndarray:
    engine.add_request(admitted("a", **changes))
    return pixels(results(run(engine))["a"])


# --- waits


@pytest.mark.parametrize(
    ("scheduler", "sources"),
    sampled([(name, sources) for name in SCHEDULERS for sources in ((), ("init_image", "mask"))], 5),
)
def test_in_a_step_nothing_is_copied_and_nothing_waited_for_but_the_step_before(gpu, scheduler, sources):
    """With previews of every step, of pictures that are recorded and of one that is not."""
    engine = engine_of(gpu, gpu.load())
    pictures = {name: make_source(channels=3 if name == "init_image" else 1) for name in sources}
    engine.add_request(admitted("a", scheduler=scheduler, num_inference_steps=9, **pictures))
    for _ in range(RECORD_AT + 1):
        engine.step()
    with gpu.pretended.stalls.watched() as stalls:
        previews = [progress_of(engine.step(), "a").previews for _ in range(2)]
    assert all(previews)
    noise = 2 if scheduler in ("Euler a", "LCM") else 0
    kinds = counted(stalls)
    assert kinds.pop("event") >= 2
    assert kinds == ({"copy to device": noise} if noise else {}), stalls


def test_a_picture_that_joins_makes_no_other_wait(gpu):
    engine = engine_of(gpu, gpu.load())
    engine.add_request(admitted("a", num_inference_steps=9))
    engine.step()
    engine.add_request(admitted("b"))  # with a's prompt, which is known
    with gpu.pretended.stalls.watched() as stalls:
        engine.step()
    assert set(counted(stalls)) == {"event", "pageable copy"}, "its noise and its timesteps, which are small"


@pytest.mark.parametrize("pictures", [1, 3])
def test_whether_a_picture_is_finite_is_asked_once(gpu, monkeypatch, pictures):
    engine, asked, isfinite = engine_of(gpu, gpu.load()), [], torch.isfinite
    engine.add_request(admitted("a", num_images_per_prompt=pictures, num_inference_steps=1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "isfinite", lambda tensor: asked.append(tensor.shape) or isfinite(tensor))
        run(engine)
    assert asked.count((3, 64, 64)) == pictures
    assert set(asked) == {(3, 64, 64), (1,)}, "the other is of what the checker saw"


# --- times


def as_a_t4(gpu, loaded) -> None:
    """Sets the clock so that a step of one picture takes what it takes on a T4."""
    device, engine = gpu.pretended, engine_of(gpu, loaded)
    (state,) = prepared(engine._denoiser, make_request())
    launches, items = device.launches, device.items
    engine._denoiser.denoise_step([state])
    launches, items = device.launches - launches, device.items - items
    device.clock.launch_s = LAUNCHING_S / launches
    device.clock.item_s = (STEP_S - launches * device.clock.kernel_s) / items


def timed(gpu, engine: Engine, **changes) -> tuple[float, list[tuple[float, float]]]:
    """How long a picture takes, and at each report the seconds left: as reported, and as they were."""
    clock = gpu.pretended.clock
    began_s, reports = clock(), []
    engine.add_request(admitted("a", **changes))
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, Progress) and update.seconds_left is not None:
                reports.append((clock(), update.seconds_left))
    return clock() - began_s, [(left_s, clock() - at_s) for at_s, left_s in reports]


@taking_turns(1)
def test_on_a_t4_the_times_are_right_and_previews_cost_nothing(gpu):
    loaded = gpu.load()
    as_a_t4(gpu, loaded)
    engine = engine_of(gpu, loaded, report_every_s=0.2)
    changes = {"num_inference_steps": 40}
    timed(gpu, engine, num_inference_steps=4)  # finds out how long a decode takes
    took_s, reports = timed(gpu, engine, **changes)
    for reported_s, truly_s in reports[1:]:
        assert reported_s == pytest.approx(truly_s, rel=0.1)
    calls, total_s = engine.unet_calls[1]
    assert total_s / calls == pytest.approx(STEP_S, rel=0.1)
    assert calls == 5 + 41, "the last step of a picture is counted too"
    engine.previews = False
    without_s, _ = timed(gpu, engine, **changes)
    assert took_s == pytest.approx(without_s, rel=0.01)
    assert took_s == pytest.approx(41 * STEP_S, rel=0.1)


def test_a_preview_shows_the_step_of_the_report_before(gpu):
    engine = engine_of(gpu, gpu.load())
    engine.add_request(admitted("a"))
    shown = [progress_of(engine.step(), "a").previews for _ in range(4)]
    assert shown[0] == () and all(preview.pixels for (preview,) in shown[1:])
    assert len({preview.pixels for (preview,) in shown[1:]}) == 3


# --- pictures that are finished beside the steps of others


def crowd(engine: Engine, during=lambda steps: None) -> dict:
    """What became of a picture that is finished while another one steps."""
    engine.add_request(admitted("short", num_inference_steps=1))
    engine.add_request(admitted("long", num_inference_steps=6))
    updates = []
    while not engine.is_idle:
        updates += engine.step()
        during(sum(calls for calls, _ in engine.unet_calls.values()))
    return results(updates)


@pytest.mark.parametrize("failure", [None, torch.OutOfMemoryError("no memory")], ids=str)
def test_a_picture_is_finished_while_others_step_and_what_fails_there_is_done_again(gpu, monkeypatch, failure):
    loaded = gpu.load()
    vae, profile, may_end, threads = loaded.pipeline.vae, loaded.placement.profile, threading.Event(), []
    expected, engine = crowd(engine_of(gpu, loaded)), engine_of(gpu, loaded, beside=lambda: True)
    decode = vae.decode

    def slow_decode(*args, **kwargs):
        threads.append(threading.current_thread().name)
        if threads[-1] == "finisher":
            assert may_end.wait(60), "the other picture has not stepped"
            if failure is not None:
                raise failure
        return decode(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", slow_decode)
    found = crowd(engine, lambda steps: steps < 4 or may_end.set())
    assert threads == ["finisher", *["MainThread"] * (2 if failure else 1)], "the last one has nobody beside it"
    assert {name: far_apart(pixels(found[name]), pixels(expected[name])) for name in found} == {"short": 0, "long": 0}
    assert found["short"].elapsed_s["denoise"] < found["long"].elapsed_s["denoise"]
    assert loaded.placement.profile == profile


def test_a_request_that_is_cancelled_while_it_is_finished_gets_nothing(gpu, monkeypatch):
    loaded = gpu.load()
    engine, may_end, vae = engine_of(gpu, loaded, beside=lambda: True), threading.Event(), loaded.pipeline.vae
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda *args, **kwargs: may_end.wait(60) and decode(*args, **kwargs))
    engine.add_request(admitted("short", num_inference_steps=1))
    engine.add_request(admitted("long", num_inference_steps=6))
    while not engine._finisher.under_way:
        engine.step()
    engine.cancel("short")
    engine.cancel("long")
    may_end.set()
    updates = run(engine)
    assert not results(updates) and set(failures(updates)) == {"short", "long"}
    assert engine.is_idle and not engine._states


def test_nothing_is_moved_in_memory_while_a_picture_is_decoded_beside(gpu, monkeypatch):
    loaded = gpu.load()
    engine, held, vae = engine_of(gpu, loaded, beside=lambda: True), [], loaded.pipeline.vae
    decode = vae.decode
    monkeypatch.setattr(engine._denoiser, "_reduce_memory", lambda: held.append("moved") or True)

    def decode_during_a_move(*args, **kwargs):
        if threading.current_thread().name == "finisher":
            mover = threading.Thread(target=engine._denoiser.reduce_memory)
            mover.start()
            mover.join(0.1)
            held.append("decoded")
        return decode(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", decode_during_a_move)
    assert len(crowd(engine)) == 2
    with engine._denoiser.staying:
        assert held[0] == "decoded"


# --- memory that runs out, anywhere


@drawn(3, nightly=200)
def test_memory_that_runs_out_anywhere_costs_nobody_a_picture(gpu, attempts):
    """Once, at any allocation on the device: from the prompt to the checker, with recordings and without."""
    changes = {"num_images_per_prompt": 2, "num_inference_steps": 3}
    engine = engine_of(gpu, gpu.load(dtype="float32"))
    before = gpu.pretended.allocations
    expected = drawn_by(engine, **changes)
    total = gpu.pretended.allocations - before
    for attempt in attempts:
        with attempt:
            engine = engine_of(gpu, gpu.load(dtype="float32"))
            gpu.pretended.fails_at = {gpu.pretended.allocations + attempt.asks(attempt.random.randint(1, total))}
            assert far_apart(drawn_by(engine, **changes), expected) <= 1
            attempt.came_to(engine.width)
    attempts.assert_held()


def test_the_width_follows_a_profile_that_takes_fewer_pictures(gpu):
    loaded = gpu.load()
    engine = engine_of(gpu, loaded)
    engine.add_request(admitted("a", num_images_per_prompt=4))
    while loaded.placement.profile.max_pictures != 1:
        assert loaded.placement.fall_back()
    engine.step()
    assert engine.width == 1
    assert len(results(run(engine))["a"].images) == 4


def test_reproducible_calls_that_do_not_fit_go_to_less_memory_at_once(gpu, monkeypatch):
    """All calls have the same rows, so halves would be no smaller."""
    loaded = gpu.load(dtype="float32")
    engine, rows = engine_of(gpu, loaded, width=4, fixed_rows=8), []
    forward, full = loaded.pipeline.unet.forward, [torch.OutOfMemoryError("no memory")]

    def once_full(sample, *args, **kwargs):
        rows.append(len(sample))
        if full:
            raise full.pop()
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(loaded.pipeline.unet, "forward", once_full)
    profile = loaded.placement.profile
    engine.add_request(admitted("a", num_images_per_prompt=4, num_inference_steps=1))
    assert not failures(run(engine))
    assert rows == [8, 8] and loaded.placement.profile != profile


# --- order in memory


@pytest.mark.parametrize("side", [8, 9])
def test_calls_of_many_rows_keep_channels_last_as_those_of_few_do(gpu, side):
    """Also where a size that layers do not divide evenly is passed on to them."""
    unet, seen = gpu.load(dtype="float32").pipeline.unet, []
    for block in unet.up_blocks[:1]:
        block.upsamplers[0].conv.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(65, 4, side, side, generator=generator).to("cuda")
    embeds = torch.randn(65, 77, 32, generator=generator).to("cuda")
    with torch.inference_mode():
        drawn, few = (unet(sample[:n], 500, encoder_hidden_states=embeds[:n]).sample for n in (65, 4))
    assert sum(map(len, seen)) == 65 + 4
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in seen)
    assert torch.allclose(drawn[:4].cpu(), few.cpu(), atol=1e-5)


# --- recordings


@pytest.mark.nightly
def test_more_shapes_than_are_kept_all_compute_what_they_should(gpu):
    """A graph that goes breaks the others of its pool: they must go with it."""
    loaded = gpu.load()
    runner, unet, generator = loaded.placement.unet_runner, loaded.pipeline.unet, torch.Generator().manual_seed(0)
    shapes = [(rows, side) for side in (4, 6, 8) for rows in range(1, 7)]
    with torch.inference_mode():
        for _ in range(2):
            for rows, side in shapes:
                sample = torch.randn(rows, 4, side, side, generator=generator).to("cuda", torch.float16)
                embeds = torch.randn(rows, 77, 32, generator=generator).to("cuda", torch.float16)
                inputs = sample, torch.full((rows,), 500.0, device="cuda"), embeds
                found = [runner.predict(*inputs) for _ in range(RECORD_AT)][-1]
                assert torch.equal(found, unet(*inputs[:2], encoder_hidden_states=embeds, return_dict=False)[0])
    assert gpu.pretended.graphs.captures == len(shapes)


def test_a_capture_that_fails_leaves_its_shape_alone_unrecorded(gpu, caplog):
    engine = engine_of(gpu, gpu.load())
    gpu.pretended.graphs.fails = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    alone = drawn_by(engine, num_inference_steps=5)
    gpu.pretended.graphs.fails = None
    assert "could not be recorded" in caplog.text and not gpu.pretended.graphs.replays
    assert far_apart(drawn_by(engine, num_inference_steps=5), alone) == 0
    drawn_by(engine, num_inference_steps=5, num_images_per_prompt=2)
    assert gpu.pretended.graphs.replays == 4


def test_starting_records_nothing(gpu):
    build_engine(gpu.load(), Settings(max_batch_size=1))
    assert gpu.pretended.graphs.captures == 0


@pytest.fixture
def nothing_is_known(tmp_path, monkeypatch):
    """Of this device, by earlier starts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def as_if(attention: float, convolutions: float):
    """The time that heavy work takes with cuDNN's attention in force, or with convolutions by trial, beside without."""

    def slowness(name: str) -> float:
        if name == "scaled_dot_product_attention" and torch.backends.cuda.cudnn_sdp_enabled():
            return attention
        return convolutions if name == "conv2d" and torch.backends.cudnn.benchmark else 1.0

    return slowness


def in_force(loaded) -> set[Kernels]:
    return {recording.kernels for recording in loaded.placement.unet_runner._graphs._recordings.values()}


@pytest.mark.parametrize(
    ("attention", "convolutions"), sampled([(1.0, 1.0), (0.1, 1.0), (1.0, 0.5), (0.1, 0.5), (3.0, 3.0)], 1), ids=str
)
def test_what_is_recorded_gets_the_kernels_that_pay_while_the_device_is_idle(
    gpu, nothing_is_known, attention, convolutions
):
    device, loaded = gpu.pretended, gpu.load()
    device.slowness, device.clock.item_s = as_if(attention, convolutions), 1e-6
    engine = engine_of(gpu, loaded)
    before = drawn_by(engine, num_inference_steps=5)
    assert in_force(loaded) == {USUAL}, "nobody waits for a measure"
    assert not torch.backends.cuda.cudnn_sdp_enabled() and not torch.backends.cudnn.benchmark
    assert list(loaded.placement.unet_runner.improve())
    wanted = Kernels(attention < 1, convolutions < 1)
    assert in_force(loaded) == {wanted}
    assert not torch.backends.cuda.cudnn_sdp_enabled() and not torch.backends.cudnn.benchmark
    replays = device.graphs.replays
    assert far_apart(drawn_by(engine, num_inference_steps=5), before) == 0
    assert device.graphs.replays - replays == 6, "all steps are replayed"
    assert not list(loaded.placement.unet_runner.improve()), "a shape is measured once"
    again = gpu.load()
    drawn_by(engine_of(gpu, again), num_inference_steps=5)
    captures = device.graphs.captures
    list(again.placement.unet_runner.improve())
    assert in_force(again) == {wanted}
    assert device.graphs.captures - captures == (wanted != USUAL), "and once for the device"


def test_a_measure_that_is_broken_off_or_has_no_memory_leaves_the_usual_kernels(gpu, nothing_is_known):
    loaded = gpu.load(dtype="float32")
    gpu.pretended.slowness = as_if(0.1, 0.1)
    engine, runner = engine_of(gpu, loaded), loaded.placement.unet_runner
    expected = drawn_by(engine, num_inference_steps=5)
    broken_off = runner.improve()
    next(broken_off)
    next(broken_off)
    broken_off.close()
    assert far_apart(drawn_by(engine, num_inference_steps=5), expected) == 0
    gpu.pretended.fails_at = {gpu.pretended.allocations + 30}
    list(runner.improve())
    assert in_force(loaded) == {USUAL}
    assert far_apart(drawn_by(engine, num_inference_steps=5), expected) == 0


# --- what is left behind


def test_an_engine_that_is_replaced_leaves_nothing(gpu):
    """Without the garbage collector, which leaves out what was there when the start ended."""
    loaded = gpu.load()
    gc.collect()
    gc.disable()
    try:
        engine = build_engine(loaded, Settings(max_batch_size=1))
        drawn_by(engine)
        denoiser = weakref.ref(engine._denoiser)
        del engine
        assert denoiser() is None
    finally:
        gc.enable()


def test_a_cancelled_picture_leaves_nothing(gpu):
    engine = engine_of(gpu, gpu.load())
    engine.add_request(admitted("a", num_inference_steps=9))
    for _ in range(RECORD_AT + 2):
        engine.step()
    (latents,) = (weakref.ref(state.latents) for state in engine._states.values())
    engine.cancel("a")
    engine.step()
    assert latents() is None and engine.is_idle


def test_a_picture_of_no_numbers_is_broken_alone(gpu):
    engine = engine_of(gpu, gpu.load())
    engine.add_request(admitted("a", num_images_per_prompt=2))
    engine.step()
    engine._states[1].latents = engine._states[1].latents * float("nan")
    outcomes = [image.outcome for image in results(run(engine))["a"].images]
    assert outcomes == [Outcome.BROKEN, Outcome.OK]


# --- exactness


@pytest.mark.parametrize(("profile", "scheduler"), sampled(list(itertools.product(MEMORY_PROFILES, SCHEDULERS)), 4))
def test_every_profile_draws_with_every_scheduler_what_the_stock_pipeline_draws(gpu, profile, scheduler):
    """In float16. Joined projections round otherwise; tiles are blended, so they are compared with tiles."""
    pipeline = gpu.pipeline()
    placement = Placement(pipeline, "cuda", [profile])
    engine = engine_of(gpu, LoadedPipeline(pipeline, None, placement), width=profile.max_pictures or 8)
    changes = {"num_inference_steps": 5, "scheduler": scheduler, "num_images_per_prompt": 2}
    stock = gpu.pipeline().to("cuda")
    if profile.vae_tiling:
        tile_decode(stock.vae)
    expected = plain_pixels(LoadedPipeline(stock, None, None), make_request(**changes))
    assert far_apart(drawn_by(engine, **changes), expected) <= (2 if profile.recorded_steps else 1)


@pytest.mark.parametrize("scheduler", sampled(SCHEDULERS, 3))
def test_recorded_steps_draw_what_the_stock_pipeline_draws_with_the_very_same_weights(gpu, scheduler):
    loaded, changes = gpu.load(), {"num_inference_steps": 5, "scheduler": scheduler}
    drawn = drawn_by(engine_of(gpu, loaded), **changes)
    assert far_apart(drawn, plain_pixels(loaded, make_request(**changes))) == 0
    assert gpu.pretended.graphs.replays


@pytest.mark.parametrize(
    "changes", [{}, {"solver_type": "bh2", "use_karras_sigmas": True}, {"solver_order": 3}], ids=str
)
def test_unipc_with_its_coefficients_on_the_cpu_is_diffusers_own(gpu, changes):
    config = dict(gpu.pipeline().scheduler.config) | changes
    for steps in (1, 2, 3, 12):
        latents = []
        for scheduler_class, device in ((UniPCMultistepScheduler, "cpu"), (UniPC, "cuda")):
            scheduler, generator = scheduler_class.from_config(config), torch.Generator().manual_seed(0)
            scheduler.set_timesteps(steps)
            latents.append(torch.randn(1, 4, 8, 8, generator=generator).to(device))
            for t in scheduler.timesteps:
                noise = torch.randn(1, 4, 8, 8, generator=generator).to(device)
                latents[-1] = scheduler.step(0.9 * latents[-1] + 0.1 * noise, t, latents[-1], return_dict=False)[0]
        assert torch.equal(latents[0], latents[1].cpu())


def test_offloaded_weights_are_moved_once_a_call(gpu, monkeypatch):
    """accelerate compares devices: one without a number is never equal to a tensor's own."""
    pipeline = gpu.pipeline()
    placement = Placement(pipeline, "cuda", [MEMORY_PROFILES[-2]])
    engine = engine_of(gpu, LoadedPipeline(pipeline, None, placement), width=1)
    moves, move = [], pipeline.unet.to
    monkeypatch.setattr(pipeline.unet, "to", lambda *args, **kwargs: moves.append(args) or move(*args, **kwargs))
    drawn_by(engine, num_inference_steps=4)
    assert len(moves) == 2, "to the device for the first step, and back for the decode"


def test_the_checker_waits_for_the_device_once_a_picture_and_reads_its_thresholds_from_the_host(gpu):
    engine = engine_of(gpu, gpu.load())
    engine.add_request(admitted("a", num_inference_steps=1))
    with gpu.pretended.stalls.watched() as stalls:
        run(engine)
    assert not [stall for stall in stalls if stall.kind == "wait" and "safety_checker.py" in stall.place]


def test_no_attention_is_planned_for_each_shape(gpu):
    gpu.load()
    assert not torch.backends.cuda.cudnn_sdp_enabled()


# --- other accelerators, and a device that is shared


def test_other_accelerators_are_waited_for_and_give_their_memory_back(monkeypatch):
    """Where events were never seen to work (MPS) the host waits for each step, and measures it."""
    done = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: done.append("synchronized"))
    pacer = make_pacer(torch.device("mps"), iter([1.0, 3.5]).__next__)
    pacer.begin()
    call = BatchKey(64, 64, True), 2
    assert pacer.end(call) == [(call, 2.5)] and done == ["synchronized"]
    assert pacer.finish() == [] and pacer.under_way is None


def test_replicas_that_share_a_gpu_share_its_memory():
    hardware = Hardware("cuda", total_vram_bytes=80 * GIB, free_vram_bytes=79 * GIB)
    limits = [
        PipelineSpec.from_settings(Settings(**settings), hardware).max_vram_gb
        for settings in ({}, {"ray_gpus_per_replica": 1.0}, {"ray_gpus_per_replica": 0.5}, {"max_vram_gb": 8.0})
    ]
    assert limits == [None, None, 40.0, 8.0]


def test_on_a_lent_gpu_nothing_is_measured(gpu):
    """A visitor's quota pays for each second, and the width is fixed."""
    loaded = gpu.load(backend="zerogpu", max_batch_size=4)
    steps, forward = [], loaded.pipeline.unet.forward
    loaded.pipeline.unet.forward = lambda *args, **kwargs: steps.append(args) or forward(*args, **kwargs)
    assert build_engine(loaded, Settings(backend="zerogpu", max_batch_size=4)).width == 4
    assert not steps
