import pytest

from sd_space.errors import InvalidSetting
from sd_space.settings import _REFUSED_SWITCHES, Settings


def test_an_empty_environment_gives_the_defaults():
    assert Settings.from_env({}) == Settings()
    assert Settings.from_env({"SD_SPACE_MODEL": "", "PATH": "/bin"}) == Settings()


def test_every_default_of_the_table_can_be_read_back():
    environ = {name: default for name, default, _ in Settings.table()}
    assert Settings.from_env(environ) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("MODEL", "tiny", "tiny"),
        ("MAX_BATCH_SIZE", "8", 8),
        ("REPRODUCIBLE", "1", True),
        ("REPRODUCIBLE", "off", False),
        ("LOW_VRAM_GB", "3.5", 3.5),
        ("ATTENTION_SLICING", "ON", "on"),
        ("DEVICES", "ALL", "all"),
        ("DEVICES", "2,0", "2,0"),
        ("DEVICES", "3,", "3,"),
        ("PUBLIC_URL", "HTTPS://Demo.Example.org:8443/Art/", "https://demo.example.org:8443/Art"),
        ("FRAME_ANCESTORS", "'self'  https://*.example.org https:", "'self' https://*.example.org https:"),
        ("FRAME_ANCESTORS", "'none'", "'none'"),
        ("FRAME_ANCESTORS", "* localhost:7860 http://example.org:*/a/", "* localhost:7860 http://example.org:*/a/"),
    ],
)
def test_a_value_is_read_in_its_own_type(name, text, value):
    assert getattr(Settings.from_env({f"SD_SPACE_{name}": text}), name.lower()) == value


@pytest.mark.parametrize(
    ("old", "new", "runtime"),
    [
        ("1", "", "openvino"),
        ("1", "openvino", "openvino"),
        ("on", "AUTO", "openvino"),
        ("0", "", "torch"),
        ("", "", "auto"),
    ],
)
def test_the_old_name_of_openvino_is_read_as_the_new_one(old, new, runtime):
    assert Settings.from_env({"SD_SPACE_OPENVINO": old, "SD_SPACE_RUNTIME": new}).runtime == runtime


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("1", "torch", "SD_SPACE_OPENVINO is 1, but SD_SPACE_RUNTIME is torch; leave SD_SPACE_OPENVINO out."),
        ("0", "openvino", "SD_SPACE_OPENVINO is 0, but SD_SPACE_RUNTIME is openvino; leave SD_SPACE_OPENVINO out."),
        ("yes", "", "SD_SPACE_OPENVINO must be 0 or 1, not 'yes'."),
    ],
)
def test_an_old_name_that_contradicts_the_new_one_is_refused_in_a_sentence(old, new, says):
    with pytest.raises(InvalidSetting) as refusal:
        Settings.from_env({"SD_SPACE_OPENVINO": old, "SD_SPACE_RUNTIME": new})
    assert str(refusal.value) == says


@pytest.mark.parametrize("name", ["MODEL", "RESULT_DIR"])
@pytest.mark.parametrize(("text", "tail"), [("~", ""), ("~/pictures", "/pictures")])
def test_a_tilde_is_the_home(monkeypatch, name, text, tail):
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = Settings.from_env({f"SD_SPACE_{name}": text})
    assert getattr(settings, name.lower()) == f"/home/somebody{tail}"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("me-demo.hf.space", "https://me-demo.hf.space"),
        ("art.example.org,me-demo.hf.space", "https://art.example.org"),  # a Space with a domain of its own
    ],
)
def test_on_a_space_the_hubs_host_is_the_public_address(host, address):
    assert Settings.from_env({"SPACE_HOST": host}).public_url == address
    own = {"SPACE_HOST": host, "SD_SPACE_PUBLIC_URL": "https://example.org"}
    assert Settings.from_env(own).public_url == "https://example.org"


@pytest.mark.parametrize("host", ["evil.example/?", "me@example.org", "a b", "x\r\nX-Header: y", "example.org:0"])
def test_a_host_that_is_none_is_refused_as_a_public_address_is(host):
    with pytest.raises(InvalidSetting, match="SPACE_HOST must be a host, not "):
        Settings.from_env({"SPACE_HOST": host})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("MODEL", "a\x01/b", r"none of them a control character, not 'a\\x01/b'"),
        ("MODEL", "x" * 1001, "at most 1000 characters"),
        ("REVISION", "a\nb", "none of them a control character"),
        ("VARIANT", "a\x7fb", "none of them a control character"),
        ("RESULT_DIR", "$HOME/x", "a path that is written out"),
        ("RESULT_DIR", "~nobody-of-this-name/x", "a path that is written out"),
        ("MAX_QUEUE", "many", "a whole number from 1 to 10000, not 'many'"),
        ("MAX_QUEUE", "0", "from 1 to 10000"),
        ("LOW_VRAM_GB", "-1", "a number above 0"),
        ("LOW_VRAM_GB", "nan", "a number above 0"),
        ("DEVICE", "gpu", "one of auto, cpu, cuda, mps"),
        ("REPRODUCIBLE", "perhaps", "0 or 1"),
        ("DEVICES", "0,0", "each GPU once"),
        ("DEVICES", "0", "a number such as 2"),
        ("DEVICES", "cuda:1", "a list with commas"),
        ("PUBLIC_URL", "https://example.org:99999", "an address such as"),
        ("PUBLIC_URL", "https://example.org:0", "an address such as"),
        ("PUBLIC_URL", "ftp://example.org", "an address such as"),
        ("PUBLIC_URL", "https://me@example.org", "an address such as"),
        ("FRAME_ANCESTORS", "'none' https://example.org", "'none' alone"),
        ("FRAME_ANCESTORS", "self", "'self'"),
        ("FRAME_ANCESTORS", "https://example.org; script-src *", "'self'"),
        ("FRAME_ANCESTORS", "javascript:alert(1)", "'self'"),
    ],
)
def test_a_bad_value_is_refused_with_its_variable_and_range(name, text, says):
    with pytest.raises(InvalidSetting, match=f"SD_SPACE_{name} must be .*{says}"):
        Settings.from_env({f"SD_SPACE_{name}": text})


@pytest.mark.parametrize("name", ["SD_SPACE_MAX_QUEUE", "SD_SPACE_PUBLIC_URL", "SD_SPACE_NO_SUCH"])
def test_a_long_value_is_repeated_by_its_beginning_alone(name):
    with pytest.raises(InvalidSetting) as refusal:
        Settings.from_env({name: "x" * 5000})
    assert name in str(refusal.value) and len(str(refusal.value)) < 250


def test_a_misspelt_variable_is_refused_rather_than_ignored():
    with pytest.raises(InvalidSetting, match="SD_SPACE_MODELL is not a setting"):
        Settings.from_env({"SD_SPACE_MODELL": "tiny"})


def test_the_secret_is_never_repeated(monkeypatch):
    assert "hunter2" not in repr(Settings.from_env({"SD_SPACE_SECRET": "hunter2"}))


@pytest.mark.parametrize("name", _REFUSED_SWITCHES)
def test_switches_of_gradio_that_would_open_the_space_stop_the_start(name):
    for value in ("1", "True", "/srv"):
        with pytest.raises(InvalidSetting, match=f"{name} is not allowed here: .+"):
            Settings.from_env({name: value})
    assert Settings.from_env({name: "", "GRADIO_SERVER_NAME": "0.0.0.0"}) == Settings()
    assert Settings.from_env({name: "False"}) == Settings()
