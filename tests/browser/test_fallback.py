"""What a visitor reads, and gets, where v1-4 was to be served and the Hub does not give it."""

import pytest
from playwright.sync_api import expect

from sd_space.settings import V1_4
from tests.hub import serving
from tests.server import serve


@pytest.mark.nightly
def test_the_picture_book_stands_in_with_a_banner_that_says_why(browser, repository, tmp_path):
    with serving(repository) as hub:
        hub.fault = "gated"
        environ = {
            "SD_SPACE_MODEL": "auto",
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path),
        }
        with serve(module="tests.browser.fallback_app", **environ) as server:
            server.wait_for("/healthz", timeout_s=120)
            page = browser.new_page(base_url=server.url)
            page.goto("/?num_inference_steps=50&scheduler=PNDM&num_images_per_prompt=2")  # while nothing is loaded
            page.get_by_role("checkbox", name="I have read the licence and accept it").check()
            page.get_by_role("button", name="Accept and continue").click()
            page.get_by_label("Prompt", exact=True).fill("A robot")
            page.get_by_label("Prompt", exact=True).press("Enter")
            expect(page.locator("#gallery .thumbnail-item img, #gallery button.thumbnail-lg img")).to_have_count(2)
            expect(page.get_by_text(f"{V1_4} could not be loaded, so a small model stands in for it.")).to_be_visible()
            expect(page.locator(".banner")).not_to_contain_text("No graphics card")
            page.get_by_text("More options").click()
            expect(page.get_by_label("number input for Guidance scale")).to_have_value("3")  # the model's own
            expect(page.get_by_label("number input for Steps")).to_have_value("50")  # the link's, as is the card's
            page.close()
        fix = f"accept its licence at https://huggingface.co/{V1_4}"
        assert fix in server.log, "which the operator reads"
