"""The same requests to the app on each backend: the same pictures, the same verdicts, the same gate."""

import io

import numpy as np
import pytest
from PIL import Image

from ..server import serve
from ..test_api import QUICK, call

OTHERS = ("zerogpu", "ray")  # than `local`, whose server all tests share

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module", params=OTHERS)
def other(request):
    """The app there, with the picture book; without a Hub that lends GPUs, ZeroGPU's runs in its process."""
    with serve("--backend", request.param) as server:
        server.wait_for("/healthz", timeout_s=120)
        yield server


@pytest.mark.parametrize("token", ["", "of nobody"])
def test_the_gate_refuses_before_a_backend_is_asked(ready_server, other, token):
    """The model may still be loading: nobody waits for it to be told that the licence is not accepted."""
    values = QUICK | {"acceptance_token": token}
    (refusal,) = {str(call(server, "generate", values)) for server in (ready_server, other)}
    assert "error" in refusal and "licence" in refusal


def drawn(server, **changes) -> tuple[list[np.ndarray], list[dict]]:
    server.wait_for("/readyz", timeout_s=120)
    _, (token,) = call(server, "accept_license", {"agree": True})
    event, answer = call(server, "generate", QUICK | {"acceptance_token": token, "num_inference_steps": 20} | changes)
    assert event == "complete", answer
    files, result = answer
    bodies = [server.get(f"/gradio_api/file={file['path']}").content for file in files]
    return [np.asarray(Image.open(io.BytesIO(body)), dtype=int) for body in bodies], result["images"]


@pytest.mark.parametrize(
    ("prompt", "outcome"), [("a cat on the beach", "ok"), ("a skull warning sign on the beach", "withheld")]
)
def test_every_backend_draws_and_withholds_the_same(ready_server, other, prompt, outcome):
    asked = {"prompt": prompt, "num_images_per_prompt": 2, "guidance_scale": 3.0}
    reference, verdicts = drawn(ready_server, **asked)
    marks = {"watermark": False, "credentials": outcome == "ok"}
    assert verdicts == [{"seed": seed, "outcome": outcome, **marks} for seed in (7, 8)]
    pictures, same = drawn(other, **asked)
    assert same == verdicts
    for picture, expected in zip(pictures, reference, strict=True):
        assert np.abs(picture - expected).max() <= (1 if outcome == "ok" else 0)
