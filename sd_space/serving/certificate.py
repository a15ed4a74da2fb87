"""The certificate and key that pictures are signed with: the operator's, or some of this installation's own."""

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sd_space.errors import CannotStart

OWN_DAYS = 3650
_LEAST_DAYS_LEFT = 30  # of our own, which is made anew before that
_FIX = "correct SD_SPACE_CERTIFICATE and SD_SPACE_PRIVATE_KEY, or leave both out"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A certificate with those above it, in PEM and its own first, and its private key. `is_own`: made here."""

    chain_pem: str
    key_pem: str = field(repr=False)
    algorithm: str  # as Content Credentials name it
    name: str
    serial_number: int
    valid_until: datetime
    is_own: bool

    @property
    def topmost_pem(self) -> str:
        """The last certificate of the chain; empty where nothing stands above the first."""
        begin = "-----BEGIN CERTIFICATE-----\n"
        _, above, last = self.chain_pem.removeprefix(begin).rpartition(begin)
        return above + last if above else ""


def given_key(certificate: str | None, private_key: str | None, now: datetime) -> SigningKey:
    """The operator's, each as PEM or as the path of a file with it. Raises CannotStart where it cannot be used now."""
    if not certificate or not private_key:
        missing = "SD_SPACE_CERTIFICATE" if not certificate else "SD_SPACE_PRIVATE_KEY"
        raise CannotStart(
            f"{missing} is not set: pictures are signed with a certificate and its key; set both or none."
        )
    chain, key_text = _pem("SD_SPACE_CERTIFICATE", certificate), _pem("SD_SPACE_PRIVATE_KEY", private_key)
    try:
        key = _parsed(chain, key_text, is_own=False)
        leaf = x509.load_pem_x509_certificate(chain.encode())
    except (ValueError, TypeError, IndexError):
        raise CannotStart(
            f"The certificate or its key is no PEM that can be read without a password; {_FIX}."
        ) from None
    if not key.topmost_pem:
        raise CannotStart("SD_SPACE_CERTIFICATE lacks the certificates above its first; append its issuer's.")
    if now > key.valid_until:
        raise CannotStart(f"The certificate in SD_SPACE_CERTIFICATE expired on {key.valid_until:%Y-%m-%d}; renew it.")
    if now < leaf.not_valid_before_utc:
        raise CannotStart(
            f"The certificate in SD_SPACE_CERTIFICATE holds only from {leaf.not_valid_before_utc:%Y-%m-%d} on."
        )
    if _public(load_pem_private_key(key_text.encode(), None).public_key()) != _public(leaf.public_key()):
        raise CannotStart(
            f"The key in SD_SPACE_PRIVATE_KEY is not that of the certificate in SD_SPACE_CERTIFICATE; {_FIX}."
        )
    return key


def own_key(folder: Path, now: datetime) -> SigningKey:
    """This installation's, kept in `folder` for this user alone; one that lives as long as the process where it cannot
    be written.
    """
    path = folder / "signing.pem"
    if (key := _kept(path)) is not None and key.valid_until - now > timedelta(days=_LEAST_DAYS_LEFT):
        return key
    made = _made(now)
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = folder / f".signing.{secrets.token_hex(4)}"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(made)
        part.replace(path)
        return _kept(path) or _split(made)  # of two processes that start at once, both take the later one
    return _split(made)


def own_folder() -> Path:
    """Where programs keep what must outlive a restart."""
    return Path(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "sd_space")


def _pem(setting: str, value: str) -> str:
    if value.startswith("-----BEGIN "):
        return value.replace("\\n", "\n") + "\n"
    with contextlib.suppress(OSError, ValueError):
        if Path(value).is_file():  # a pipe would be waited for
            return Path(value).read_text(encoding="ascii")
    raise CannotStart(f"{setting} names no file that can be read; give a path to a PEM file, or its text.")


def _parsed(chain: str, key_text: str, is_own: bool) -> SigningKey:
    certificates = x509.load_pem_x509_certificates(chain.encode())
    leaf = certificates[0]
    private = load_pem_private_key(key_text.encode(), None)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(private.curve.name, "")
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        algorithm = "ed25519" if isinstance(private, ed25519.Ed25519PrivateKey) else ""
    if not algorithm:
        raise ValueError("a kind of key that Content Credentials do not know")
    pkcs8 = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME) or [*leaf.subject]
    pem = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)
    name = str(names[0].value) if names else ""
    return SigningKey(pem, pkcs8, algorithm, name, leaf.serial_number, leaf.not_valid_after_utc, is_own)


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _kept(path: Path) -> SigningKey | None:
    """Nothing that others could have read or put there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        about = path.lstat()
        is_private = stat.S_ISREG(about.st_mode) and not about.st_mode & 0o077
        if is_private and (not hasattr(os, "getuid") or about.st_uid == os.getuid()):
            return _split(path.read_text(encoding="ascii"))
    return None


def _split(text: str) -> SigningKey:
    chain, begin, key = text.partition("-----BEGIN PRIVATE KEY-----")
    return _parsed(chain, begin + key, is_own=True)


def _made(now: datetime) -> str:
    """A certificate that signs nothing but pictures, below a root that signs nothing but that; its key is forgotten."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    number = secrets.token_hex(4)
    root = _certificate(f"sd_space root {number}", f"sd_space root {number}", root_key, root_key, now, is_root=True)
    leaf = _certificate(f"sd_space {number}", f"sd_space root {number}", key, root_key, now, is_root=False)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM) + private).decode()


def _certificate(
    name: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    now: datetime,
    is_root: bool,
) -> x509.Certificate:
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder(_name(issuer), _name(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=OWN_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not is_root:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        purpose = x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.EMAIL_PROTECTION]
        )  # of those that readers take, the plainest
        builder = builder.add_extension(above, critical=False).add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    pairs = ((NameOID.ORGANIZATION_NAME, "sd_space"), (NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def utc_now() -> datetime:
    return datetime.now(UTC)
