"""Starts the Space: reads the settings, puts the parts together, serves until told to stop."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

DRAIN_S = 10.0  # seconds that running pictures get to finish after SIGTERM


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A web demo of Stable Diffusion v1-4.")
    parser.add_argument("--share", action="store_true", help="also serve through a public share link of Gradio")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask visitors for this name and password")
    parser.add_argument("--model", help="same as SD_SPACE_MODEL: auto, tiny, a Hub id, a folder or a .safetensors file")
    parser.add_argument("--backend", help="same as SD_SPACE_BACKEND")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status."""
    arguments = parse_arguments(argv)
    if arguments.auth is not None and not all(arguments.auth.partition(":")[::2]):
        print("--auth must be USER:PASSWORD, with neither part empty.", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)  # they log whole addresses
    logging.getLogger("mcp").setLevel(logging.WARNING)  # it logs every call

    # Whose X-Forwarded-For is believed is the front door's to say (SD_SPACE_TRUSTED_PROXIES), not the server's.
    os.environ["FORWARDED_ALLOW_IPS"] = ""

    from sd_space.backends import make_backend
    from sd_space.settings import PREFIX, InvalidSetting, Settings

    given = {PREFIX + name.upper(): getattr(arguments, name) for name in ("model", "backend")}
    try:
        settings = Settings.from_env(os.environ | {name: value for name, value in given.items() if value})
        backend = make_backend(settings)  # before gradio: ZeroGPU's package wants to be imported first
    except InvalidSetting as error:
        print(error, file=sys.stderr)
        return 2

    from sd_space.card import load_card
    from sd_space.gallery import ResultStore
    from sd_space.gate import Gate
    from sd_space.metrics import Metrics
    from sd_space.recorded import load_recorded
    from sd_space.ui import build_demo, launch, served_files

    card = load_card()
    gate = Gate(card, settings.secret, settings.token_ttl_s)
    store = ResultStore(settings.result_dir, settings.result_ttl_s)
    metrics = Metrics(backend.status)
    recorded = load_recorded()
    demo = build_demo(settings, card, gate, backend, store, metrics, recorded)

    store.start()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    auth = tuple(arguments.auth.split(":", 1)) if arguments.auth else None
    backend.prepare()
    files = served_files(store, recorded)
    url = launch(demo, settings, backend, metrics, files, share=arguments.share, auth=auth)
    print(f"Serving on {url}", flush=True)
    backend.start()  # only now: importing torch takes seconds, and the page is up already
    stop.wait()
    backend.close(DRAIN_S)
    demo.close(verbose=False)
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
