from dataclasses import replace

import pytest

from sd_space.card import load_card
from sd_space.errors import InvalidRequest, LicenceNotAccepted
from sd_space.schema import AdmittedRequest
from sd_space.serving.gate import USE_RESTRICTIONS, Gate, licence_digest, sent_token

from .test_schema import INFO

NOW_S = 1_800_000_000.0
DAY_S = 86_400


def gate_at(now_s=NOW_S, secret="a secret", card=None):
    return Gate(card or load_card(), secret, token_ttl_s=30 * DAY_S, now_s=lambda: now_s)


@pytest.fixture(scope="module")
def token():
    return gate_at().issue_token(True)


def test_a_token_is_valid_on_every_replica_with_the_same_secret(token):
    acceptance = gate_at(NOW_S + DAY_S).verify_token(token)
    assert acceptance.accepted_at == NOW_S
    assert acceptance == gate_at(NOW_S + 2 * DAY_S).verify_token(token)


@pytest.mark.parametrize("agree", [False, None, 1, "true", "yes", [], {}, 1.0])
def test_only_true_is_an_agreement(agree):
    with pytest.raises(LicenceNotAccepted, match="agree must be true"):
        gate_at().issue_token(agree)


@pytest.mark.parametrize("forge", [
    lambda token: "",
    lambda token: None,
    lambda token: 7,
    lambda token: ["x"],
    lambda token: "x" * 100_000,
    lambda token: token[:-1],
    lambda token: " " + token,
    lambda token: token.partition(".")[0],
    lambda token: token.partition(".")[0] + ".",
    lambda token: ("A" if token[0] != "A" else "B") + token[1:],
    lambda token: gate_at(secret="another").issue_token(True),
])  # fmt: skip
def test_a_forged_token_is_refused_with_how_to_accept(token, forge):
    with pytest.raises(LicenceNotAccepted, match="/accept_license"):
        gate_at().verify_token(forge(token))


@pytest.mark.parametrize(
    ("argument", "sent"), [("", "header"), (" \t", "header"), (None, "header"), (" x", " x"), (5, 5)]
)
def test_a_blank_argument_does_not_hide_the_token_of_the_header(argument, sent):
    assert sent_token(argument, {"x-license-token": "header"}) == sent
    assert not sent_token("", {})


@pytest.mark.parametrize(
    ("age_s", "accepted"), [(0, True), (30 * DAY_S, True), (30 * DAY_S + 1, False), (-60, True), (-61, False)]
)
def test_an_acceptance_holds_for_its_time_and_before_it_only_by_the_skew_of_clocks(token, age_s, accepted):
    gate = gate_at(NOW_S + age_s)
    if accepted:
        gate.verify_token(token)
    else:
        with pytest.raises(LicenceNotAccepted, match="expired"):
            gate.verify_token(token)


def test_changing_a_word_of_the_licence_text_voids_earlier_acceptances(token):
    changed = replace(load_card(), gate_prompt=load_card().gate_prompt + " New clause.")
    with pytest.raises(LicenceNotAccepted, match="has changed"):
        gate_at(card=changed).verify_token(token)


def test_the_digest_covers_the_use_restrictions(monkeypatch):
    before = licence_digest(load_card())
    monkeypatch.setattr("sd_space.serving.gate.USE_RESTRICTIONS", USE_RESTRICTIONS[:-1])
    assert licence_digest(load_card()) != before
    assert len(USE_RESTRICTIONS) == 11


def test_an_acceptance_that_is_withdrawn_is_none_any_more_and_others_are(token):
    gate = gate_at()
    other = gate.issue_token(True)
    assert gate.withdraw(token) != gate.withdraw(gate.issue_token(True))
    with pytest.raises(LicenceNotAccepted, match="withdrawn"):
        gate.admit(token, {"prompt": "a cabin"}, INFO)
    assert gate.admit(other, {"prompt": "a cabin"}, INFO)


def test_an_expired_acceptance_still_says_whose_it_is_and_begins_nothing(token):
    late = gate_at(NOW_S + 31 * DAY_S)
    assert late.visitor_of(token) is None
    assert late.owner_of(token) == late.withdraw(token) == gate_at().visitor_of(token)
    for foreign in ("", None, gate_at(secret="another").issue_token(True)):
        with pytest.raises(LicenceNotAccepted):
            late.owner_of(foreign)


def test_no_more_than_ten_thousand_withdrawals_are_remembered(monkeypatch):
    monkeypatch.setattr("sd_space.serving.gate.MAX_WITHDRAWN", 2)
    gate = gate_at()
    tokens = [gate.issue_token(True) for _ in range(3)]
    for token in tokens:
        gate.withdraw(token)
    assert gate.verify_token(tokens[0])
    with pytest.raises(LicenceNotAccepted, match="withdrawn"):
        gate.verify_token(tokens[1])


def test_admission_checks_the_licence_before_any_value():
    with pytest.raises(LicenceNotAccepted):
        gate_at().admit("no token", {"prompt": ""}, INFO)


def test_an_admitted_request_carries_no_more_than_a_random_visitor_name(token):
    admitted = gate_at().admit(token, {"prompt": "a cabin", "seed": 3}, INFO)
    assert isinstance(admitted, AdmittedRequest) and admitted.request.seed == 3
    again = gate_at().admit(token, {"prompt": "a cabin", "seed": 3}, INFO)
    assert admitted.visitor == again.visitor and admitted.request_id != again.request_id
    assert token not in repr(admitted)


def test_a_random_seed_differs_from_call_to_call(token):
    seeds = {gate_at().admit(token, {"prompt": "a cabin"}, INFO).request.seed for _ in range(5)}
    assert len(seeds) == 5


def test_a_bad_value_is_refused_behind_the_gate_too(token):
    with pytest.raises(InvalidRequest):
        gate_at().admit(token, {"prompt": "a cabin", "num_inference_steps": 0}, INFO)
