"""What a visitor sees on a cluster when a machine is lost."""

import pytest
from playwright.sync_api import expect

from sd_space.tools.bench.scale import replica_processes

from ..server import serve
from .test_page import finished_pictures, generate


@pytest.fixture(scope="module")
def ready_server():
    with serve("--backend", "ray") as server:
        server.wait_for("/readyz", timeout_s=120)
        yield server


def test_a_lost_machine_costs_the_visitor_a_sentence_and_time(studio, ready_server):
    page = studio()
    generate(page, steps=60)
    page.locator("#waiting progress").wait_for()
    (replica,) = replica_processes(ready_server.process.pid)
    replica.kill()
    expect(page.locator("#waiting")).to_contain_text("drawn again on another, with the same seeds")
    expect(finished_pictures(page)).to_have_count(4)
