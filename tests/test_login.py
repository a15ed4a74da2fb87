import time
from urllib.parse import parse_qsl

import httpx
import pytest
from starlette.datastructures import Headers

from sd_space.serving.envelope import Refusal
from sd_space.serving.login import login_body

FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=b"


def part(name: str, value: str, head: str = 'Content-Disposition: form-data; name="{name}"\r\n') -> str:
    return f"--b\r\n{head.format(name=name)}\r\n{value}\r\n"


def parts(*fields: str) -> str:
    return "".join(fields) + "--b--\r\n"


def read(content_type: str, body: str | bytes) -> dict[str, str]:
    body = body.encode() if isinstance(body, str) else body
    return dict(parse_qsl(login_body(Headers({"content-type": content_type}), body).decode()))


def refusal(content_type: str, body: str | bytes) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read(content_type, body)
    return refused.value


FILE_PART = b'--x\r\nContent-Disposition: form-data; name="username"; filename="f"\r\n\r\nme\r\n--x--\r\n'


def test_a_login_is_read_in_both_forms():
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
        for pair in ((b"username", b"me"), (b"password", b"a&b=c"))
    )
    for content_type, body in (
        ("multipart/form-data; boundary=x", parts + b"--x--\r\n"),
        ("application/x-www-form-urlencoded", b"username=me&password=a%26b%3Dc&more=1"),
    ):
        assert login_body(Headers({"content-type": content_type}), body) == b"username=me&password=a%26b%3Dc"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("", b"username=me"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no parts"),
        ("multipart/form-data; boundary=x", FILE_PART),
        ("application/x-www-form-urlencoded", b"username=me"),
        ("application/x-www-form-urlencoded", b"username=me&password="),
        ("application/x-www-form-urlencoded", b"username=me&password=" + b"x" * 2000),
        ("application/x-www-form-urlencoded", b"\xff=1"),
        ("application/x-www-form-urlencoded", b"a=1&" * 50),
    ],
)  # fmt: skip
def test_a_login_of_any_other_form_is_refused_in_a_sentence(content_type, body):
    with pytest.raises(Refusal) as refused:
        login_body(Headers({"content-type": content_type}), body)
    assert refused.value.status in (400, 415) and refused.value.sentence.endswith(".")


@pytest.mark.parametrize("is_in_parts", [True, False])
def test_a_login_is_read_as_clients_send_it(is_in_parts):
    values = {"username": "gäst", "password": "a&b=c\r\n-- ü"}
    form = {"files": {name: (None, value) for name, value in values.items()}} if is_in_parts else {"data": values}
    sent = httpx.Request("POST", "http://localhost/login", **form)
    assert read(sent.headers["content-type"], sent.read()) == values


@pytest.mark.parametrize(
    "head",
    [
        'content-disposition: form-data; name="{name}"\r\n',
        "Content-Disposition: form-data; name={name}\r\n",
        'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="{name}"\r\n',
        'Content-Disposition: form-data; name="{name}"\r\nContent-Length: 1\r\n',
    ],
)
@pytest.mark.parametrize("content_type", [PARTS, 'Multipart/Form-Data; boundary="b"'])
def test_a_part_may_be_written_in_several_ways(head, content_type):
    body = parts(part("username", "u", head), part("password", "p", head))
    assert read(content_type, body) == {"username": "u", "password": "p"}


NAMED = 'Content-Disposition: form-data; name="{name}"\r\nContent-Type: text/plain; charset=%s\r\n'


@pytest.mark.parametrize("charset", ["punycode", "utf-7", "unicode_escape", "idna", "nonsense"])
def test_no_caller_chooses_how_a_login_is_decoded(charset):
    written = parts(part("username", "+AOQ-"), part("password", "\\x41"))
    assert refusal(f"{PARTS}; charset={charset}", written).status == 400
    of_a_part = parts(part("username", "+AOQ-", NAMED % charset), part("password", "\\x41", NAMED % charset))
    assert read(PARTS, of_a_part) == {"username": "+AOQ-", "password": "\\x41"}
    assert refusal(PARTS, parts(part("username", "u", f"Content-Disposition: form-data; name*={charset}''x\r\n")))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, b"username=\xff&password=p"),
        (FORM, "username=%ff&password=p"),
        (FORM, "username=%ed%a0%80&password=p"),
        (FORM, "&".join(["a=b"] * 5)),
        (PARTS, parts(part("username", "u"), part("password", "\xff")).encode("latin-1")),
        (PARTS, parts(*[part("a", "b")] * 5)),
        (PARTS, parts(part("username", "u"), part("password", "p")).removesuffix("--\r\n")),
        (PARTS, "before " + parts(part("username", "u"), part("password", "p"))),
        (PARTS, ""),
        ("multipart/form-data", parts(part("username", "u"), part("password", "p"))),
        ("multipart/form-data; boundary=" + "b" * 71, ""),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_in_a_sentence(content_type, body):
    refused = refusal(content_type, body)
    assert (refused.status, refused.sentence) == (
        400,
        "The login form could not be read; send username and password as its only fields, in UTF-8.",
    )


@pytest.mark.parametrize("password", ["", "p" * 1001])
def test_a_field_that_is_empty_or_too_long_is_named(password):
    assert (
        "password must be text of 1"
        in refusal(PARTS, parts(part("username", "u"), part("password", password))).sentence
    )
    assert "password must be text of 1" in refusal(FORM, f"username=u&password={password}").sentence


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (f"{PARTS}; charset=punycode", parts(part("username", "a" * 30_000 + "-" + "b" * 25_000))),
        (PARTS, parts(part("username", "u", 'Content-Disposition: form-data; name="x' + ";" * 60_000 + "\r\n"))),
        (PARTS, "--b\r\n" + "a: b\r\n" * 10_000),
        (PARTS, "--b\r\n" * 12_000),
        (PARTS, "\r\n-" * 20_000),
        ("multipart/form-data; boundary=" + "-" * 30_000, "-" * 60_000),
        (PARTS + ';a="' * 7_000, parts()),
        (FORM, "&" * 60_000),
        (FORM, "username=" + "%61" * 20_000),
    ],
)  # fmt: skip
def test_a_long_login_takes_no_time(content_type, body):
    """By the clock of the processor, for others use this machine too."""
    began_s = time.thread_time()
    refusal(content_type, body)
    assert time.thread_time() - began_s < 0.05
