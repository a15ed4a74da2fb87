"""The licence gate: what is accepted, the signed token that proves it, and the admission of every request.

Tokens are signed and not stored, so any replica with the same secret can check one. Withdrawals are kept in memory.
"""

import functools
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sd_space.card import ModelCard
from sd_space.errors import LicenceNotAccepted
from sd_space.languages import Phrase
from sd_space.request import MAX_SEED, GenerationRequest
from sd_space.schema import AdmittedRequest, Inspection
from sd_space.served_model import ModelInfo
from sd_space.serving.source_pictures import read_sources

if TYPE_CHECKING:
    from itsdangerous import URLSafeSerializer

# CreativeML OpenRAIL-M, Attachment A, clauses (a) to (k), in our own words.
USE_RESTRICTIONS = (
    Phrase("Break no law or regulation that applies where you are or where the pictures go."),
    Phrase("Never exploit or harm minors, or try to."),
    Phrase("Do not make or spread provably false information in order to harm others."),
    Phrase("Do not make or spread personal data that could be used to harm somebody."),
    Phrase("Do not defame, belittle or harass anyone."),
    Phrase("Leave no decision about a person's legal rights or obligations to the model alone."),
    Phrase(
        "Do not discriminate against or harm people for how they behave, or are predicted to behave, or for who they "
        "seem to be."
    ),
    Phrase(
        "Do not exploit the weaknesses of a group, of age, social standing, body or mind, to steer its members into "
        "harm."
    ),
    Phrase("Do not discriminate against people for traits that the law protects."),
    Phrase("Give no medical advice and interpret no medical results."),
    Phrase(
        "Do not serve justice, policing, immigration or asylum with it, such as by predicting who will commit a crime."
    ),
)

HOW_TO_ACCEPT = Phrase(
    "The licence has not been accepted: accept it on the page, or call /accept_license with agree=true and send the "
    "token that it returns as acceptance_token (in the header X-License-Token, or as the API key of OpenAI's clients)."
)
MAX_WITHDRAWN = 10_000
_CLOCK_SKEW_S = 60  # between replicas: itsdangerous' own `max_age` refuses a token of the next second


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A verified token: who accepted (a random name, nothing personal) and when, in seconds since the epoch."""

    visitor: str
    accepted_at: float


def licence_digest(card: ModelCard) -> str:
    """Changes whenever a word of what people accept changes, which voids every earlier acceptance."""
    text = "\n".join((card.licence, card.gate_heading, card.gate_prompt, *USE_RESTRICTIONS))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sent_token(argument: object, headers: Mapping[str, str]) -> object:
    """What a call sends as its acceptance: `acceptance_token`, or where that is empty the header X-License-Token."""
    is_empty = not argument or (isinstance(argument, str) and argument.isspace())
    return headers.get("x-license-token", "") if is_empty else argument


class Gate:
    """Issues acceptance tokens and admits requests that carry a valid one.

    `secret` signs the tokens: a random one is drawn when it is `None`, and a restart then asks everybody again.
    """

    def __init__(self, card: ModelCard, secret: str | None, token_ttl_s: int, now_s: Callable[[], float] = time.time):
        self.card = card
        self._digest = licence_digest(card)
        self._secret = secret or secrets.token_hex(32)
        self._token_ttl_s = token_ttl_s
        self._now_s = now_s
        self._withdrawn: OrderedDict[str, None] = OrderedDict()  # visitors, in this process only

    @functools.cached_property
    def _serializer(self) -> "URLSafeSerializer":
        from itsdangerous import URLSafeSerializer  # not there on machines that draw without a page

        return URLSafeSerializer(self._secret, salt="licence")

    def issue_token(self, agree: object) -> str:
        """A token for somebody who agrees; only a real `True` is an agreement. Raises LicenceNotAccepted."""
        if agree is not True:
            raise LicenceNotAccepted("agree must be true: without accepting the licence no picture can be made.")
        claims = {"licence": self._digest, "at": int(self._now_s()), "visitor": secrets.token_urlsafe(9)}
        return self._serializer.dumps(claims)

    def visitor_of(self, token: object) -> str | None:
        """Whose acceptance this is, or `None` where it is none."""
        try:
            return self.verify_token(token).visitor
        except LicenceNotAccepted:
            return None

    def verify_token(self, token: object) -> Acceptance:
        """The acceptance that `token` proves. Raises LicenceNotAccepted, saying what is wrong and how to accept."""
        licence, acceptance = self._signed(token)
        if licence != self._digest:
            raise LicenceNotAccepted(
                Phrase("The licence text has changed since you accepted it. {how}", how=HOW_TO_ACCEPT)
            )
        if not -_CLOCK_SKEW_S <= self._now_s() - acceptance.accepted_at <= self._token_ttl_s:
            raise LicenceNotAccepted(Phrase("The acceptance has expired. {how}", how=HOW_TO_ACCEPT))
        if acceptance.visitor in self._withdrawn:
            raise LicenceNotAccepted(Phrase("The acceptance has been withdrawn. {how}", how=HOW_TO_ACCEPT))
        return acceptance

    def owner_of(self, token: object) -> str:
        """Whose token this is, expired or not: enough to end what is one's own, not to see it or to begin anything.

        Raises LicenceNotAccepted where the signature is not ours.
        """
        return self._signed(token)[1].visitor

    def withdraw(self, token: object) -> str:
        """Voids the acceptance, of which the last 10,000 are remembered, and returns its visitor.

        Raises LicenceNotAccepted where the signature is not ours.
        """
        visitor = self.owner_of(token)
        self._withdrawn[visitor] = None
        while len(self._withdrawn) > MAX_WITHDRAWN:
            self._withdrawn.popitem(last=False)
        return visitor

    def _signed(self, token: object) -> tuple[str, Acceptance]:
        """What we have signed: the digest of the licence that was accepted, and by whom and when."""
        from itsdangerous import BadSignature

        if not isinstance(token, str) or not token:
            raise LicenceNotAccepted(HOW_TO_ACCEPT)
        try:
            claims = self._serializer.loads(token)
            return claims["licence"], Acceptance(claims["visitor"], claims["at"])
        except (BadSignature, KeyError, TypeError, ValueError):
            raise LicenceNotAccepted(Phrase("The acceptance token is not valid. {how}", how=HOW_TO_ACCEPT)) from None

    def admit(
        self,
        token: object,
        values: Mapping[str, object],
        info: ModelInfo,
        priority: int = 0,
        inspection: Inspection | None = None,
    ) -> AdmittedRequest:
        """The only maker of AdmittedRequests: checks the acceptance first, then every value, and decodes pictures.

        Raises LicenceNotAccepted, or InvalidRequest for a value outside the model's limits.
        """
        admitted = self._admitted(self.verify_token(token), values, info)
        return replace(admitted, priority=priority, inspection=inspection)

    def admit_operator(self, values: Mapping[str, object], info: ModelInfo) -> AdmittedRequest:
        """For a command on this machine: who runs the model there has accepted its licence. Raises InvalidRequest."""
        return self._admitted(Acceptance("operator", self._now_s()), values, info)

    def _admitted(self, acceptance: Acceptance, values: Mapping[str, object], info: ModelInfo) -> AdmittedRequest:
        values = read_sources(values, info)
        return AdmittedRequest(
            request_id=secrets.token_urlsafe(16),
            request=GenerationRequest.parse(values, info, random_seed=secrets.randbelow(MAX_SEED + 1)),
            visitor=acceptance.visitor,
            accepted_at=acceptance.accepted_at,
        )
