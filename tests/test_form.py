import pytest

from sd_space.served_model import Defaults
from sd_space.ui.form import (
    CARD_DEFAULTS,
    CARD_LIMITS,
    apply_model_defaults,
    bounds,
    parse_size,
    request_values,
    size_choices,
    size_value,
)

OWN = Defaults(num_inference_steps=20, guidance_scale=3.0, scheduler="DPM++ 2M Karras", width=128, height=128)
CARDS = {
    "num_inference_steps": CARD_DEFAULTS.num_inference_steps,
    "guidance_scale": CARD_DEFAULTS.guidance_scale,
    "scheduler": CARD_DEFAULTS.scheduler,
    "width": CARD_DEFAULTS.width,
    "height": CARD_DEFAULTS.height,
}


def test_a_size_is_read_as_it_is_written():
    assert parse_size(size_value(96, 128)) == {"width": 96, "height": 128}


@pytest.mark.parametrize("size", ["", "x", "²x64", "64x", "9" * 5000 + "x64", None, 64, ["64x64"], "64x64x64"])
def test_what_is_no_size_stays_as_it_is_for_the_gate_to_refuse(size):
    assert size in parse_size(size).values()


def test_sizes_on_offer_are_the_models_own_and_multiples_of_eight():
    values = [value for _, value in size_choices(OWN)]
    assert values == ["128x128", "96x128", "128x96"]
    assert all(side % 8 == 0 for value in values for side in parse_size(value).values())


def test_sizes_on_offer_follow_the_steps_that_the_model_allows():
    assert [value for _, value in size_choices(OWN, 64)] == ["128x128", "64x128", "128x64"]


def test_what_is_still_the_cards_becomes_the_models_own():
    assert apply_model_defaults(CARDS, OWN, {}) == {name: getattr(OWN, name) for name in CARDS}


def test_what_was_chosen_or_linked_stays():
    chosen = CARDS | {"num_inference_steps": 7, "width": 256}
    own = apply_model_defaults(chosen, OWN, {"guidance_scale": CARD_DEFAULTS.guidance_scale})
    assert own == {"scheduler": OWN.scheduler}, "one side alone is no choice of size"


def test_the_forms_values_are_a_requests():
    form = {"prompt": "a cat", "seed": 7, "random_seed": False, "size": "64x96", "embed_recipe": True}
    assert request_values(form) == {"prompt": "a cat", "seed": 7, "width": 64, "height": 96}
    assert request_values(form | {"random_seed": True})["seed"] == -1


def test_a_control_offers_what_the_limits_allow():
    assert bounds("num_inference_steps", CARD_LIMITS) == {"minimum": 1, "maximum": 150}
    assert bounds("guidance_scale", CARD_LIMITS) == {"minimum": 1.0, "maximum": 20.0}
    assert bounds("scheduler", CARD_LIMITS) == {"choices": list(CARD_LIMITS.schedulers)}
    assert bounds("prompt", CARD_LIMITS) == {}
