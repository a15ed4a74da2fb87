"""The operator's certificate and key: what cannot be used stops the start with a sentence that names the fix."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sd_space.errors import CannotStart
from sd_space.serving.certificate import OWN_DAYS, SigningKey, given_key, own_key
from sd_space.serving.credentials import Signer
from sd_space.settings import Settings

NOW = datetime.now(UTC)


def certified(private, issuer: x509.Name, signing_key=None, extensions=()) -> tuple[str, str]:
    """A certificate for that key, signed by itself or with `signing_key`, and the key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.org")])
    builder = x509.CertificateBuilder(issuer, name, private.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=9))
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, is_critical)
    text = builder.sign(signing_key or private, hashes.SHA256()).public_bytes(Encoding.PEM)
    return text.decode(), private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def key(tmp_path) -> SigningKey:
    return own_key(tmp_path / "keys", NOW)


def test_pem_text_and_a_path_to_it_are_the_same(key, tmp_path):
    files = [tmp_path / "chain.pem", tmp_path / "key.pem"]
    for file, text in zip(files, (key.chain_pem, key.key_pem), strict=True):
        file.write_text(text)
    from_files = given_key(*map(str, files), NOW)
    assert from_files == given_key(key.chain_pem.strip(), key.key_pem.strip(), NOW)
    assert not from_files.is_own and from_files.algorithm == "es256"
    Signer(from_files).check()


@pytest.mark.parametrize(("days", "says"), [(OWN_DAYS + 1, "expired on .*; renew it"), (-3, "holds only from .* on")])
def test_a_certificate_of_another_time_is_refused(key, days, says):
    with pytest.raises(CannotStart, match=says):
        given_key(key.chain_pem, key.key_pem, NOW + timedelta(days=days))


def test_what_does_not_belong_together_is_refused(key, tmp_path):
    other = own_key(tmp_path / "other", NOW)
    with pytest.raises(CannotStart, match="is not that of the certificate"):
        given_key(key.chain_pem, other.key_pem, NOW)
    with pytest.raises(CannotStart, match="SD_SPACE_PRIVATE_KEY is not set"):
        given_key(key.chain_pem, None, NOW)
    with pytest.raises(CannotStart, match="SD_SPACE_CERTIFICATE is not set"):
        given_key(None, key.key_pem, NOW)


@pytest.mark.parametrize("certificate", ["/no/such/file", "-----BEGIN CERTIFICATE-----\nMIIB"])
def test_what_cannot_be_read_is_refused_without_the_key_in_the_sentence(key, certificate):
    with pytest.raises(CannotStart) as refusal:
        given_key(certificate, key.key_pem, NOW)
    assert key.key_pem[40:60] not in str(refusal.value)


def test_a_certificate_that_signs_itself_is_refused(key):
    """One that signs itself, as `openssl req -x509` makes it."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.org")])
    text, keys = certified(ec.generate_private_key(ec.SECP256R1()), name)
    with pytest.raises(CannotStart, match="lacks the certificates above"):
        given_key(text, keys, NOW)


def test_the_settings_keep_the_key_to_themselves(key):
    settings = Settings.from_env({"SD_SPACE_CERTIFICATE": key.chain_pem, "SD_SPACE_PRIVATE_KEY": key.key_pem})
    assert settings.private_key.strip() == key.key_pem.strip() and "PRIVATE" not in repr(settings)


def test_our_own_is_made_anew_before_it_expires(tmp_path):
    first = own_key(tmp_path, NOW)
    assert own_key(tmp_path, NOW + timedelta(days=OWN_DAYS - 40)) == first
    assert own_key(tmp_path, NOW + timedelta(days=OWN_DAYS - 20)) != first


def test_a_key_that_others_could_read_is_not_used(tmp_path):
    first = own_key(tmp_path, NOW)
    (tmp_path / "signing.pem").chmod(0o644)
    assert own_key(tmp_path, NOW) != first


def test_where_nothing_can_be_kept_the_key_lives_as_long_as_the_process(tmp_path):
    (tmp_path / "a file").write_text("")
    assert Signer(own_key(tmp_path / "a file" / "keys", NOW))


def test_a_certificate_for_something_else_is_refused(key):
    """With one issued for it, a server shows who it is; readers of pictures do not take that."""
    above = x509.load_pem_x509_certificate(key.topmost_pem.encode())
    private = ec.generate_private_key(ec.SECP256R1())
    text, keys = certified(private, above.subject)
    with pytest.raises(CannotStart, match="does not fit Content Credentials"):
        Signer(given_key(text + key.topmost_pem, keys, NOW)).check()


@pytest.mark.parametrize(("private", "algorithm"), [
    (ec.generate_private_key(ec.SECP384R1()), "es384"),
    (rsa.generate_private_key(65537, 2048), "ps256"),
    (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
])  # fmt: skip
def test_every_kind_of_key_that_issuers_use_signs(private, algorithm):
    above = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "An issuer")])
    builder = x509.CertificateBuilder(issuer, issuer, above.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=9))
    root = builder.add_extension(x509.BasicConstraints(True, 0), True).sign(above, hashes.SHA256())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    extensions = [
        (x509.BasicConstraints(False, None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), False),
    ]
    text, keys = certified(private, issuer, above, extensions)
    given = given_key(text + root.public_bytes(Encoding.PEM).decode(), keys, NOW)
    assert given.algorithm == algorithm
    Signer(given).check()


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CannotStart, match="no file that can be read"):
        given_key(str(tmp_path / "pipe"), str(tmp_path / "pipe"), NOW)
