"""Settings: one table of environment variables `SD_SPACE_<NAME>`, read once into a frozen object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sd_space.errors import InvalidSetting
from sd_space.setting_readers import (
    address,
    amount,
    devices,
    frame_sources,
    line,
    one_of,
    path,
    pem_or_path,
    positive,
    short_repr,
    switch,
    whole,
)

PREFIX = "SD_SPACE_"

TINY = "tiny"
V1_4 = "CompVis/stable-diffusion-v1-4"
# The head of `main` on the Hub: fp16 safetensors for every component. A fixed commit cannot change under us.
V1_4_REVISION = "133a221b8aa7292a167afc5127cb63fb5005638b"
WIDTHS = (1, 2, 4, 8)  # pictures a UNet call, of which the engine chooses where `max_batch_size` is empty

# Switches of Gradio that would open this Space to more than its visitors need, and what to do instead.
_REFUSED_SWITCHES = {
    "GRADIO_ALLOWED_PATHS": "it would let visitors fetch other files than their results",
    "GRADIO_DEBUG": "it would keep the model from being loaded",
    "GRADIO_EXAMPLES_CACHE": "it would let visitors fetch whatever is in that folder",
    "GRADIO_HISTORY_BUCKET": "it would store what visitors ask for",
    "GRADIO_LOCAL_DEV_MODE": "it would let any page on this machine call the Space",
    "GRADIO_NUM_WORKERS": "its processes would serve files past the request filter",
    "GRADIO_PROFILING": "it would keep records of visitors' calls",
    "GRADIO_SHARE": "start with --share for a share link",
    "GRADIO_TEMP_DIR": "it would let visitors fetch whatever is in that folder; set SD_SPACE_RESULT_DIR or TMPDIR",
    "GRADIO_VIBE_MODE": "it would let visitors edit the code",
    "GRADIO_WATCH_DIRS": "it would restart the Space whenever a file changes",
}


def _without_old_name(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Says with `RUNTIME` what the switch `OPENVINO` said before there was that setting."""
    old, new = PREFIX + "OPENVINO", PREFIX + "RUNTIME"
    text, runtime = environ.get(old, "").strip(), environ.get(new, "").strip() or "auto"
    rest = {name: value for name, value in environ.items() if name != old}
    try:
        meant = ("openvino" if switch(text) else "torch") if text else runtime
    except ValueError as error:
        raise InvalidSetting(f"{old} must be {error}, not {short_repr(text)}.") from None
    if runtime.lower() not in ("auto", meant.lower()):
        raise InvalidSetting(f"{old} is {text}, but {new} is {short_repr(runtime)[1:-1]}; leave {old} out.")
    return rest | {new: meant}


def _setting(default: Any, read: Callable[[str], Any], help: str, repr: bool = True) -> Any:
    return field(default=default, repr=repr, metadata={"read": read, "help": help})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default and its help; README's table is checked against this class."""

    model: str = _setting(
        "auto",
        path,
        "`auto` (v1-4 where CUDA is, else the picture book), `tiny`, a Hub id, a folder or a `.safetensors` file",
    )
    revision: str | None = _setting(None, line, "Hub commit, tag or branch; v1-4 is pinned to a commit")
    variant: str | None = _setting(None, line, "file variant such as `fp16`; chosen by device and model when empty")
    device: str = _setting("auto", one_of("auto", "cpu", "cuda", "mps"), "`auto`, `cpu`, `cuda` or `mps`")
    dtype: str = _setting(
        "auto",
        one_of("auto", "float32", "float16", "bfloat16"),
        "`auto` (float16 on CUDA, else float32), `float32`, `float16` or `bfloat16`",
    )
    backend: str = _setting(
        "auto",
        one_of("auto", "local", "zerogpu", "ray"),
        "where pictures are made: `local` (a process for each GPU), `zerogpu` (GPUs that the Hub lends by the "
        "call), `ray` (replicas on a Ray cluster); `auto` is `zerogpu` on a ZeroGPU Space, else `local`",
    )
    secret: str | None = _setting(
        None,
        str,
        "signs acceptance tokens; set it so that acceptances outlive a restart (random when empty)",
        repr=False,
    )
    token_ttl_s: int = _setting(30 * 86_400, whole(60, 366 * 86_400), "seconds for which an acceptance holds")
    max_batch_size: int | None = _setting(
        None, whole(1, 64), "most pictures that share one UNet call; measured at start when empty"
    )
    max_queue: int = _setting(20, whole(1, 10_000), "most requests that may wait; more are refused with a sentence")
    max_per_visitor: int = _setting(
        4, whole(1, 1000), "most requests that one visitor may have under way; an address may have half the queue"
    )
    reproducible: bool = _setting(
        False, switch, "`1`: pixels bit-identical whatever else runs (each call padded to one batch size, slower)"
    )
    turbo: bool = _setting(
        False, switch, "`1`: two of three steps reuse the UNet's deep features: faster, and other pictures"
    )
    devices: str = _setting(
        "all",
        devices,
        "GPUs with an engine each: `all`, how many, or a list such as `0,2`; on a CPU how many engines share the cores",
    )
    runtime: str = _setting(
        "auto",
        one_of("auto", "torch", "openvino", "jax"),
        "what runs the UNet: `torch`, `openvino` (CPUs only, `pip install openvino==2026.4.1`: faster, rounds "
        "differently), `jax` (TPUs, `pip install jax==0.10.2`: one picture a device, sizes in steps of 64) or `auto`: "
        "openvino on a CPU where it is installed, but torch with REPRODUCIBLE, TURBO or ATTENTION_SLICING; "
        "OPENVINO=1 is its old name",
    )
    compile: bool = _setting(
        False,
        switch,
        "`1`: compiles the UNet by `torch.compile`, size by size in the background; needs a C++ compiler, rounds "
        "differently, not yet seen on CUDA",
    )
    attention_slicing: str = _setting(
        "auto", one_of("auto", "on", "off"), "`auto` (below LOW_VRAM_GB), `on` or `off`; slower, takes less memory"
    )
    low_vram_gb: float = _setting(4.0, positive, "GiB of device memory below which attention is sliced (the card's 4)")
    max_vram_gb: float | None = _setting(
        None, positive, "GiB of device memory that may be used, as on a smaller card; all that is free when empty"
    )
    hub_timeout_s: float = _setting(
        60.0, positive, "seconds without a byte from the Hub after which fetching the model is given up"
    )
    result_ttl_s: int = _setting(
        3600, whole(10, 7 * 86_400), "seconds after the end of a run for which its files are kept"
    )
    result_dir: str | None = _setting(
        None, path, "where each process makes a folder of its own for results; the temporary folder when empty"
    )
    history: bool = _setting(
        True, switch, "`0`: the page does not keep small copies of a visitor's last pictures in the browser"
    )
    reconnect_s: float = _setting(
        30.0, positive, "seconds for which a page's run goes on after its connection was lost, so that it can return"
    )
    trusted_proxies: int = _setting(
        0,
        whole(0, 10),
        "proxies in front whose X-Forwarded-For is believed when calls are counted per address (1 on a Space)",
    )
    public_url: str | None = _setting(
        None,
        address,
        "where visitors open the page, such as `https://example.org/demo`: for addresses in the API's answers; what a "
        "request names as its host when empty",
    )
    frame_ancestors: str = _setting(
        "'self' https://huggingface.co https://*.huggingface.co https://*.hf.space",
        frame_sources,
        "pages that may show this one in a frame, as in the Content-Security-Policy",
    )
    rate_per_minute: int = _setting(
        60, whole(1, 100_000), "most calls of endpoints, Generate and login per address and minute"
    )

    watermark: str = _setting(
        "auto",
        one_of("auto", "on", "off"),
        "invisible watermark: `auto` (every model but the picture book), `on`, `off`",
    )
    certificate: str | None = _setting(
        None, pem_or_path, "signs pictures: a PEM file, or its text; one of this installation's own when empty"
    )
    private_key: str | None = _setting(None, pem_or_path, "the certificate's key, likewise", repr=False)
    zerogpu_step_s: float = _setting(
        0.06, positive, "seconds per step of a 512 × 512 picture that the first ZeroGPU call plans with; then measured"
    )
    ray_replicas: int = _setting(1, whole(1, 10_000), "replicas of the engine on the Ray cluster; the fewest of them")
    ray_max_replicas: int | None = _setting(
        None, whole(1, 10_000), "most replicas; more than RAY_REPLICAS lets their number follow the load"
    )
    ray_gpus_per_replica: float | None = _setting(
        None, amount, "GPUs of each replica, such as 0.5 for two on a GPU; 1 when empty and the cluster has any"
    )
    ray_cpus_per_replica: int = _setting(1, whole(1, 256), "CPUs of each replica, and its threads")

    def max_in_flight(self, replicas: int = 1) -> int:
        """The most requests that may wait or be drawn at once with that many engines; more are refused."""
        return self.max_queue + (self.max_batch_size or WIDTHS[-1]) * max(1, replicas)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Reads `environ`; an empty value means the default.

        Raises InvalidSetting for a value that a setting cannot have, for an unknown `SD_SPACE_` variable, and for
        switches of Gradio that would open the Space.
        """
        for name, reason in _REFUSED_SWITCHES.items():
            if environ.get(name, "").lower() not in ("", "0", "false"):
                raise InvalidSetting(f"{name} is not allowed here: {reason}.")
        environ = _without_old_name(environ)
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        for name in environ:
            if name.startswith(PREFIX) and name not in known:
                shown = short_repr(name)[1:-1]
                raise InvalidSetting(f"{shown} is not a setting; sd_space/README.md lists those that are.")
        values: dict[str, Any] = {}
        if "SPACE_ID" in environ:
            values["trusted_proxies"] = 1  # the Hub's own, in front of every Space
        if host := environ.get("SPACE_HOST"):
            try:  # a Space with a domain of its own names several
                values["public_url"] = address(f"https://{host.split(',')[0].strip()}")
            except ValueError:
                raise InvalidSetting(f"SPACE_HOST must be a host, not {short_repr(host)}; leave it out.") from None
        if environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):  # as `spaces` reads it
            values["backend"] = "zerogpu"
        for name, f in known.items():
            text = environ.get(name, "").strip()
            if not text or (f.name == "backend" and text.lower() == "auto"):
                continue
            try:
                values[f.name] = f.metadata["read"](text)
            except ValueError as error:
                shown = short_repr(text) if f.repr else "its value"
                raise InvalidSetting(f"{name} must be {error}, not {shown}.") from None
        return cls(**values)

    @classmethod
    def table(cls) -> list[tuple[str, str, str]]:
        """Rows (variable, default, help) for README."""

        def shown(default: Any) -> str:
            if default is None:
                return ""
            return default if isinstance(default, str) else f"{default:.15g}"

        return [(PREFIX + f.name.upper(), shown(f.default), f.metadata["help"]) for f in fields(cls)]
