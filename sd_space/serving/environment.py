"""Variables that other libraries read when they start: a bad value would end the start in a traceback."""

import contextlib
import ipaddress
import os
import re
import ssl
from collections.abc import MutableMapping
from typing import Any

from sd_space.errors import CannotStart
from sd_space.serving.result_folder import temporary_folder
from sd_space.setting_readers import short_repr

# Whole numbers that are read while libraries are imported; they fail at an empty value, which is no mistake.
_NUMBERS = (
    "GRADIO_NUM_PORTS",
    "GRADIO_NODE_NUM_PORTS",
    "GRADIO_NUM_WORKERS",
    "GRADIO_ANALYTICS_MAX_EVENTS",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ETAG_TIMEOUT",
)
# With them prometheus_client adds up the files of several processes; here one counts for all.
_FOR_MANY_PROCESSES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_HERE = ("localhost", "127.0.0.1", "::1")


def check_environment(environ: MutableMapping[str, str], host: str) -> None:
    """Corrects `environ` where possible; raises CannotStart for the rest. `host` is where the page is served."""
    for name in _NUMBERS:
        if name in environ and not environ[name].strip():
            del environ[name]
        elif not re.fullmatch("[0-9]{1,9}", environ.get(name, "0")):
            shown = short_repr(environ[name])
            raise CannotStart(f"{name} must be a whole number, not {shown}; leave it out for the default.")
    for name in _FOR_MANY_PROCESSES:
        environ.pop(name, None)
    _check_certificates(environ)
    _check_proxies(environ)
    _bypass_proxies_here(environ, host)
    _check_folders()


def turn_off_analytics(environ: MutableMapping[str, str]) -> None:
    """Gradio would keep the last 10,000 events, and count them anew after each, for a console that is not served."""
    environ["GRADIO_ANALYTICS_MAX_EVENTS"], environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1", "999999999"


def _check_folders() -> None:
    temporary_folder()
    try:
        os.getcwd()
    except OSError:
        raise CannotStart("The folder that this was started in is gone; start it in another one.") from None


def _check_certificates(environ: MutableMapping[str, str]) -> None:
    """They are read for every connection, also for those to this machine."""
    for name, kind in (("SSL_CERT_FILE", "cafile"), ("SSL_CERT_DIR", "capath")):
        if not environ.get(name):
            continue
        place: dict[str, Any] = {kind: environ[name]}
        try:
            ssl.create_default_context(**place)
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise CannotStart(f"{name} cannot be read ({why}); correct it, or leave it out for the system's.") from None


def _check_proxies(environ: MutableMapping[str, str]) -> None:
    for name in (spelling for proxy in _PROXIES for spelling in (proxy, proxy.upper())):
        value = environ.get(name)
        if not value:
            continue
        import httpx  # only here: the engine's process starts after these checks

        try:
            httpx.Client(proxy=value if "://" in value else f"http://{value}", trust_env=False).close()
        except Exception as error:  # its value may hold a password
            raise CannotStart(
                f"{name} cannot be used ({type(error).__name__}); it must be a proxy's address such as "
                "http://proxy.example:3128, or be left out."
            ) from None


def _bypass_proxies_here(environ: MutableMapping[str, str], host: str) -> None:
    """Excepts this machine from proxies: Gradio asks its own server whether it is up, and its MCP server calls it.

    Names in no_proxy at which httpx fails are dropped: it reads them for every call.
    """
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if any(environ.get(name) for proxy in _PROXIES for name in (proxy, proxy.upper())):
        names += [*_HERE, host]
    elif all(map(_is_usable, names)):
        return  # a list of ours would replace the system's own list of exceptions
    names = [name.strip("[]") for name in names]
    kept = dict.fromkeys(name for name in names if name not in ("", "0.0.0.0", "::") and _is_usable(name))
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(kept)


def _is_usable(name: str) -> bool:
    import httpx

    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    try:
        pattern = name if "://" in name else f"all://*{name}"
        httpx.Client(mounts={pattern: None}, trust_env=False, verify=False).close()
    except Exception:
        return False
    return True
