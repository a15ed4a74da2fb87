"""A stand-in for the Hub on this machine: its HTTP interface as huggingface_hub uses it, and its faults.

It serves a folder as one repository with one commit, and remembers what it was asked.
"""

import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save_file

from sd_space.settings import V1_4, V1_4_REVISION

from .tiny_models import make_pipeline, make_tokenizer

TOKEN = "hf_of_an_account_with_access"


def patience_s(fault: str) -> float:
    """A HUB_TIMEOUT_S that a test can wait for where it is reached, and elsewhere one that a busy machine keeps."""
    return 4.0 if fault in ("silent", "silent after the list", "truncated") else 40.0


def save_2022_repository(folder: Path) -> Path:
    """The noise painter as v1-4's repository has it: written in 2022, and much more than anyone needs.

    Both precisions of each network, pickles of both, a whole checkpoint, old names of classes and of tensors.
    """
    pipeline = make_pipeline()
    pipeline.save_pretrained(folder, variant="fp16")  # its files are overwritten below
    index = json.loads((folder / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    index.pop("requires_safety_checker", None)
    (folder / "model_index.json").write_text(json.dumps(index))
    extractor = json.loads((folder / "feature_extractor/preprocessor_config.json").read_text())
    extractor["feature_extractor_type"] = "CLIPFeatureExtractor"
    extractor.pop("image_processor_type", None)
    (folder / "feature_extractor/preprocessor_config.json").write_text(json.dumps(extractor))
    _save_slow_tokenizer(folder / "tokenizer")
    parts = {
        "unet": ("diffusion_pytorch_model", pipeline.unet.state_dict()),
        "vae": ("diffusion_pytorch_model", _old_vae_names(pipeline.vae.state_dict())),
        "text_encoder": ("model", _old_text_names(pipeline.text_encoder.state_dict())),
        "safety_checker": ("model", pipeline.safety_checker.state_dict()),
    }
    for name, (stem, tensors) in parts.items():
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        half = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
        save_file(tensors, folder / name / f"{stem}.safetensors", {"format": "pt"})
        save_file(half, folder / name / f"{stem}.fp16.safetensors", {"format": "pt"})
        pickle = "diffusion_pytorch_model" if stem.startswith("diff") else "pytorch_model"
        torch.save(tensors, folder / name / f"{pickle}.bin")
    (folder / "v1-4.ckpt").write_bytes(b"a pickle")
    (folder / "README.md").write_text("# A model card\n")
    return folder


def _save_slow_tokenizer(folder: Path) -> None:
    """Vocabulary and merges in files of their own, as before there were fast tokenizers."""
    tokenizer = json.loads(make_tokenizer().backend_tokenizer.to_str())["model"]
    for path in folder.iterdir():
        path.unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = "<|endoftext|>"
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = special | {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _old_vae_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {_renamed(name, old) if "attentions" in name else name: value for name, value in tensors.items()}


def _old_text_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}
    return renamed | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def _renamed(name: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        name = name.replace(new, old)
    return name


class _HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may leave in the middle of a file
            super().handle_error(request, client_address)


class StandInHub:
    """Serves `folder` as `repository` at `commit`. `fault` is what goes wrong from now on, one of `FAULTS`."""

    FAULTS = (
        "unauthorized", "gated", "gated to this account", "no repository", "no revision", "busy", "broken", "silent",
        "silent after the list", "truncated", "short",
    )  # fmt: skip

    def __init__(self, folder: Path, repository: str = V1_4, commit: str = V1_4_REVISION):
        self.folder, self.repository, self.commit = folder, repository, commit
        self.branches = {"main", "fp16"}
        self.fault: str | None = None
        self.go_on = threading.Event()  # cleared: weights stop half-way until it is set
        self.go_on.set()
        self.refused: set[str] = set()  # files whose contents nobody gets
        self.on_xet: set[str] = set()  # files that are in Xet storage, which never answers here
        self.slow: set[str] = set()  # files that come in eight pieces, each after a pause
        self.asked: list[tuple[str, str]] = []  # (method, path)
        self._end = threading.Event()
        self._server = _HubServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def fetched(self) -> set[str]:
        """The files whose contents were asked for."""
        marker = "/resolve/"
        paths = [
            path.split(marker)[1].partition("/")[2] for method, path in self.asked if method == "GET" and marker in path
        ]
        return set(paths)

    def close(self) -> None:
        self._end.set()
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append((self.command, path))
                is_list = path.startswith("/api/models/")
                is_silent = hub.fault == "silent" or (hub.fault == "silent after the list" and not is_list)
                if is_silent or path.startswith("/xet/"):
                    hub._end.wait()
                    return
                if path == "/xet-token":
                    self._send(200, hub._xet_token())
                    return
                known = hub._refusal(path, is_list, self.headers.get("authorization", ""))
                if known is not None:
                    self._send(*known)
                elif is_list:
                    self._send(200, {}, json.dumps(hub._listing()).encode())
                else:
                    self._send_file(hub.folder / path.split("/resolve/")[1].partition("/")[2])

            def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def _send_file(self, path: Path) -> None:
                name = path.relative_to(hub.folder).as_posix()
                if not path.is_file():
                    self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
                    return
                if name in hub.refused and self.command == "GET":
                    self._send(403, {"X-Error-Message": "No."})
                    return
                body = path.read_bytes()
                if hub.fault == "short" and path.suffix == ".safetensors" and self.command == "GET":
                    body = body[: len(body) // 2]
                self.send_response(200)
                self.send_header("X-Repo-Commit", hub.commit)
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                self.send_header("ETag", f'"{digest}"')
                if name in hub.on_xet:
                    self.send_header("X-Xet-Hash", digest)
                    self.send_header("X-Xet-Refresh-Route", f"{hub.url}/xet-token")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    is_cut = hub.fault == "truncated" and path.suffix == ".safetensors"
                    with contextlib.suppress(ConnectionError):
                        if name in hub.slow:
                            self._write_slowly(body)
                            return
                        self.wfile.write(body[: len(body) // 2])
                        hub.go_on.wait()
                        self.wfile.write(b"" if is_cut else body[len(body) // 2 :])
                    self.close_connection = is_cut

            def _write_slowly(self, body: bytes) -> None:
                length = len(body) // 8 + 1
                for begin in range(0, len(body), length):
                    hub._end.wait(0.3)
                    self.wfile.write(body[begin : begin + length])

        return Handler

    def _refusal(self, path: str, is_list: bool, authorization: str) -> tuple[int, dict[str, str]] | None:
        """What huggingface.co answers in each case, as far as the client tells cases apart."""
        repository = path.removeprefix("/api/models/") if is_list else path[1:]
        revision = path.partition("/revision/" if is_list else "/resolve/")[2].partition("/")[0]
        if (
            self.fault == "unauthorized"
        ):  # of a private repository, and of one that is not there, to nobody in particular
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."}
        if self.fault == "no repository" or not f"{repository}/".startswith(self.repository + "/"):
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        if self.fault == "no revision" or (revision and revision not in self.branches | {self.commit}):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}
        if self.fault == "busy":
            return 429, {"Retry-After": "300", "RateLimit": '"resolvers";r=0;t=300'}
        if self.fault == "broken":
            return 503, {}
        if self.fault in ("gated", "gated to this account") and not is_list:  # the list of files is open to everyone
            status = 401 if authorization != f"Bearer {TOKEN}" else 403 if "account" in self.fault else None
            if status:
                return status, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
        return None

    def _xet_token(self) -> dict[str, str]:
        return {
            "X-Xet-Cas-Url": f"{self.url}/xet",
            "X-Xet-Access-Token": "a token",
            "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
        }

    def _listing(self) -> dict:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        siblings = [
            {"rfilename": path.relative_to(self.folder).as_posix(), "size": path.stat().st_size, "blobId": "0" * 40}
            for path in files
        ]
        return {"id": self.repository, "sha": self.commit, "private": False, "tags": [], "siblings": siblings}


@contextlib.contextmanager
def serving(folder: Path, **options: str) -> Iterator[StandInHub]:
    hub = StandInHub(folder, **options)
    try:
        yield hub
    finally:
        hub.close()


def point_here(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """Makes this process take `url` for the Hub, which `HF_ENDPOINT` does for one that is started."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "")
    _http.close_session()
