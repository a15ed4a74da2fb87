"""Addresses of the page: the one that the app sees, the one that callers see, and which pages may call it.

Gradio writes absolute addresses of its files from the Host and X-Forwarded headers of each request. Behind a proxy
those are often wrong, and callers can forge them. So the app sees one made-up origin, and answers get the page's own
address in its place.
"""

import re
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from sd_space.settings import Settings

# RFC 2606: no such host can exist. It cannot be guessed, so no prompt contains it.
MADE_UP = f"http://{secrets.token_hex(8)}.invalid"
PUBLIC = MADE_UP.replace("://", "://public.")  # stands in templates where only the public address will do
HUB = "https://huggingface.co"  # whose pages show a Space in a frame
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_SAME_ORIGIN = ("same-origin", "none")


class Origins:
    """Judges and writes addresses by the settings and a request's headers."""

    def __init__(self, settings: Settings):
        self._public_url = (settings.public_url or "").rstrip("/")

    def public_address(self, headers: Headers, scheme: str) -> str:
        """Where the caller has reached the page, without a slash at the end."""
        if self._public_url:
            return self._public_url
        host = next(iter(self._hosts(headers)), "localhost")
        is_secure = scheme == "https" or headers.get("x-forwarded-proto", "").split(",")[0].strip() == "https"
        return f"http{'s' * is_secure}://{host}"

    def is_foreign(self, headers: Headers) -> bool:
        """Whether another site's page sends this, by what the browser says of itself."""
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin", headers.get("referer"))  # a link's address is in the second alone
        if site is not None:
            return site not in _SAME_ORIGIN
        if origin is None:
            return False  # no browser, or none that a page has made call
        own = {
            _without_default_port(host) for host in (*self._hosts(headers), urlsplit(self._public_url).netloc) if host
        }
        try:
            return _without_default_port(urlsplit(origin).netloc) not in own
        except ValueError:
            return True

    @staticmethod
    def _hosts(headers: Headers) -> list[str]:
        """The hosts that the request names and that can be one, what a proxy was asked for first."""
        named = [headers.get("x-forwarded-host", "").split(",")[0].strip(), headers.get("host", "").strip()]
        return [host for host in named if _is_host(host)]


def _without_default_port(host: str) -> str:
    return re.sub(r":(80|443)$", "", host)


def _is_host(text: str) -> bool:
    if not _HOST.fullmatch(text):
        return False
    try:
        parts = urlsplit(f"//{text}")  # knows what an IPv6 address and a port may be
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
