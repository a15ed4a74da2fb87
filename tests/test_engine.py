import gc
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from sd_space.engine.calibration import calibrate
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.engine import Engine, run_to_completion
from sd_space.engine.safety import SafetyScreen
from sd_space.engine.step_times import StepTimes
from sd_space.errors import Cancelled, EngineFailed, SafetyCheckFailed
from sd_space.model.pipeline import LoadedPipeline
from sd_space.schema import GenerationResult, Outcome, PictureFinished, Progress, RequestFailed, Update
from sd_space.served_model import SCHEDULERS

from .generated import paired, sampled
from .test_denoiser import plain_call
from .tiny_models import admitted, make_engine, make_request, make_screen


def run(engine: Engine) -> list[Update]:
    updates = []
    while not engine.is_idle:
        updates += engine.step()
    return updates


def results(updates: list[Update]) -> dict[str, GenerationResult]:
    return {update.request_id: update for update in updates if isinstance(update, GenerationResult)}


def failures(updates: list[Update]) -> dict[str, Exception]:
    return {update.request_id: update.error for update in updates if isinstance(update, RequestFailed)}


def progress_of(updates: list[Update], request_id: str) -> Progress:
    return next(u for u in updates if isinstance(u, Progress) and u.request_id == request_id)


def pixels(result: GenerationResult) -> np.ndarray:
    return np.stack([np.frombuffer(image.pixels, np.uint8) for image in result.images])


def plain_pixels(loaded: LoadedPipeline, request) -> np.ndarray:
    return np.stack([np.asarray(picture).reshape(-1) for picture in plain_call(loaded, request, output_type="pil")])


def break_unet(monkeypatch, loaded: LoadedPipeline, breaks) -> None:
    """Makes the UNet raise `breaks(call, rows)` where that returns an error."""
    unet = loaded.pipeline.unet
    forward, calls = unet.forward, itertools.count()

    def breaking(sample, *args, **kwargs):
        error = breaks(next(calls), sample)
        if error is not None:
            raise error
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", breaking)


# --- the same pictures as the plain pipeline


CASES = {
    "one, negative, odd size": {"negative_prompt": "a dog", "height": 72, "width": 80},
    "four, negative": {"num_images_per_prompt": 4, "negative_prompt": "a dog"},
    "one, no guidance": {"guidance_scale": 1.0},
    "four, no guidance, odd size": {"num_images_per_prompt": 4, "guidance_scale": 1.0, "height": 80, "width": 56},
}
every_pair = pytest.mark.parametrize(("scheduler", "changes"), paired(SCHEDULERS, CASES))
every_scheduler = pytest.mark.parametrize(("scheduler", "changes"), paired(SCHEDULERS, CASES, every=1))


def in_company(engine: Engine, **changes) -> np.ndarray:
    """The request's pixels when it joins others at work and others join it, with other seeds, steps and schedulers."""
    alike = {name: changes[name] for name in ("height", "width") if name in changes}
    scales = (2.0, 12.0, 5.0) if changes.get("guidance_scale", 7.5) > 1 else (1.0, 1.0, 1.0)
    others = [
        admitted(f"b{k}", seed=k, num_inference_steps=2 + k, scheduler=SCHEDULERS[2 * k], guidance_scale=scale, **alike)
        for k, scale in enumerate(scales)
    ]
    updates = []
    for newcomer in (others[0], others[1], admitted("a", **changes), others[2]):
        engine.add_request(newcomer)
        updates += engine.step()
    return pixels(results(updates + run(engine))["a"])


@every_pair
def test_alone_the_pixels_are_those_of_the_stock_pipeline(noise_painter, scheduler, changes):
    changes = changes | {"scheduler": scheduler, "num_inference_steps": 3}
    result = run_to_completion(make_engine(noise_painter), admitted("a", **changes))
    assert np.array_equal(pixels(result), plain_pixels(noise_painter, make_request(**changes)))


@every_scheduler
def test_in_company_a_value_differs_by_one_at_most(noise_painter, scheduler, changes):
    """Kernels depend on the batch's size, so a value may be rounded the other way, and no more."""
    changes = changes | {"scheduler": scheduler, "num_inference_steps": 3}
    alone = pixels(run_to_completion(make_engine(noise_painter), admitted("a", **changes)))
    together = in_company(make_engine(noise_painter), **changes)
    assert np.abs(together.astype(int) - alone).max() <= 1


@every_scheduler
def test_reproducible_pixels_are_the_same_whatever_the_company(noise_painter, scheduler, changes):
    changes = changes | {"scheduler": scheduler, "num_inference_steps": 3}
    alone = run_to_completion(make_engine(noise_painter, width=4, fixed_rows=8), admitted("a", **changes))
    together = in_company(make_engine(noise_painter, width=4, fixed_rows=8), **changes)
    assert np.array_equal(together, pixels(alone))


def test_alone_the_picture_book_draws_what_the_stock_pipeline_draws(loaded):
    defaults = loaded.info.defaults
    changes = {"height": defaults.height, "width": defaults.width, "num_images_per_prompt": 4}
    result = run_to_completion(make_engine(loaded), admitted("a", **changes))
    assert np.array_equal(pixels(result), plain_pixels(loaded, make_request(**changes)))


@pytest.mark.parametrize("scheduler", sampled(SCHEDULERS, 3))
def test_the_picture_book_draws_the_same_in_company(loaded, scheduler):
    defaults = loaded.info.defaults
    changes = {"height": defaults.height, "width": defaults.width, "num_inference_steps": 3, "scheduler": scheduler}
    alone = pixels(run_to_completion(make_engine(loaded), admitted("a", **changes)))
    assert np.abs(in_company(make_engine(loaded), **changes).astype(int) - alone).max() <= 1
    alone = pixels(run_to_completion(make_engine(loaded, width=4, fixed_rows=8), admitted("a", **changes)))
    assert np.array_equal(in_company(make_engine(loaded, width=4, fixed_rows=8), **changes), alone)


# --- joining, leaving, turns


def test_late_arrival_joins_at_the_next_step(noise_painter):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", num_images_per_prompt=4))
    engine.step()
    engine.add_request(admitted("b"))
    assert progress_of(engine.step(), "b").step_index == 1


def test_one_unet_call_serves_all_who_fit(noise_painter, monkeypatch):
    rows = []
    break_unet(monkeypatch, noise_painter, lambda call, sample: rows.append(len(sample)))
    engine = make_engine(noise_painter)
    for k, scheduler in enumerate(("PNDM", "Heun", "Euler a", "UniPC")):
        engine.add_request(admitted(f"r{k}", scheduler=scheduler, guidance_scale=2.0 + k, seed=k))
    engine.step()
    assert rows == [8]


def test_one_picture_does_not_wait_behind_four_of_another(noise_painter):
    engine = make_engine(noise_painter, width=4)
    engine.add_request(admitted("four", num_images_per_prompt=4))
    engine.step()
    engine.add_request(admitted("one"))
    order = list(results(run(engine)))
    assert order == ["one", "four"]


@pytest.mark.parametrize("width", [1, 4])
def test_a_picture_does_not_wait_for_a_bias_grid_of_eight_words_and_four_seeds(noise_painter, width):
    """It is drawn in the next step, whoever asks for it, and before the rest of the grid; it is the same picture."""
    engine, values = make_engine(noise_painter, width=width), {"prompt": "a dog", "seed": 9, "scheduler": "DDIM"}
    grid = [
        replace(admitted(f"word {word}, seed {seed}", "class", prompt=f"a cat {word}", seed=seed), priority=1)
        for seed in range(4)
        for word in range(8)
    ]
    for each in grid:
        engine.add_request(each)
    drawn = engine.step() + engine.step()
    asked = ["other", "own"][:width]
    for name in asked:
        engine.add_request(admitted(name, "class" if name == "own" else name, **values))
    updates = engine.step()
    assert [progress_of(updates, name).step_index for name in asked] == [1] * len(asked)
    updates = run(engine)
    done = results(drawn + updates)
    assert set(asked) <= set(list(done)[:width]) and len(done) == 32 + len(asked)
    alone = pixels(run_to_completion(make_engine(noise_painter), admitted("alone", **values))).astype(int)
    assert all(np.abs(pixels(done[name]) - alone).max() <= 1 for name in asked)
    first, begun = grid[0], run_to_completion(make_engine(noise_painter), grid[0])
    assert np.abs(pixels(done[first.request_id]).astype(int) - pixels(begun)).max() <= 1, "it was interrupted"


def test_a_picture_does_not_wait_until_all_of_a_strip_are_decoded(noise_painter):
    """All eight of the strip are denoised at the same step, the other one in the next."""
    engine = make_engine(noise_painter)
    for number in range(8):
        engine.add_request(admitted(f"strip {number}", "class", guidance_scale=1.5 + number, num_inference_steps=4))
    engine.step()
    engine.add_request(admitted("other", num_inference_steps=4))
    assert list(results(run(engine))).index("other") <= 2


def test_pictures_arrive_as_each_is_finished(noise_painter):
    engine = make_engine(noise_painter, width=1)
    engine.add_request(admitted("a", num_images_per_prompt=2))
    updates = run(engine)
    kinds = [type(update) for update in updates if not isinstance(update, Progress)]
    assert kinds == [PictureFinished, PictureFinished, GenerationResult]
    first = next(k for k, update in enumerate(updates) if isinstance(update, PictureFinished))
    assert any(isinstance(update, Progress) and update.pictures_done == 1 for update in updates[first:])


def test_pictures_come_in_the_order_of_their_seeds(noise_painter):
    result = run_to_completion(make_engine(noise_painter, width=3), admitted("a", num_images_per_prompt=4, seed=40))
    assert [image.seed for image in result.images] == [40, 41, 42, 43]


def test_waiting_is_reported_with_its_place(noise_painter):
    engine = make_engine(noise_painter, width=1)
    for name in "abc":
        engine.add_request(admitted(name))
    updates = engine.step()
    assert [progress_of(updates, name).queue_position for name in "abc"] == [0, 1, 2]
    assert progress_of(updates, "c").num_timesteps == 5
    assert engine.counts() == (2, 1)


def test_progress_counts_the_51_calls_of_pndm(noise_painter):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", num_inference_steps=50))
    steps = [(u.step_index, u.num_timesteps) for u in run(engine) if isinstance(u, Progress)]
    assert steps == [(k, 51) for k in range(1, 51)]


def test_progress_is_reported_no_more_often_than_asked(noise_painter):
    clock = itertools.count()
    engine = make_engine(noise_painter, report_every_s=1e9, now_s=lambda: next(clock) * 0.001)
    engine.add_request(admitted("a"))
    reports = [update for update in run(engine) if isinstance(update, Progress)]
    assert [report.step_index for report in reports] == [1], "the first sign of life comes at once"


def test_previews_show_each_picture_that_has_begun(noise_painter):
    engine = make_engine(noise_painter, width=2)
    engine.add_request(admitted("a", num_images_per_prompt=3))
    previews = progress_of(engine.step(), "a").previews
    assert [preview is not None for preview in previews] == [True, True, False]


def test_previews_can_be_left_out(noise_painter):
    engine = make_engine(noise_painter, previews=False)
    engine.add_request(admitted("a"))
    assert progress_of(engine.step(), "a").previews == ()


def test_stages_are_timed(noise_painter):
    elapsed_s = run_to_completion(make_engine(noise_painter), admitted("a")).elapsed_s
    assert set(elapsed_s) == {"queue", "encode_prompt", "denoise", "decode", "safety", "total"}
    assert sum(elapsed_s.values()) <= 2.001 * elapsed_s["total"]


def test_what_the_encoder_cannot_read_is_in_the_result(noise_painter):
    result = run_to_completion(make_engine(noise_painter), admitted("a", prompt="cat " * 80))
    assert result.truncated_prompt == "cat cat cat cat cat"


# --- cancelling


def test_cancel_frees_the_rows_at_the_next_step(noise_painter, monkeypatch):
    engine = make_engine(noise_painter, width=4)
    engine.add_request(admitted("a", num_images_per_prompt=4))
    engine.step()
    engine.cancel("a")
    engine.add_request(admitted("b", num_images_per_prompt=4))
    updates = engine.step()
    assert isinstance(failures(updates)["a"], Cancelled)
    assert progress_of(updates, "b").queue_position == 0
    assert "a" not in results(run(engine))


def test_a_cancelled_request_is_neither_decoded_nor_checked(noise_painter, monkeypatch):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", num_inference_steps=2))
    engine.step()
    monkeypatch.setattr(noise_painter.pipeline.vae, "decode", lambda *_, **__: pytest.fail("decoded"))
    engine.cancel("a")
    assert set(failures(run(engine))) == {"a"}


def test_cancelling_one_touches_no_other(noise_painter):
    expected = run_to_completion(make_engine(noise_painter, width=4, fixed_rows=8), admitted("a"))
    engine = make_engine(noise_painter, width=4, fixed_rows=8)
    for name in "abc":
        engine.add_request(admitted(name))
    engine.step()
    engine.cancel("b")
    engine.cancel("nobody")
    updates = run(engine)
    assert set(results(updates)) == {"a", "c"}
    assert np.array_equal(pixels(results(updates)["a"]), pixels(expected))


# --- faults


def test_no_engine_without_a_safety_screen(noise_painter):
    for screen in (None, object(), lambda images, seeds: []):
        with pytest.raises(SafetyCheckFailed):
            Engine(Denoiser(noise_painter.pipeline), screen, width=1)


def test_every_picture_passes_through_the_screen(noise_painter, monkeypatch):
    screened = []
    screen = make_screen(noise_painter)
    stock = SafetyScreen.screen
    monkeypatch.setattr(
        SafetyScreen, "screen", lambda self, images, seeds: screened.extend(seeds) or stock(self, images, seeds)
    )
    engine = make_engine(noise_painter, screen=screen, width=2)
    engine.add_request(admitted("a", num_images_per_prompt=4, seed=1))
    engine.add_request(admitted("b", num_images_per_prompt=2, seed=8))
    run(engine)
    assert sorted(screened) == [1, 2, 3, 4, 8, 9]


def test_withheld_pictures_have_no_pixels(noise_painter, monkeypatch):
    screen = make_screen(noise_painter)
    monkeypatch.setattr(screen._safety_checker, "forward", lambda **_: None)
    result = run_to_completion(make_engine(noise_painter, screen=screen), admitted("a", num_images_per_prompt=2))
    assert [(image.outcome, image.pixels) for image in result.images] == [(Outcome.WITHHELD, None)] * 2


def test_nan_row_fails_alone(noise_painter, monkeypatch):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", num_images_per_prompt=3, seed=5))
    engine.add_request(admitted("b"))
    engine.step()
    victim = next(s for t, s in engine._states.items() if t == 2)
    victim.latents = victim.latents * float("nan")
    outcomes = {name: [image.outcome for image in r.images] for name, r in results(run(engine)).items()}
    assert outcomes == {"a": [Outcome.OK, Outcome.BROKEN, Outcome.OK], "b": [Outcome.OK]}


def test_a_broken_picture_is_decoded_once_and_not_judged(noise_painter, monkeypatch):
    """To ask before the decode would let every picture wait for the device. In float32 it would be no better."""
    engine, vae, decodes = make_engine(noise_painter), noise_painter.pipeline.vae, []
    monkeypatch.setattr(
        vae, "decode", lambda latents, **_: decodes.append(1) or (latents.new_full((1, 3, 64, 64), torch.nan),)
    )
    monkeypatch.setattr(type(engine._denoiser), "may_overflow", True)
    monkeypatch.setattr(engine._screen, "_is_flagged", lambda picture: pytest.fail("judged"))
    engine.add_request(admitted("a"))
    engine.step()
    for state in engine._states.values():
        state.latents = state.latents * float("nan")
    (image,) = results(run(engine))["a"].images
    assert image.outcome is Outcome.BROKEN and len(decodes) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_splits_the_batch(noise_painter, monkeypatch, error):
    """Nobody loses: the same step is run again in halves, and later steps are not tried so wide again."""
    expected = pixels(run_to_completion(make_engine(noise_painter, width=2), admitted("a", num_images_per_prompt=2)))
    rows = []

    def breaks(call, sample):
        rows.append(len(sample))
        return error if len(sample) > 4 else None

    break_unet(monkeypatch, noise_painter, breaks)
    engine = make_engine(noise_painter, width=4)
    engine.add_request(admitted("a", num_images_per_prompt=4))
    result = results(run(engine))["a"]
    assert [image.outcome for image in result.images] == [Outcome.OK] * 4
    assert np.array_equal(pixels(result)[:2], expected)
    assert rows.count(8) == 1
    assert rows.count(4) == 10


def test_out_of_memory_with_one_row_pair_tells_the_visitor_what_helps(noise_painter, monkeypatch):
    break_unet(monkeypatch, noise_painter, lambda call, sample: torch.OutOfMemoryError("no memory"))
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a"))
    assert "smaller size" in str(failures(run(engine))["a"])


def test_a_failing_row_fails_only_its_own_request(noise_painter, monkeypatch, caplog):
    """A call of several that fails is split until the one that it fails for is alone."""
    engine = make_engine(noise_painter)
    for name, prompt in (("a", "a cat"), ("b", "secret words"), ("c", "a dog")):
        engine.add_request(admitted(name, prompt=prompt))
    engine.step()
    victim = engine._states[2].latents

    def breaks(call, sample):
        has_victim = any(torch.equal(row, victim[0]) for row in sample)
        return RuntimeError("bad row of secret words") if has_victim else None

    with monkeypatch.context() as patched:
        break_unet(patched, noise_painter, breaks)
        updates = engine.step()
    assert set(failures(updates)) == {"b"}
    assert isinstance(failures(updates)["b"], EngineFailed)
    assert set(results(run(engine))) == {"a", "c"}
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("component", ["text_encoder", "vae.decoder"])
def test_a_failing_component_fails_its_request_and_the_engine_goes_on(noise_painter, monkeypatch, component):
    engine = make_engine(noise_painter)
    module = noise_painter.pipeline
    for name in component.split("."):
        module = getattr(module, name)

    def fails(*_, **__):
        raise RuntimeError("broken")

    with monkeypatch.context() as patched:
        patched.setattr(module, "forward", fails)
        engine.add_request(admitted("a"))
        assert isinstance(failures(run(engine))["a"], EngineFailed)
    engine.add_request(admitted("b"))
    assert set(results(run(engine))) == {"b"}


def test_a_failing_noise_scheduler_fails_its_request_alone(noise_painter, monkeypatch):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", num_images_per_prompt=2))
    engine.add_request(admitted("b"))
    engine.step()
    monkeypatch.setattr(engine._states[1].scheduler, "step", lambda *_, **__: [][0])
    updates = run(engine)
    assert set(failures(updates)) == {"a"}
    assert set(results(updates)) == {"b"}


def test_a_lost_device_is_not_taken_for_a_failed_request(noise_painter, monkeypatch):
    """Every later call would fail as well: whoever owns the engine has to know."""
    break_unet(monkeypatch, noise_painter, lambda call, sample: torch.AcceleratorError("illegal memory access"))
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a"))
    with pytest.raises(torch.AcceleratorError):
        engine.step()


def test_a_request_that_no_scheduler_can_serve_is_refused_when_it_is_added(noise_painter):
    engine = make_engine(noise_painter)
    engine.add_request(admitted("a", scheduler="nonsense"))
    assert set(failures(run(engine))) == {"a"}
    assert engine.is_idle


@pytest.mark.slow
def test_hundreds_of_requests_leave_nothing_behind(noise_painter):
    """Neither those that were finished nor those that were cancelled while they ran, waited or were to be decoded."""
    engine = make_engine(noise_painter, width=4)

    def some_requests(count: int) -> int:
        """What the garbage collector knows after them: containers, and so all that they could hold."""
        for k in range(0, count, 10):
            for number in range(10):
                engine.add_request(admitted(f"r{number}", num_inference_steps=1 + number % 2, seed=k + number))
            engine.step()
            for number in (0, 3, 9):
                engine.cancel(f"r{number}")
            run(engine)
        gc.collect()
        return len(gc.get_objects())

    some_requests(20)
    before = some_requests(20)
    assert some_requests(100) < before + 50
    assert not engine._states and not engine._requests and not engine._finisher.in_line
    assert engine.counts() == (0, 0)


# --- how wide, how long


def measured(
    seconds_by_width: dict[int, float], noise_painter, truly: Callable[[float], float] = lambda seconds: seconds
) -> tuple[int, StepTimes]:
    """Calibrates with a clock that runs as if a call of each width took so long."""
    now = [0.0]

    class TimedDenoiser(Denoiser):
        def denoise_step(self, states):
            now[0] += truly(seconds_by_width[len(states)])
            return super().denoise_step(states)

    return calibrate(TimedDenoiser(noise_painter.pipeline), make_request(num_inference_steps=1), now_s=lambda: now[0])


@pytest.mark.parametrize(
    ("seconds", "width"),
    [
        ({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, 8),  # bound by launches
        ({1: 0.05, 2: 0.06, 4: 0.09, 8: 0.18}, 4),  # a large GPU
        ({1: 0.5, 2: 0.98, 4: 1.9, 8: 3.9}, 1),  # bound by arithmetic
        ({1: 30.0}, 1),  # a large model on a CPU: one small picture's step is enough to know
    ],
)
def test_a_call_is_as_wide_as_it_pays(noise_painter, seconds, width):
    assert measured(seconds, noise_painter)[0] == width


def test_where_a_small_pictures_step_is_long_no_large_one_is_measured(noise_painter, monkeypatch):
    """v1-4 on a CPU: a step at its own size would keep the first visitor waiting for up to a minute."""
    sizes = []
    break_unet(monkeypatch, noise_painter, lambda call, rows: sizes.append(rows.shape[-1]))
    now = iter(range(1000))
    large = make_request(width=512, height=512)
    width, times = calibrate(Denoiser(noise_painter.pipeline), large, now_s=lambda: float(next(now)))
    assert width == 1
    assert set(sizes) == {8}, "latents of 64 pixels"
    assert times.slowest_s == 64.0, "one second, for 64 times the area: a guess of what a step may take"


def test_calibration_that_runs_out_of_memory_stays_narrow(noise_painter, monkeypatch):
    break_unet(monkeypatch, noise_painter, lambda call, s: torch.OutOfMemoryError("no memory") if len(s) > 4 else None)
    assert measured({1: 0.1, 2: 0.1, 4: 0.1}, noise_painter)[0] == 2


def test_a_busy_moment_does_not_decide_the_width(noise_painter):
    """Something else ran while the first call of each width was measured."""
    slow = iter([2.0, 0.1, 0.1, 0.1, 0.1, 0.1, 2.0])
    assert measured({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, noise_painter, lambda seconds: next(slow, seconds))[0] == 8


class Clock:
    """Time that passes only in UNet calls (1 s each) and decodes (2 s a picture)."""

    def __init__(self, monkeypatch, loaded: LoadedPipeline):
        self.now = 0.0
        unet, vae = loaded.pipeline.unet, loaded.pipeline.vae
        unet_forward, decode = unet.forward, vae.decode

        def timed_forward(*args, **kwargs):
            self.now += 1.0
            return unet_forward(*args, **kwargs)

        def timed_decode(latents, **kwargs):
            self.now += 2.0 * len(latents)
            return decode(latents, **kwargs)

        monkeypatch.setattr(unet, "forward", timed_forward)
        monkeypatch.setattr(vae, "decode", timed_decode)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("width", [1, 2, 8])
def test_seconds_left_come_true(noise_painter, monkeypatch, width):
    """Told at each step, for all who run and wait, after one request has been measured."""
    clock = Clock(monkeypatch, noise_painter)
    engine = make_engine(noise_painter, width=width, now_s=clock)
    run_to_completion(engine, admitted("first", num_images_per_prompt=width if width < 3 else 1))
    told, ended_s = [], {}
    for name, pictures in (("a", 1), ("b", 2), ("c", 1)):
        engine.add_request(admitted(name, num_images_per_prompt=pictures, num_inference_steps=10))
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, Progress):
                told.append((update.request_id, clock(), update.seconds_left))
            elif isinstance(update, GenerationResult):
                ended_s[update.request_id] = clock()
    early = [(name, seconds, ended_s[name] - at) for name, at, seconds in told if ended_s[name] - at > 10]
    assert len(early) >= 3
    for name, seconds, truly in early:
        assert seconds == pytest.approx(truly, rel=0.25), f"{name} at width {width}"
