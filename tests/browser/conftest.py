"""A real Chromium against the real app. Where there is none, these tests say so once, loudly, and are left out."""

import os
import shutil
import time
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
expect.set_options(timeout=60_000)  # a busy machine draws slowly
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(config, items):
    mine = [item for item in items if "browser" in item.path.parts]
    for item in mine:
        item.add_marker(pytest.mark.browser)
    if CHROMIUM or not mine:
        return
    sentence = f"NO CHROMIUM: {len(mine)} browser tests do not run; install it (apt-get install chromium)."
    if os.environ.get("REQUIRE_BROWSER"):
        raise pytest.UsageError(sentence)
    config.get_terminal_writer().line(f"\n{sentence}", red=True, bold=True)
    items[:] = [item for item in items if item not in mine]
    config.hook.pytest_deselected(items=mine)


@pytest.fixture(scope="package")  # its event loop must end with these tests: others start their own
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """A test that falls shows what its pages asked for and were told."""
    report = yield
    if report.failed:
        report.sections.append(("what its pages saw", "\n".join(getattr(item, "seen", []))))
    return report


def watch(page: Page, seen: list[str]) -> None:
    """Notes in `seen`, with the seconds since the page was opened, whatever makes Gradio load it anew."""
    began_s = time.monotonic()

    def note(*words: object) -> None:
        seen.append(" ".join(map(str, (f"{time.monotonic() - began_s:6.2f}", *words))))

    def note_events(kind: str, request, *words: object) -> None:
        if "/queue/" in request.url or "/heartbeat/" in request.url:
            note(kind, urlsplit(request.url).path, *words)

    page.on("framenavigated", lambda frame: note("opened", urlsplit(frame.url).path))
    page.on("console", lambda message: note(message.type, message.text))
    page.on("request", lambda request: note_events("asked", request))
    page.on("response", lambda response: note_events("answered", response, response.status))
    page.on("requestfinished", lambda request: note_events("ended", request))
    page.on("requestfailed", lambda request: note_events("failed", request, request.failure))


@pytest.fixture
def new_page(browser: Browser, ready_server, request):
    """Opens the app in a fresh profile; requests to other hosts and errors of scripts are collected in `page.foreign`
    and `page.errors`."""
    contexts = []
    request.node.seen = []

    def open_page(path: str = "/", **options) -> Page:
        context = browser.new_context(base_url=ready_server.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.foreign, page.errors = [], []
        own = (ready_server.url, "data:", "blob:")
        page.on("request", lambda r: page.foreign.append(r.url) if not r.url.startswith(own) else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        watch(page, request.node.seen)
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def workspace(new_page):
    """Opens the app and passes the gate as a visitor does."""

    def open_workspace(path: str = "/", **options) -> Page:
        page = new_page(path, **options)
        page.get_by_role("checkbox", name="I have read the licence and accept it").check()
        page.get_by_role("button", name="Accept and continue").click()
        page.get_by_label("Prompt", exact=True).wait_for()
        return page

    return open_workspace
