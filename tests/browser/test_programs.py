"""What the page tells a visitor's own programs, tried with their packages."""

import contextlib
import io
import re
import subprocess

from playwright.sync_api import expect

from ..generated import taking_turns


@taking_turns(0)
def test_a_visitor_who_has_accepted_is_given_lines_that_draw(new_page, ready_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = new_page()
    page.get_by_label("I have read the licence and accept it").check()
    assert page.get_by_role("button", name="Use it from your own program").count() == 0, "before accepting"
    page.get_by_role("button", name="Accept and continue").click()
    button = page.get_by_role("button", name="Use it from your own program")
    button.click()
    guide = page.locator("#programs")
    expect(guide).to_contain_text("30 days")
    expect(guide).to_contain_text(f"{ready_server.url}/v1")
    expect(button).to_have_attribute("aria-expanded", "true")
    curl, *programs = guide.locator("code:not(.root)").all_text_contents()
    assert ".png" in subprocess.run(["bash", "-c", curl], capture_output=True, text=True, timeout=100).stdout
    for program in programs:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(program, {})
        assert ".png" in said.getvalue() and "ok" in said.getvalue()
    copied = guide.get_by_role("button", name="Copy the lines for curl").get_attribute("data-copy")
    assert copied == curl
    token = re.search(r"Bearer ([^\"]+)", curl)[1]
    button.click()
    expect(guide).to_be_hidden()
    assert token not in guide.inner_html(), "shown only as long as it is asked for"
    button.click()
    expect(guide).to_be_visible()
    page.get_by_role("button", name="Withdraw my acceptance of the licence").click()
    page.get_by_role("button", name="Withdraw and clear this page").click()
    expect(page.get_by_role("button", name="Accept and continue")).to_be_visible()
    assert token not in page.content(), "nor after it was withdrawn"
    assert not page.errors and not page.foreign
