"""Content Credentials (C2PA): signed metadata that says what made a picture, and shows whether it was changed since."""

import io
import json
from dataclasses import dataclass
from datetime import datetime
from types import ModuleType
from typing import Any

from PIL import Image

from sd_space.errors import CannotStart
from sd_space.serving.certificate import SigningKey, utc_now

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
BY_MODEL = f"{SOURCE_TYPES}trainedAlgorithmicMedia"
CHANGED_BY_MODEL = f"{SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
MAX_NAME = 80  # characters of what somebody else calls itself
_RECIPE = "org.sd_space.recipe"  # what a part of ours is called where nobody has agreed on a name
# Nothing is fetched, whatever a picture asks for; a thumbnail would double the size of what is signed.
_OFFLINE = {
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


_UNFIT = "The certificate in SD_SPACE_CERTIFICATE does not fit Content Credentials; have one issued that does."


@dataclass(frozen=True, slots=True)
class Claim:
    """What is signed about a picture; `recipe` only where its visitor leaves it in. `start_sha256` is the hash of the
    file of the picture that it was made from, if it was.
    """

    model: str
    revision: str | None
    made_at: datetime
    recipe: str | None
    start_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a picture's credentials say, and how far they hold. `is_ours`: signed with the key that we sign with."""

    is_intact: bool  # nothing was changed since
    is_valid: bool  # and everything else about them is as it should be, whoever the signer is
    is_ours: bool
    signer: str
    software: str
    model: str
    is_by_model: bool  # says that a trained model made the picture, or a part of it


class Signer:
    """Signs pictures with one key; safe to use from several threads. Raises CannotStart where it cannot be used."""

    def __init__(self, key: SigningKey):
        c2pa = _library()
        if c2pa is None:
            raise CannotStart(
                "Pictures cannot be signed without the package c2pa-python; install it, or set no certificate."
            )
        self.key = key
        self._c2pa = c2pa
        try:
            info = c2pa.C2paSignerInfo(key.algorithm, key.chain_pem.encode(), key.key_pem.encode(), None)
            self._context = c2pa.Context(c2pa.Settings.from_dict(_OFFLINE), c2pa.Signer.from_info(info))
        except c2pa.C2paError:
            raise CannotStart(_UNFIT) from None

    def check(self) -> None:
        """Signs a picture, and reads that. Raises CannotStart where readers would not take it."""
        png = io.BytesIO()
        Image.new("RGB", (8, 8)).save(png, "PNG")
        try:
            signed = self.signed(png.getvalue(), Claim("a check", None, utc_now(), None))
        except self._c2pa.C2paError:
            raise CannotStart(_UNFIT) from None
        read = read_credentials(signed, "image/png", self.key)
        if read is None or not (read.is_valid and read.is_ours):
            raise CannotStart(_UNFIT)

    def signed(self, png: bytes, claim: Claim) -> bytes:
        """The PNG with its credentials. Raises the library's C2paError."""
        signed = io.BytesIO()
        with self._c2pa.Builder(_manifest(claim), self._context) as builder:
            builder.sign("image/png", io.BytesIO(png), signed)
        return signed.getvalue()


def can_be_read() -> bool:
    """Whether the library is there, which some systems have no build of."""
    return _library() is not None


def read_credentials(picture: bytes, media_type: str, key: SigningKey | None) -> Credentials | None:
    """The credentials in a picture, whoever has made them; `None` where there are none that can be read."""
    c2pa = _library()
    if c2pa is None:
        return None
    trust = {"trust": {"trust_anchors": key.topmost_pem}} if key else {}
    context = c2pa.Context(c2pa.Settings.from_dict(_OFFLINE | trust))
    try:
        with c2pa.Reader(media_type, io.BytesIO(picture), context=context) as reader:
            return _credentials(json.loads(reader.json()), key)
    except (c2pa.C2paError, ValueError, KeyError, TypeError, AttributeError):  # none, or nothing that makes sense
        return None


def _library() -> ModuleType | None:
    """Imported late: it takes a fifth of a second and 30 MB."""
    try:
        import c2pa
    except (ImportError, OSError):
        return None
    library: ModuleType = c2pa
    return library


def _manifest(claim: Claim) -> dict[str, Any]:
    agent = {"name": claim.model} | ({"version": claim.revision} if claim.revision else {})
    action: dict[str, Any] = {
        "action": "c2pa.created",
        "when": claim.made_at.isoformat(timespec="seconds"),
        "softwareAgent": agent,
        "digitalSourceType": CHANGED_BY_MODEL if claim.start_sha256 else BY_MODEL,
    }
    parameters: dict[str, Any] = {} if claim.recipe is None else {_RECIPE: claim.recipe}
    ingredients = []
    if claim.start_sha256:
        name = f"sha256:{claim.start_sha256}"
        ingredients = [{"title": "The picture that it was made from", "instance_id": name, "relationship": "inputTo"}]
        parameters["ingredientIds"] = [name]
    if parameters:
        action["parameters"] = parameters
    return {
        "claim_generator_info": [{"name": "sd_space"}],
        "format": "image/png",
        "ingredients": ingredients,
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }


def _name(said: object) -> str:
    """A name that anybody may have written, on one short line of what can be seen, and without our quotation marks."""
    seen = "".join(c if c.isprintable() and c not in "“”" else " " for c in str(said)[: 10 * MAX_NAME])
    name = " ".join(seen.split())
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _credentials(read: dict[str, Any], key: SigningKey | None) -> Credentials:
    manifest = read["manifests"][read["active_manifest"]]
    results = read["validation_results"]["activeManifest"]
    failures = {failure["code"] for failure in results["failure"]} - {"signingCredential.untrusted"}
    successes = {success["code"] for success in results["success"]}
    signature, generators = manifest["signature_info"], manifest.get("claim_generator_info") or [{}]
    actions = [
        action
        for assertion in manifest.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"]["actions"]
    ]
    agents = [action.get("softwareAgent") or "" for action in actions]
    models = [agent.get("name", "") if isinstance(agent, dict) else str(agent) for agent in agents]
    return Credentials(
        is_intact=not any("mismatch" in code for code in failures),
        is_valid=not failures,
        is_ours=key is not None
        and {"signingCredential.trusted", "claimSignature.validated"} <= successes
        and str(signature.get("cert_serial_number")) == str(key.serial_number),
        signer=_name(signature.get("common_name") or signature.get("issuer") or ""),
        software=_name(generators[0].get("name", "")),
        model=_name(next(filter(None, models), "")),
        is_by_model=any("trainedalgorithmicmedia" in str(a.get("digitalSourceType", "")).lower() for a in actions),
    )
