"""F: whatever fails, each visitor reads one sentence, the next one is served, and readiness tells the truth."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from ..generated import sampled
from ..hub import serving
from ..server import until
from . import faults, inside
from .rig import Rig, Rigs
from .scoreboard import Attempts, Mutant
from .visitor import LONG, QUICK, Answer, Visitor

TTL_S = 10
ENVIRON = {"SD_SPACE_RESULT_TTL_S": str(TTL_S), "SD_SPACE_MAX_PER_VISITOR": "50", "SD_SPACE_RECONNECT_S": "5"}
STOP_LIMIT_S = 10.0  # what process managers allow
TRY_AGAIN = "Something went wrong while your pictures were made; please try again."
MEMORY = "needs more memory than the device has free"
NOT_SAVED = "could not be saved on the server"
RESTARTING = "The Space is restarting; please try again in a minute."
RESTARTS = "sd_space_engine_restarts_total"
DENOISER = "sd_space.engine.denoiser:Denoiser"
CHECKER = "diffusers.pipelines.stable_diffusion.safety_checker:StableDiffusionSafetyChecker"
F = Attempts()


@pytest.fixture(scope="module")
def host(rigs) -> Rig:
    """One server for all attempts. Those without a guard get another: running out of memory has its consequences."""
    return rigs.start(**ENVIRON)


@pytest.fixture(scope="module")
def guest(host) -> Iterator[Visitor]:
    visitor = Visitor(host.url)
    yield visitor
    visitor.close()


@pytest.fixture(scope="module")
def ticket(guest) -> str:
    return guest.token()


def outcomes(answer: Answer) -> list[str]:
    assert answer.is_complete, answer
    return [image["outcome"] for image in answer.data[1]["images"]]


def told(answer: Answer, sentence: str) -> None:
    """An error that is this sentence and nothing else: no picture, no place in the code."""
    assert answer.event == "error" and sentence in answer.sentence, answer
    assert b".png" not in answer.body and "Traceback" not in answer.sentence


@contextlib.contextmanager
def running(host: Rig, token: str, **changes: object) -> Iterator[list[Answer]]:
    """A visitor whose run has begun; the list holds the last word once it is there, at the latest at the end."""
    visitor, answers, asked = Visitor(host.url), [], host.count("asked")

    def listen() -> None:
        with contextlib.suppress(httpx.TransportError):  # the server has gone, or this visitor, who was let down
            answers.append(
                visitor.generate(**LONG | {"num_images_per_prompt": 1} | changes | {"acceptance_token": token})
            )

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    until(lambda: host.count("asked") > asked)
    try:
        yield answers
        thread.join(30)
        assert answers, "the visitor hangs"
    finally:
        visitor.close()


# --- the device

RAISED = {
    "F01": ("encode_prompt", "RuntimeError", TRY_AGAIN),
    "F02": ("prepare_latents", "RuntimeError", TRY_AGAIN),
    "F03": ("denoise_step", "RuntimeError", TRY_AGAIN),
    "F04": ("decode_latents", "RuntimeError", TRY_AGAIN),
    "F05": ("transformers:CLIPTextModel.forward", "ValueError", TRY_AGAIN),
    "F06": ("num_timesteps", "IndexError", TRY_AGAIN),
    "F07": ("encode_prompt", "OutOfMemoryError", MEMORY),
    "F08": ("prepare_latents", "OutOfMemoryError", MEMORY),
    "F09": ("decode_latents", "OutOfMemoryError", MEMORY),
}


def _raised(host: Rig, guest: Visitor, token: str, id: str) -> None:
    name, error, sentence = RAISED[id]
    with host.patched(name if ":" in name else f"{DENOISER}.{name}", partial(faults.raising, error=error)):
        told(guest.generate(acceptance_token=token, prompt=f"a cat {id}"), sentence)  # words that are not kept yet


for _id, (_name, _error, _) in RAISED.items():
    F.add(_id, f"{_error} in {_name}", partial(_raised, id=_id))


@F("F10", "the noise scheduler fails at a step")
def scheduler_fails(host: Rig, guest: Visitor, token: str):
    step = "diffusers.schedulers.scheduling_pndm:PNDMScheduler.step"
    with host.patched(step, partial(faults.raising, error="IndexError")):
        told(guest.generate(acceptance_token=token, num_inference_steps=8), TRY_AGAIN)


@F("F11", "a step runs out of memory once: nobody notices")
def memory_runs_out_once(host: Rig, guest: Visitor, token: str):
    full = host.patched(f"{DENOISER}.denoise_step", partial(faults.raising, error="OutOfMemoryError", first=1))
    # Attempts before it may have led this server to the profile that needs the least memory.
    with full, host.patched(f"{DENOISER}.reduce_memory", faults.succeeding):
        assert outcomes(guest.generate(acceptance_token=token)) == ["ok"]


@F("F12", "every step runs out of memory")
def memory_runs_out(host: Rig, guest: Visitor, token: str):
    with host.patched(f"{DENOISER}.denoise_step", partial(faults.raising, error="OutOfMemoryError")):
        told(guest.generate(acceptance_token=token), MEMORY)


@F("F13", "only a shared call fails: its rows are drawn one by one")
def wide_call_fails(host: Rig, guest: Visitor, token: str):
    with host.patched(f"{DENOISER}.denoise_step", faults.raising_when_shared):
        assert outcomes(guest.generate(acceptance_token=token, num_images_per_prompt=3)) == ["ok"] * 3


for _id, _value in (("F14", float("nan")), ("F15", float("inf"))):

    @F(_id, f"{_value} in one of a request's pictures")
    def one_row(host: Rig, guest: Visitor, token: str, value: float = _value):
        with host.patched(f"{DENOISER}.denoise_step", partial(faults.spoiling, seed=101, value=value)):
            answer = guest.generate(acceptance_token=token, seed=100, num_images_per_prompt=3)
        assert outcomes(answer) == ["ok", "broken", "ok"]


@F("F16", "the decoder answers no numbers")
def decoder_without_numbers(host: Rig, guest: Visitor, token: str):
    with host.patched(f"{DENOISER}.decode_latents", partial(faults.filled, value=float("nan"))):
        assert outcomes(guest.generate(acceptance_token=token)) == ["broken"]


for _id, _error in (("F17", "RuntimeError"), ("F18", "OutOfMemoryError")):

    @F(_id, f"{_error} in the safety checker")
    def checker_fails(host: Rig, guest: Visitor, token: str, error: str = _error):
        with host.patched(f"{CHECKER}.forward", partial(faults.raising, error=error)):
            assert outcomes(guest.generate(acceptance_token=token)) == ["withheld"]


# --- the engine's thread


@F("F19", "a step fails as a whole: the engine is built anew")
def engine_fails(host: Rig, guest: Visitor, token: str):
    assert guest.generate(acceptance_token=token).is_complete
    with host.patched("sd_space.engine.engine:Engine.step", partial(faults.raising, error="KeyError", first=1)):
        told(guest.generate(acceptance_token=token), TRY_AGAIN)


@F("F20", "a step hangs: another process draws the picture")
def step_hangs(host: Rig, guest: Visitor, token: str):
    host.do_in_engine(faults.hold)
    host.do_in_engine(faults.no_step_was_slow)
    impatient = host.patched("sd_space.backends.heartbeat:STUCK_AFTER_S", partial(faults.value, new=2.0))
    restarts = host.metric(RESTARTS)
    with contextlib.closing(Visitor(host.url)) as visitor, impatient:
        with host.patched(f"{DENOISER}.denoise_step", faults.hanging):
            posted = visitor.send("POST", "/gradio_api/call/v2/generate", json=QUICK | {"acceptance_token": token})
            until(lambda: host.metric(RESTARTS) > restarts, 15, "nobody notices")
        event_id = httpx.Response(200, content=posted.body).json()["event_id"]
        assert outcomes(visitor.events(f"/gradio_api/call/generate/{event_id}", posted)) == ["ok"]


# --- the disk

SAVE = "PIL.Image:Image.save"
for _id, _number, _what in (("F21", 28, "is full"), ("F22", 122, "has a quota that is used up"), ("F23", 5, "fails")):

    @F(_id, f"the disk {_what} when a picture is written")
    def cannot_save(host: Rig, guest: Visitor, token: str, number: int = _number):
        with host.patched(SAVE, partial(faults.raising_os_error, number=number)):
            told(guest.generate(acceptance_token=token, num_inference_steps=150, num_images_per_prompt=2), NOT_SAVED)
        host.wait_until_idle(5)


@F("F24", "the folder of results may not be written")
def unwritable(host: Rig, guest: Visitor, token: str):
    make = "sd_space.serving.results:ResultStore._make"
    with host.patched(make, not_permitted):
        told(guest.generate(acceptance_token=token), NOT_SAVED)


def not_permitted(original: object) -> object:
    return staticmethod(faults.raising_os_error(original, 13))


@F("F25", "no file handles are left when a picture is written")
def no_handles(host: Rig, guest: Visitor, token: str):
    with host.patched("pathlib:Path.open", partial(faults.raising_os_error, number=24)):
        told(guest.generate(acceptance_token=token), NOT_SAVED)


@F("F26", "the folder of results is deleted under the app")
def folder_deleted(host: Rig, guest: Visitor, token: str):
    assert guest.generate(acceptance_token=token).is_complete
    shutil.rmtree(host.results)
    answer = guest.generate(acceptance_token=token)
    assert Path(answer.data[0][0]["path"]).is_file()


@F("F27", "a run's own folder is deleted between two of its pictures")
def folder_deleted_in_a_run(host: Rig, guest: Visitor, token: str):
    with host.patched("sd_space.serving.results:ResultStore.save", faults.deleting_after_the_first):
        answer = guest.generate(acceptance_token=token, num_images_per_prompt=2)
    assert outcomes(answer) == ["ok", "ok"]


@F("F28", "the archive of a page's pictures cannot be written: the pictures are shown")
def no_archive(host: Rig, guest: Visitor, token: str):
    with host.patched("zipfile:ZipFile.write", partial(faults.raising_os_error, number=28)):
        answer = guest.join(guest.fn_index("Prompt", "Steps"), guest.page_values(token))
    assert answer.is_complete and b"seed-7.png" in answer.body and NOT_SAVED.encode() in answer.body


@F("F29", "a picture is deleted before it is fetched")
def file_deleted(host: Rig, guest: Visitor, token: str):
    path = guest.generate(acceptance_token=token).data[0][0]["path"]
    os.unlink(path)
    answer = guest.send("GET", f"/gradio_api/file={path}")
    assert answer.status in (403, 404) and answer.sentence


@F("F30", "the janitor fails: it sweeps again")
def janitor_fails(host: Rig, guest: Visitor, token: str):
    path = Path(guest.generate(acceptance_token=token).data[0][0]["path"])
    with host.patched("sd_space.serving.results:ResultStore.sweep", partial(faults.raising, first=2)):
        host.do(faults.expire_after, 1.0)
        until(lambda: not path.exists())
    host.do(faults.expire_after, TTL_S)


# --- clocks


def shifted(days: float) -> None:
    inside.live("Gate")._now_s = lambda: time.time() + days * 86_400


def sweep() -> None:
    inside.live("ResultStore").sweep()


for _id, _days in (("F31", 1.0), ("F32", -0.0004), ("F33", 40.0), ("F34", -1.0)):

    @F(_id, f"the clock jumps by {_days:g} days")
    def clock_jumps(host: Rig, guest: Visitor, token: str, days: float = _days):
        path = Path(guest.generate(acceptance_token=token).data[0][0]["path"])
        host.do(shifted, days)
        try:
            host.do(sweep)
            assert path.is_file(), "results go by a clock that does not jump"
            answer = guest.generate(acceptance_token=token)
            if days in (40.0, -1.0):  # too old, or of a day to come: asked again, in a sentence
                told(answer, "/accept_license")
                answer = guest.generate(acceptance_token=guest.token())
            assert answer.is_complete
        finally:
            host.do(shifted, 0)


# --- visitors


def gone(host: Rig, token: str, mark: str) -> None:
    """Leaves in the middle of a line of the stream that holds `mark`."""
    visitor = Visitor(host.url)
    values = LONG | {"acceptance_token": token}
    posted = visitor.send("POST", "/gradio_api/call/v2/generate", json=values)
    event_id = httpx.Response(200, content=posted.body).json()["event_id"]
    visitor.events(f"/gradio_api/call/generate/{event_id}", posted, until=lambda line: mark in line)
    visitor.close()


@F("F35", "a visitor leaves while waiting")
def leaves_waiting(host: Rig, guest: Visitor, token: str):
    with host.patched(f"{DENOISER}.denoise_step", partial(faults.slow, seconds=0.05)):
        gone(host, token, "event")
        host.wait_until_idle(5)


@F("F36", "a visitor leaves while the device draws")
def leaves_drawing(host: Rig, guest: Visitor, token: str):
    with host.patched(f"{DENOISER}.denoise_step", partial(faults.slow, seconds=0.1)):
        gone(host, token, '"step"')
        host.wait_until_idle(10)  # the run would take 15 s


@F("F37", "a visitor leaves while the pictures are written")
def leaves_finishing(host: Rig, guest: Visitor, token: str):
    with host.patched("sd_space.serving.results:ResultStore.save", partial(faults.slow, seconds=0.5)):
        gone(host, token, '"pictures_done": 1')
        host.wait_until_idle(5)


@F("F38", "visitors who ask and never listen")
def never_listen(host: Rig, guest: Visitor, token: str):
    for _ in range(5):
        guest.started(token, num_inference_steps=2, num_images_per_prompt=1)
    host.wait_until_idle(10)


def connection(host: Rig) -> socket.socket:
    at = urlsplit(host.url)
    return socket.create_connection((at.hostname, at.port), timeout=10)


@F("F39", "a reader who does not read")
def slow_reader(host: Rig, guest: Visitor, token: str):
    with connection(host) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        posted = guest.send(
            "POST", "/gradio_api/call/v2/generate", json=LONG | {"acceptance_token": token, "num_inference_steps": 40}
        )
        event_id = httpx.Response(200, content=posted.body).json()["event_id"]
        held.sendall(f"GET /gradio_api/call/generate/{event_id} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert guest.generate(acceptance_token=token).is_complete
        host.wait_until_idle(30)


@F("F40", "fifty connections with half a request")
def half_open(host: Rig, guest: Visitor, token: str):
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            held = stack.enter_context(connection(host))
            held.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        assert guest.generate(acceptance_token=token).is_complete


@F("F41", "a page is reloaded during its run")
def reload(host: Rig, guest: Visitor, token: str):
    values = guest.page_values(token, seed=41)
    values[4] = 30
    index = guest.fn_index("Prompt", "Steps")
    body = {"fn_index": index, "data": values, "session_hash": secrets.token_hex(6)}
    with host.patched(f"{DENOISER}.denoise_step", partial(faults.slow, seconds=0.05)):
        posted = guest.send("POST", "/gradio_api/queue/join", json=body)
        path = f"/gradio_api/queue/data?session_hash={body['session_hash']}"
        guest.events(path, posted, until=lambda line: "Step " in line)
        resumed = [
            guest.join(event["id"], [token, host.do(last_run), "", "", ""])
            for event in guest.config["dependencies"]
            if len(event["inputs"]) == 5
        ]
    assert any(answer.is_complete and b"seed-41.png" in answer.body for answer in resumed)


def last_run() -> str:
    return list(inside.live("Runs")._runs)[-1]


# --- Gradio's queue


def stop_queue() -> int:
    """Returns how readiness is answered from then on until the queue is started again, which is soon."""
    queue, answers = inside.gradio_queue(), inside.live("OwnAnswers")  # to find them takes a while
    queue.stopped = True
    return answers.find("GET", "/readyz", "").status_code


@F("F42", "Gradio's queue stops during a run")
def queue_stops(host: Rig, guest: Visitor, token: str):
    with (
        host.patched(f"{DENOISER}.denoise_step", partial(faults.slow, seconds=0.05)),
        running(host, token) as answers,
    ):
        assert host.do(stop_queue) == 503
        host.wait_for("/readyz", 200, timeout_s=5)
        until(lambda: answers, 5)
    assert answers[0].event == "error", answers
    host.wait_until_idle(10)


@F("F43", "the loop of Gradio's queue fails")
def queue_fails(host: Rig, guest: Visitor, token: str):
    with host.patched("gradio.queueing:Queue.get_events", partial(faults.raising, error="KeyError", first=1)):
        guest.generate(acceptance_token=token)
    host.wait_for("/readyz", 200, timeout_s=5)


def assert_survived(host: Rig, guest: Visitor, ticket: str, make: Callable) -> None:
    host.known_files = set()
    make(host, guest, ticket)
    assert outcomes(guest.generate(acceptance_token=ticket, seed=1)) == ["ok"]
    host.wait_until_idle(20)
    host.wait_for(timeout_s=2)


@pytest.mark.parametrize("attempt", sampled(F, 6), ids=str)
def test_the_service_survives(host, guest, ticket, attempt):
    assert_survived(host, guest, ticket, attempt.make)


# --- the process: each on a server of its own

PROCESS = Attempts()


def asked_to_stop(server: Rig, *numbers: int, limit_s: float = STOP_LIMIT_S) -> None:
    """It stops well and in time; its results are gone, and the log says what it did."""
    for number in numbers[:-1]:
        os.kill(server.process.pid, number)
        until(lambda: "stopping: " in server.log, 2)
    assert server.stop(numbers[-1], limit_s) == 0, server.log
    assert "stopping: " in server.log and "stopped" in server.log and "Traceback" not in server.log, server.log
    assert not list(server.results.rglob("*")), "results stayed behind"


@PROCESS("F51", "SIGTERM while idle")
def term_idle(rigs: Rigs):
    asked_to_stop(rigs.start(), signal.SIGTERM)


@PROCESS("F52", "SIGINT while idle")
def interrupt(rigs: Rigs):
    asked_to_stop(rigs.start(), signal.SIGINT)


@PROCESS("F53", "SIGTERM during a run that can be finished: it is, and its picture can be fetched")
def term_finishes(rigs: Rigs):
    server = rigs.start()
    server.patch("sd_space.serving.lifecycle:FETCH_S", partial(faults.value, new=2.0))
    server.patch(f"{DENOISER}.denoise_step", partial(faults.slow, seconds=0.05))
    visitor = Visitor(server.url)
    with running(server, visitor.token(), num_inference_steps=30) as answers:
        os.kill(server.process.pid, signal.SIGTERM)
        until(lambda: answers, 8)
        assert outcomes(answers[0]) == ["ok"]
        assert visitor.send("GET", answers[0].data[0][0]["url"]).body.startswith(b"\x89PNG")
        assert httpx.get(f"{server.url}/readyz").status_code == 503
    visitor.close()
    asked_to_stop(server, signal.SIGTERM)


def _long_runs(server: Rig, count: int) -> contextlib.ExitStack:
    server.patch(f"{DENOISER}.denoise_step", partial(faults.slow, seconds=0.3))
    visitor = Visitor(server.url)
    token = visitor.token()
    visitor.close()
    stack = contextlib.ExitStack()
    stack.answers = [stack.enter_context(running(server, token, seed=k)) for k in range(count)]
    return stack


@PROCESS("F54", "SIGTERM during runs that take too long: everybody is told, queued or drawing")
def term_tells(rigs: Rigs):
    server = rigs.start(SD_SPACE_MAX_BATCH_SIZE="1")
    server.patch("sd_space.serving.lifecycle:DRAIN_S", partial(faults.value, new=1.0))
    stack = _long_runs(server, 2)
    with stack:
        asked_to_stop(server, signal.SIGTERM)
    for (answer,) in stack.answers:
        told(answer, RESTARTING)


@PROCESS("F55", "SIGTERM twice: it does not wait for what runs")
def term_twice(rigs: Rigs, mutant: Mutant | None = None):
    server = rigs.start()
    if mutant:
        server.patch(mutant.target, partial(inside.rewritten, old=mutant.old, new=mutant.new))
    stack = _long_runs(server, 1)
    with stack:
        asked_to_stop(server, signal.SIGTERM, signal.SIGTERM, limit_s=5)
    told(stack.answers[0][0], RESTARTING)


@PROCESS("F56", "SIGTERM while the model loads")
def term_loading(rigs: Rigs):
    server = rigs.start(is_ready=False, program="tests.reliability.slow_app")
    server.wait_for("/healthz")
    until(lambda: "loading" in httpx.get(f"{server.url}/readyz").text.lower(), 10)
    waiting = Visitor(server.url)
    token = waiting.token()
    posted = waiting.send("POST", "/gradio_api/call/v2/generate", json=LONG | {"acceptance_token": token})
    event_id = httpx.Response(200, content=posted.body).json()["event_id"]
    os.kill(server.process.pid, signal.SIGTERM)
    answer = waiting.events(f"/gradio_api/call/generate/{event_id}", posted)
    told(answer, "restarting")
    waiting.close()
    asked_to_stop(server, signal.SIGTERM, limit_s=6)


@PROCESS("F57", "the terminal is closed: nobody reads what it prints")
def stdout_closed(rigs: Rigs):
    server = rigs.start(program="tests.reliability.unread_app")
    visitor = Visitor(server.url)
    assert visitor.generate(acceptance_token=visitor.token()).is_complete
    visitor.close()
    assert server.stop() == 0


HANDLES, HELD, LOG_LIMIT = 256, 300, 50_000


@PROCESS("F58", "few file handles, and more visitors than that with half a request")
def few_handles(rigs: Rigs):
    server = rigs.start(handles=HANDLES)
    with contextlib.closing(Visitor(server.url)) as visitor:
        token = visitor.token()
    with contextlib.ExitStack() as stack:
        for _ in range(HELD):
            held = stack.enter_context(connection(server))
            held.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\n")
        try:
            assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200
        except httpx.TransportError:
            raise AssertionError("nobody is answered while they wait") from None
        finally:
            assert server.log_path.stat().st_size < LOG_LIMIT, "a line for each that is not let in"
    with contextlib.closing(Visitor(server.url)) as late:
        assert late.generate(acceptance_token=token).is_complete
    server.wait_for("/readyz", 200, timeout_s=10)
    server.stop()


@PROCESS("F59", "killed, and started again in the same folder: the old acceptance holds, old pictures go")
def killed(rigs: Rigs):
    server = rigs.start(**ENVIRON)
    visitor = Visitor(server.url)
    token = visitor.token()
    assert visitor.generate(acceptance_token=token).is_complete
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    visitor.close()
    old = list(server.results.rglob("*.*"))
    assert old, "what the first one left"
    again = rigs.start(folder=server.folder, **ENVIRON)
    until(lambda: not any(path.exists() for path in old))
    with contextlib.closing(Visitor(again.url)) as late:
        assert late.generate(acceptance_token=token).is_complete
    assert again.stop() == 0


@PROCESS("F60", "the device is lost: another process draws the picture")
def device_lost(rigs: Rigs):
    assert_replaced(rigs.start(), "AcceleratorError")


@PROCESS("F61", "the engine's thread ends without a word: another process draws the picture")
def thread_ends(rigs: Rigs):
    assert_replaced(rigs.start(), "SystemExit")


def assert_replaced(server: Rig, error: str) -> None:
    with contextlib.closing(Visitor(server.url)) as visitor:
        token = visitor.token()
        server.patch(f"{DENOISER}.denoise_step", partial(faults.raising, error=error))
        assert outcomes(visitor.generate(acceptance_token=token)) == ["ok"]
        assert server.metric(RESTARTS) == 1 and visitor.send("GET", "/").status == 200
    assert server.stop() == 0


def _hub_fails(rigs: Rigs, repository: Path, home: Path, fault: str) -> None:
    """An explicit model that cannot be had: the page is up and says so; and the stop is as quick as ever."""
    with serving(repository) as hub:
        hub.fault = fault
        server = rigs.start(
            is_ready=False, HF_ENDPOINT=hub.url, HF_TOKEN="", HF_HUB_OFFLINE="0", HF_HOME=str(home),
            SD_SPACE_MODEL="CompVis/stable-diffusion-v1-4", SD_SPACE_HUB_TIMEOUT_S="1.5",
        )  # fmt: skip
        server.wait_for("/healthz")
        until(lambda: "cannot be loaded" in httpx.get(f"{server.url}/readyz").text, 30)
        visitor = Visitor(server.url)
        told(visitor.generate(acceptance_token=visitor.token()), "cannot be loaded")
        visitor.close()
        assert server.stop() == 0


PAUSE_S = 8.0  # longer than a step may take there, and than the clock of lived time lets pass for it


@PROCESS("F74", "paused for longer than a step may take: runs under way are drawn to their end")
def paused(rigs: Rigs):
    server = rigs.start()
    assert_outlives_a_pause(server)
    server.stop()


def assert_outlives_a_pause(server: Rig) -> None:
    with contextlib.closing(Visitor(server.url)) as visitor, ThreadPoolExecutor(1) as pool:
        token = visitor.token()
        engine = server.do_in_engine(os.getpid)
        server.do_in_engine(faults.no_step_was_slow)
        impatient = server.patched("sd_space.backends.heartbeat:STUCK_AFTER_S", partial(faults.value, new=6.0))
        with (
            impatient,
            server.patched(f"{DENOISER}.denoise_step", partial(faults.pausing, at=5, page=server.process.pid)),
        ):
            answer = pool.submit(visitor.generate, acceptance_token=token, num_inference_steps=30)
            pids = [server.process.pid, engine]
            until(lambda: {psutil.Process(pid).status() for pid in pids} == {psutil.STATUS_STOPPED})
            resume_s = time.monotonic() + PAUSE_S
            until(lambda: time.monotonic() > resume_s, PAUSE_S + 1)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert outcomes(answer.result(60)) == ["ok"]
            assert server.wait_for("/readyz", timeout_s=1)
            assert server.metric(RESTARTS) == 0


@PROCESS("F75", "few file handles, and hundreds of heads that never end: visitors are answered at once")
def half_sent_heads(rigs: Rigs):
    server = rigs.start(program="tests.reliability.few_handles_app")
    with contextlib.ExitStack() as stack, contextlib.closing(Visitor(server.url)) as visitor:
        for number in range(300):
            half = stack.enter_context(connection(server))
            with contextlib.suppress(OSError):  # closed already, to make room
                half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
            if number % 30 == 29:
                assert httpx.get(f"{server.url}/healthz", timeout=2).status_code == 200
        assert visitor.generate(acceptance_token=visitor.token()).is_complete
        assert len(server.log) < 20_000, "no line for each of them"
    server.stop()


HUB_FAULTS = {"F71": "gated", "F72": "silent", "F73": "truncated"}


@pytest.mark.parametrize("attempt", sampled(PROCESS, 1), ids=str)
def test_the_process_ends_or_goes_on_well(rigs, attempt):
    attempt.make(rigs)


@pytest.mark.parametrize(
    "id", sampled(list(HUB_FAULTS), 1), ids=lambda id: f"{id} the Hub is {HUB_FAULTS[id]} at the start"
)
def test_the_page_survives_the_hub(rigs, repository, tmp_path, id):
    _hub_fails(rigs, repository, tmp_path, HUB_FAULTS[id])


# --- without its guard, each of these falls

ENGINE, THREAD = "sd_space.engine.engine:Engine", "sd_space.backends.engine_thread:EngineThread"
MUTANTS = (
    Mutant(f"{ENGINE}._recover", "elif is_smallest or", "elif True or", "F13", "answer.is_complete"),
    Mutant(f"{ENGINE}._recover", "is_full and self._denoiser.reduce_memory()", "False", "F11", "answer.is_complete"),
    Mutant(f"{THREAD}.is_lost", "self._heartbeat.is_overdue", "False", "F20", "nobody notices"),
    Mutant(
        "sd_space.serving.results:ResultStore._write",
        "except (OSError, CannotStart)",
        "except KeyError",
        "F21",
        "sentence in answer.sentence",
    ),
    Mutant(
        "sd_space.serving.results:ResultStore._folder",
        "or not results.folder.is_dir()",
        "",
        "F27",
        "answer.is_complete",
    ),
    Mutant("sd_space.serving.results:ResultStore.sweep", "self._now_s()", "time.time()", "F31", "path.is_file()"),
    Mutant(
        "sd_space.ui.handlers:Handlers._follow", "except SpaceError", "except KeyError", "F28", "NOT_SAVED.encode()"
    ),
    Mutant(
        "sd_space.serving.gradio_queue:restart_gradio_queue",
        "event_ids - waiting if messages else ()",
        "()",
        "F42",
        "until(lambda: answers",
    ),
    Mutant(
        "sd_space.serving.runs:Runs._cancel_unwatched", "not run._watchers", "False", "F36", "host.wait_until_idle(10)"
    ),
)


@pytest.fixture(scope="module")
def other(rigs) -> Iterator[tuple[Rig, Visitor, str]]:
    rig = rigs.start(**ENVIRON)
    with contextlib.closing(Visitor(rig.url)) as visitor:
        yield rig, visitor, visitor.token()


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_guard_a_fault_is_felt(other, mutant):
    host, guest, ticket = other
    attempt = F.named(mutant.caught_by)
    with host.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        assert_survived(host, guest, ticket, attempt.make)
    host.wait_until_idle()
    host.wait_for("/readyz")


PAUSED = Mutant(
    "sd_space.lived_time:LivedTime.tick",
    "min(now_s - at_s, LONGEST_GAP_S)",
    "now_s - at_s",
    "F74",
    "server.metric(RESTARTS) == 0",
)


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", [PAUSED], ids=str)
def test_without_a_guard_a_pause_is_taken_for_a_hang(rigs, mutant):
    server = rigs.start()
    with server.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        assert_outlives_a_pause(server)
    server.stop()


SHORTENED = Mutant(
    "sd_space.backends.replicas:ReplicatedBackend.close",
    "min(self._close_at_s, time.monotonic() + timeout_s)",
    "time.monotonic() + timeout_s + 99",
    "F55",
    "the app did not stop",
)


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", [SHORTENED], ids=str)
def test_without_a_guard_a_stop_takes_too_long(rigs, mutant):
    with mutant.caught():
        term_twice(rigs, mutant)
