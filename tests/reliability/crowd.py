"""Many visitors at once, on one event loop: a client that leaves most of the machine to the server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .visitor import Answer

Request = tuple[str, str, Any]  # method, path, JSON
CALL = "/gradio_api/call"


class Crowd:
    """Visitors of the server at `url`; each request has a connection of its own, as from a machine of its own."""

    def __init__(self, url: str):
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port

    async def send(self, method: str, path: str, values: Any = None, **headers: str) -> Answer:
        """One request and its whole answer."""
        began_s = time.monotonic()
        async with _Connection(self._host, self._port) as connection:
            status = await connection.ask(method, path, values, headers)
            body = b"".join([chunk async for chunk in connection.chunks()])
        return Answer(status, body, time.monotonic() - began_s)

    async def call(self, name: str, values: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """Calls a public endpoint and reads its events to the last one."""
        posted = await self.send("POST", f"{CALL}/v2/{name}", values, **(headers or {}))
        if posted.status != 200:
            return posted
        return await self.events(f"{CALL}/{name}/{json.loads(posted.body)['event_id']}", posted)

    async def events(self, path: str, posted: Answer, until: Callable[[bytes], bool] = lambda line: False) -> Answer:
        """Reads a stream to its end, or to a line that is enough, where the visitor leaves."""
        began_s = time.monotonic()
        lines, event, data = [], "", None
        async with _Connection(self._host, self._port) as connection:
            status = await connection.ask("GET", path, None, {})
            async for line in connection.lines():
                lines.append(line)
                if line.startswith(b"event: "):
                    event = line[7:].decode()
                elif line.startswith(b"data: ") and event in ("complete", "error"):
                    data = json.loads(line[6:])
                if until(line):
                    break
        return Answer(status, b"\n".join(lines), posted.seconds + time.monotonic() - began_s, event, data)


async def take_turns(visit: Callable[[int], Awaitable[None]], numbers: Iterable[int], at_once: int) -> None:
    """Makes the visits of these numbers, so many at once; each place goes to the next in line."""
    left = iter(numbers)

    async def come_one_after_the_other() -> None:
        for number in left:
            await visit(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(come_one_after_the_other())


class _Connection:
    """One HTTP/1.1 exchange. A body that is cut off raises EOFError."""

    def __init__(self, host: str, port: int):
        self._address = host, port

    async def __aenter__(self) -> "_Connection":
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, values: Any, headers: Mapping[str, str]) -> int:
        """Sends the request and reads the head of the answer; returns its status."""
        body = b"" if values is None else json.dumps(values).encode()
        head = {"Host": "{}:{}".format(*self._address), "Connection": "close", "Content-Length": len(body)}
        head |= {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        self._is_chunked = b"transfer-encoding: chunked" in answer
        return int(answer.split(None, 2)[1])

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of the body as they come."""
        rest = b""
        async for chunk in self.chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if not self._is_chunked:
            yield await self._reader.read()
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
