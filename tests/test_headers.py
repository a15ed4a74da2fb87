import time

import pytest
from starlette.datastructures import Headers

from sd_space.serving.headers import login_cookie


def passed_on(*cookies: str) -> str:
    return login_cookie(Headers(raw=[(b"cookie", cookie.encode("latin-1")) for cookie in cookies]))


@pytest.mark.parametrize("cookie", ["access-token-app=token", "access-token-unsecure-app=token"])
def test_a_login_is_passed_on_by_the_name_that_every_route_looks_for(cookie):
    assert passed_on(cookie) == "access-token-app=token"
    assert passed_on(f"theme=dark; {cookie}; a=b") == "access-token-app=token"
    assert passed_on("theme=dark", cookie) == "access-token-app=token", "HTTP/2 sends each in a header of its own"


def test_the_cookie_of_secure_connections_counts_before_the_other():
    both = ["access-token-app=new", "access-token-unsecure-app=old"]
    assert passed_on("; ".join(both)) == passed_on("; ".join(reversed(both))) == "access-token-app=new"


@pytest.mark.parametrize(
    "cookie",
    [
        "a=b",
        'access-token-app="token"',
        "access-token-app=to ken",
        "access-token-app=",
        "xaccess-token-app=token",
        f"access-token-app={'t' * 65}",
        "access-token-äpp=token",
        "access-token-app=t\u00f6ken",
    ],
)
def test_no_other_cookie_is_passed_on(cookie):
    assert passed_on(cookie) == ""


@pytest.mark.parametrize("word", ['\\"', "access-token-", "access-token-a=b; ", "-", ";", "a=;"])
def test_a_long_cookie_takes_no_time(word):
    """By the clock of the processor, for others use this machine too."""
    long = f'access-token-a="{word * (31_000 // len(word))}"'
    began_s = time.thread_time()
    passed_on(long, long.replace('"', ""))
    assert time.thread_time() - began_s < 0.05
