"""The command as an operator meets it: wrong calls, the page before the model, passwords, being told to stop."""

import httpx
import pytest
from gradio_client import Client

from .server import ended, serve


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        (["--auth", "somebody"], {}, "--auth must be USER:PASSWORD, with neither part empty."),
        ([], {"SD_SPACE_MAX_QUEUE": "many"}, "SD_SPACE_MAX_QUEUE must be a whole number from 1 to 10000, not 'many'."),
        (["--backend", "cloud"], {}, "SD_SPACE_BACKEND must be one of"),
        ([], {"SD_SPACE_MODLE": "tiny"}, "SD_SPACE_MODLE is not a setting; README lists those that are."),
    ],
)
def test_a_wrong_call_ends_at_once_in_a_sentence(arguments, environ, says, tmp_path):
    status, said = ended("app", arguments, tmp_path, **environ)
    assert status == 2
    assert says in said and "Traceback" not in said


def test_the_page_answers_before_the_model_is_there_and_sigterm_ends_it_well():
    with serve(is_fresh=True) as server:
        server.wait_for("/", timeout_s=60)
        early = server.get("/readyz")
        assert early.status_code == 503 and "Getting ready" in early.json()["reason"]
        assert server.get("/healthz").status_code == 200
        server.wait_for("/readyz", timeout_s=120)
        assert server.stop(timeout_s=30) == 0
        assert list(server.results.iterdir()) == []
        assert "Traceback" not in server.log


def test_a_password_guards_the_page_and_the_endpoints_but_not_the_health():
    with serve("--auth", "guest:a:b") as server:
        server.wait_for("/healthz", timeout_s=60)
        assert server.get("/config").status_code == 401
        body = {"agree": True}
        refused = httpx.post(f"{server.url}/gradio_api/call/v2/accept_license", json=body, timeout=30)
        assert refused.status_code == 401
        assert server.get("/gradio_api/mcp/").status_code == 404, "it could not give the password on"
        assert "contact-sheet" not in server.get("/").text, "no path is shown to strangers"
        client = Client(server.url, auth=("guest", "a:b"), verbose=False, analytics_enabled=False)
        assert client.predict(agree=True, api_name="/accept_license")


def test_a_model_that_is_not_there_leaves_the_page_up_and_says_why():
    with serve("--model", "/nowhere/secret-place") as server:
        server.wait_for("/healthz", timeout_s=60)
        reason = ""
        while "cannot be loaded" not in reason:
            reason = server.get("/readyz").json()["reason"]
        assert "secret-place" not in reason and server.get("/").status_code == 200
        assert "does not exist" in server.log, "the operator reads which model and why"
