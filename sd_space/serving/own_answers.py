"""The addresses that are answered without Gradio: health, metrics, a web app's manifest, the agents' page."""

import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from sd_space.schema import BackendStatus
from sd_space.serving.agents_page import agents_page
from sd_space.serving.app_contract import AppContract
from sd_space.serving.metrics import Metrics

THEME_COLOR = "#4338ca"  # of the browser's own frame around the page
AGENTS = "/agents.md"
_ICON_SIDES = (192, 512)  # pixels: those that browsers ask an installable page for
_FAVICON_SIDE = 48


class OwnAnswers:
    """Answers by path."""

    def __init__(self, status: Callable[[], BackendStatus], metrics: Metrics, contract: AppContract):
        self._status = status
        self._contract = contract
        icons = {"/favicon.ico": _FAVICON_SIDE} | {f"/pwa_icon/{side}": side for side in _ICON_SIDES}
        self._by_path: dict[str, Callable[[], Response]] = {
            "/healthz": lambda: JSONResponse({"status": "ok"}),
            "/readyz": self._readiness,
            "/metrics": lambda: Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST),
            "/manifest.json": lambda: _manifest(contract.title),
            **{path: partial(_icon, contract.icon, side) for path, side in icons.items()},
        }

    def find(self, method: str, path: str, root: str) -> Response | None:
        """`root` is the address at which the caller has reached the page."""
        if method not in ("GET", "HEAD"):
            return None
        if path == AGENTS and not self._contract.has_login:
            return Response(agents_page(root), media_type="text/markdown")
        make = self._by_path.get(path)
        return make() if make else None

    def _readiness(self) -> Response:
        status = self._status()
        detail = f" ({status.detail})" if status.detail else ""
        reason = "" if status.is_ready else status.reason or f"Getting ready: {status.stage}{detail}."
        if not reason and not self._contract.is_queue_alive():
            reason = "The queue of the page has stopped and is started again."
        answer: dict[str, object] = {
            "status": "unready" if reason else "ready",
            "stage": str(status.stage),
            "reason": reason,
        }
        if status.replicas:
            answer["replicas"] = dict(status.replicas)
        return JSONResponse(answer, 503 if reason else 200)


def _manifest(title: str) -> Response:
    """Every address in it is relative to its own, so that it holds below any path."""
    icons = [
        {"src": f"pwa_icon/{side}", "sizes": f"{side}x{side}", "type": "image/png", "purpose": "any maskable"}
        for side in _ICON_SIDES
    ]
    manifest = {
        "id": "./",
        "name": title,
        "short_name": title.rpartition(" ")[0],  # below an icon there is no room for the version
        "icons": icons,
        "start_url": "./",
        "display": "standalone",
        "theme_color": THEME_COLOR,
        "background_color": "#ffffff",
    }
    return JSONResponse(manifest, media_type="application/manifest+json")


@cache
def _icon_png(icon: Path, side: int) -> bytes:
    png = io.BytesIO()
    with Image.open(icon) as picture:
        picture.convert("RGB").resize((side, side)).save(png, "PNG")
    return png.getvalue()


def _icon(icon: Path, side: int) -> Response:
    return Response(_icon_png(icon, side), media_type="image/png", headers={"Cache-Control": "max-age=86400"})
