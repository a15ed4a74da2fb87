import pytest
from starlette.datastructures import Headers

from sd_space.serving.origins import Origins
from sd_space.settings import Settings


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"host": "example.org"}, "http://example.org"),
        ({"host": "example.org:7860", "x-forwarded-proto": "https"}, "https://example.org:7860"),
        ({"host": "10.0.0.1", "x-forwarded-host": "demo.example.org, 10.0.0.9"}, "http://demo.example.org"),
        ({"host": "[::1]:7860"}, "http://[::1]:7860"),
        ({"host": "example.org", "x-forwarded-host": "<script>"}, "http://example.org"),
        ({"host": "example.org", "x-forwarded-host": 'a"b'}, "http://example.org"),
        ({"host": "example.org", "x-forwarded-host": "a:99999"}, "http://example.org"),
        ({"host": "example.org", "x-forwarded-host": "[::"}, "http://example.org"),
        ({"host": "example.org", "x-forwarded-host": "[1:2:3]"}, "http://example.org"),
        ({"host": "example.org", "x-forwarded-host": "user@evil.example"}, "http://example.org"),
        ({"host": "a b"}, "http://localhost"),
        ({"host": ""}, "http://localhost"),
        ({}, "http://localhost"),
    ],
)
def test_the_address_is_the_host_that_was_asked_for_if_it_is_one(headers, address):
    assert Origins(Settings()).public_address(Headers(headers), "http") == address


def test_a_set_address_stands_whatever_a_request_names():
    origins = Origins(Settings(public_url="https://example.org/demo"))
    assert origins.public_address(Headers({"host": "evil.example"}), "http") == "https://example.org/demo"


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ({}, False),  # curl, gradio_client
        ({"origin": "http://example.org"}, False),
        ({"origin": "https://example.org"}, False),  # TLS ends at a proxy
        ({"origin": "https://example.org", "host": "example.org:443"}, False),
        ({"origin": "http://example.org:81"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "https://huggingface.co"}, True),
        ({"origin": "null"}, True),
        ({"origin": "http://[::"}, True),
        ({"origin": ""}, True),
        ({"origin": "https://demo.example.org", "x-forwarded-host": "demo.example.org"}, False),
        ({"origin": "https://demo.example.org", "sec-fetch-site": "same-origin"}, False),  # a proxy that hides the host
        ({"origin": "http://example.org", "sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"referer": "https://evil.example/page"}, True),
        ({"referer": "http://example.org/page"}, False),
        ({"sec-fetch-site": "none"}, False),  # typed into the address bar
    ],
)
def test_only_the_pages_own_origin_may_call(headers, is_foreign):
    assert Origins(Settings()).is_foreign(Headers({"host": "example.org"} | headers)) is is_foreign


def test_a_set_address_is_the_pages_own_origin():
    origins = Origins(Settings(public_url="https://demo.example.org/x"))
    assert not origins.is_foreign(Headers({"host": "10.0.0.1", "origin": "https://demo.example.org"}))
