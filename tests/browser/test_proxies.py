"""The page behind proxies as operators set them up, with nothing told to the app."""

import io
import re
import zipfile

import pytest
from playwright.sync_api import expect

from ..generated import sampled
from ..proxy import Proxy, make_certificate
from ..server import free_port
from ..test_api import PICTURES_MADE
from .test_page import finished_pictures, generate


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize(
    ("is_tls", "prefix", "passes_host"),
    sampled([(True, "", True), (False, "", False), (True, "/spaces/demo", False)], 1),
    ids=["TLS that passes the host only", "a bare proxy_pass", "TLS and a path of its own"],
)
def test_pictures_and_archive_load_wherever_the_page_is_opened(
    browser, ready_server, certificate, is_tls, prefix, passes_host
):
    proxy = Proxy(ready_server.url, 0, prefix, passes_host, certificate if is_tls else None)
    with proxy.running() as address:
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.set_default_timeout(60_000)
        failed = []
        # Chromium ends the page's own question whether the archive is still there, once it is being downloaded.
        is_file = re.compile("GET .*/gradio_api/file=").match
        page.on("requestfailed", lambda r: failed.append(r.url) if is_file(f"{r.method} {r.url}") else None)
        page.on("response", lambda r: failed.append(r.url) if r.status >= 400 else None)
        elsewhere = []
        own = (address, "data:", "blob:")
        page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith(own) else None)
        page.goto(address)
        page.get_by_role("checkbox", name="I have read the licence and accept it").check()
        page.get_by_role("button", name="Accept and continue").click()
        generate(page, steps=4)
        expect(finished_pictures(page)).to_have_count(4)
        for picture in [page.locator("#examples img").first, *finished_pictures(page).all()]:
            page.wait_for_function("img => img.complete && img.naturalWidth > 0", arg=picture.element_handle())
        with page.expect_download() as download:
            page.locator("#download-all").click()
        fetched = context.request.get(download.value.url)  # Chromium keeps no file from a host that nobody vouches for
        with zipfile.ZipFile(io.BytesIO(fetched.body())) as archive:
            assert len(archive.namelist()) == 4
        assert failed == [] and elsewhere == []
        context.close()


@pytest.mark.nightly
def test_a_run_outlives_a_short_outage_of_the_network(browser, ready_server):
    proxy = Proxy(ready_server.url, free_port())
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    finished = ready_server.metric(PICTURES_MADE)
    with proxy.running() as address:
        page.goto(address)
        page.get_by_role("checkbox", name="I have read the licence and accept it").check()
        page.get_by_role("button", name="Accept and continue").click()
        generate(page, steps=100)
        page.wait_for_function("document.querySelector('#waiting progress')?.value > 0.02")
    expect(page.locator("#progress-text")).to_contain_text("The server cannot be reached")
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    page.get_by_text("Connection to the server was lost").wait_for()
    with proxy.running():
        expect(finished_pictures(page)).to_have_count(4)
        assert ready_server.metric(PICTURES_MADE) == finished + 4, "they were drawn once"
    context.close()
