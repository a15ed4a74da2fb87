from dataclasses import fields, replace

import pytest

from sd_space.errors import InvalidRequest
from sd_space.fields import Choice, Real, RequestField, Text, Whole
from sd_space.request import REQUEST_FIELDS, GenerationRequest

from .test_schema import INFO

LIMITS = replace(INFO.limits, max_steps=30, schedulers=("PNDM", "Euler"))


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Whole(1, "max_steps"), 31, "strength must be a whole number from 1 to 30, not 31."),
        (Whole("min_size", "max_size", multiple_of="size_step"), 65, "must be a multiple of 8, not 65."),
        (Real(0, "max_guidance"), 20.5, "strength must be a number from 0 to 20, not 20.5."),
        (Choice("schedulers"), "LCM", "strength must be one of PNDM, Euler, not 'LCM'."),
        (Choice("schedulers"), "\u202ePNDM", "not '?PNDM'."),
        (Real(0, "max_guidance"), "7,5", "not '7,5'."),
        (Choice("schedulers"), "<b>", "not '?b?'."),
        (Choice("schedulers"), ["PNDM"], "not a list."),
        (Text(3), {}, "strength must be text, not an object."),
        (Text(3), b"", "strength must be text, not something else."),
        (Text(3), "four", "strength must be at most 3 characters long, not 4."),
        (Text(3, may_be_empty=False), " ", "strength must not be empty"),
    ],
)
def test_what_a_kind_refuses_is_said_with_the_models_own_limits(kind, value, says):
    with pytest.raises(InvalidRequest) as refusal:
        kind.check("strength", value, LIMITS)
    assert refusal.value.field == "strength" and says in str(refusal.value)


def test_a_field_is_described_with_the_limits_in_force():
    assert RequestField(Whole(1, "max_steps"), "Steps", "steps, 1 to {limits.max_steps}").describe(LIMITS) == (
        "steps, 1 to 30"
    )


def test_every_field_of_a_request_is_in_the_table():
    assert list(REQUEST_FIELDS) == [f.name for f in fields(GenerationRequest)]
    for name, field in REQUEST_FIELDS.items():
        assert field.label and "{" not in field.describe(INFO.limits), name
