"""A small server behind our connections: `/` answers at once, `/last` with its last header, other paths never do."""

import asyncio
import logging
import sys


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b"ok"
    if scope["path"] == "/last":
        while (await receive()).get("more_body"):
            pass
        body = scope["headers"][-1][1]
    elif scope["path"] != "/":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Arguments: `plain` for what is there without extras, or `fast` for httptools and uvloop; the port; patches."""
    if sys.argv[1] == "plain":
        sys.modules["httptools"] = sys.modules["uvloop"] = None
    from sd_space.serving import connections
    from sd_space.serving.listening import Address, start_server

    for patch in sys.argv[3:]:
        name, _, value = patch.partition("=")
        setattr(connections, name, float(value))
    logging.basicConfig(level=logging.INFO)
    connections.quieten_logs()
    address = Address.from_env({"GRADIO_SERVER_PORT": sys.argv[2]})
    _, _, url, _ = start_server(address, connections.raise_handle_limit(), app)
    print(url, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
