"""The simulator agrees with arithmetic where that is easy, and with the engine where it is not."""

import pytest

from sd_space.engine.batcher import BatchKey
from sd_space.engine.engine import Engine
from sd_space.engine.step_times import StepTimes
from sd_space.tools.bench.simulator import Work, poisson, replicas_needed, simulate

from .fakes import Clock
from .tiny_models import IMAGE_SIZE, admitted, make_engine

KEY = BatchKey(512, 512, True)


def make_work(step_s: tuple[float, ...], finish_s: float = 0.0, num_timesteps: int = 10, key: BatchKey = KEY) -> Work:
    times = StepTimes()
    for pictures, seconds in enumerate(step_s, start=1):
        times.record_step(key, pictures, seconds)
    times.record_finish(key.height, key.width, finish_s)
    return Work(key, num_timesteps, times)


def test_one_picture_takes_its_steps_and_its_end():
    outcome = simulate([0.0], 1, 1, make_work((0.1,), finish_s=0.5))
    assert outcome.waits_s == pytest.approx([1.5])


def test_pictures_that_share_a_call_wait_for_it_together():
    outcome = simulate([0.0, 0.0], 1, 2, make_work((0.1, 0.15)))
    assert outcome.waits_s == pytest.approx([1.5, 1.5])


def test_beyond_the_width_they_wait_in_line():
    outcome = simulate([0.0] * 3, 1, 1, make_work((0.1,)))
    assert sorted(outcome.waits_s) == pytest.approx([1.0, 2.0, 3.0])


def test_two_replicas_halve_the_time_of_a_crowd():
    work = make_work((0.1,))
    one, two = (simulate([0.0] * 8, replicas, 1, work) for replicas in (1, 2))
    assert one.makespan_s == pytest.approx(2 * two.makespan_s)


def test_a_full_crowd_waits_in_line_and_nobody_is_lost():
    outcome = simulate([0.0] * 50, 2, 1, make_work((0.1,)), max_ongoing=1)
    assert len(outcome.waits_s) == 50 and outcome.makespan_s == pytest.approx(25.0)


def test_arrivals_come_at_the_rate_asked_for():
    arrivals_s = poisson(10.0, 10_000, seed=3)
    assert arrivals_s[0] == 0.0 and arrivals_s == sorted(arrivals_s)
    assert len(arrivals_s) / arrivals_s[-1] == pytest.approx(10.0, rel=0.05)


def test_the_fewest_replicas_that_keep_the_wait():
    work = make_work((0.1, 0.12), num_timesteps=10)
    needed = replicas_needed(rate_per_s=1.0, wait_s=1.2, width=2, work=work, pictures=2000)
    assert simulate(poisson(1.0, 2000), needed, 2, work).p95_wait_s <= 1.2
    assert simulate(poisson(1.0, 2000), needed - 1, 2, work).p95_wait_s > 1.2
    assert replicas_needed(rate_per_s=10.0, wait_s=60.0, width=2, work=work) == 7, "six would be busy all the time"
    with pytest.raises(ValueError, match="more than the"):
        replicas_needed(rate_per_s=10.0, wait_s=0.5, width=2, work=work)


def ends_of(engine: Engine, clock: Clock, arrivals_s: list[float], work: Work) -> list[float]:
    """When the real engine finishes each request, its clock moved by the simulated seconds."""
    waiting = sorted(enumerate(arrivals_s), key=lambda pair: pair[1])
    ends_s: dict[str, float] = {}
    while waiting or not engine.is_idle:
        if engine.is_idle:
            clock.now_s = max(clock.now_s, waiting[0][1])
        while waiting and waiting[0][1] <= clock.now_s:
            number, _ = waiting.pop(0)
            engine.add_request(admitted(f"r{number}", seed=number, num_inference_steps=work.num_timesteps - 1))
        for update in engine.step():
            if type(update).__name__ == "GenerationResult":
                ends_s[update.request_id] = clock.now_s
    return [ends_s[f"r{number}"] for number in range(len(arrivals_s))]


def test_it_plays_what_the_engine_does(noise_painter, monkeypatch):
    key = BatchKey(IMAGE_SIZE, IMAGE_SIZE, True)
    work = make_work((0.1, 0.13, 0.17), finish_s=0.05, num_timesteps=5, key=key)
    clock = Clock()
    engine = make_engine(noise_painter, width=3, now_s=clock)
    denoise, decode = engine._denoiser.denoise_step, engine._denoiser.decode_latents

    def timed_denoise(states):
        clock.now_s += work.times.step_s(key, len(states))
        return denoise(states)

    def timed_decode(latents):
        clock.now_s += len(latents) * work.times.finish_s(key.height, key.width)
        return decode(latents)

    monkeypatch.setattr(engine._denoiser, "denoise_step", timed_denoise)
    monkeypatch.setattr(engine._denoiser, "decode_latents", timed_decode)
    arrivals_s = poisson(4.0, 12, seed=1)
    ends_s = ends_of(engine, clock, arrivals_s, work)
    simulated = simulate(arrivals_s, 1, 3, work, max_ongoing=100)
    waits_s = [end_s - at_s for end_s, at_s in zip(ends_s, arrivals_s, strict=True)]
    assert simulated.waits_s == pytest.approx(waits_s)
