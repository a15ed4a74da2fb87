"""How much may come in: calls by the minute, and requests in flight at once."""

import contextlib
import ipaddress
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator

from starlette.datastructures import Headers
from starlette.types import Scope

from sd_space.errors import QueueFull
from sd_space.languages import Phrase
from sd_space.schema import BackendStatus
from sd_space.serving.envelope import Refusal
from sd_space.settings import Settings

MAX_ADDRESSES = 10_000
GLOBAL_FACTOR = 20  # all addresses together may call this many times as often as one
FULL = Phrase("Too many visitors are waiting already; please come back in a few minutes.")
SHARE_FULL = Phrase("{share} of your requests are under way already; please wait until one is done.")
TOO_MANY_OPEN = Phrase("Too many requests from this address are open already; please close some of your pages.")
RETRY_AFTER_S = 30  # after which a place may be free; a guess, a request's length is the caller's choice
MAX_HELD_BYTES = 64 * 2**20  # of large bodies; each is in memory a few times over until its request is done
_CLAIM_WITHIN_S = 60.0  # until its handler starts, a request waits for nothing but the event loop


def limit_key(text: str) -> str | None:
    """The address that `text` names, in the one spelling by which callers are counted; `None` if it names none.

    Takes what proxies write: with a port, in brackets, with a zone. An IPv4 address mapped into IPv6 counts as IPv4,
    and IPv6 counts by /64, of which a household or a rented machine has at least one whole.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv4Address):
            return str(address)
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return None


def client_address(scope: Scope, headers: Headers, trusted_proxies: int) -> str | None:
    """The address that a caller is counted by: the peer's, or the one that the outermost trusted proxy has written.

    `None` for this machine's own: through a share link or a proxy that is not trusted everybody comes from there.
    """
    if trusted_proxies:
        hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
        if len(hops) >= trusted_proxies:
            return limit_key(hops[-trusted_proxies])
    key = limit_key(scope["client"][0] if scope.get("client") else "")
    return None if key is None or key.startswith("127.") or key == "::/64" else key


class RateLimiter:
    """A token bucket for each address, and one for all together: `per_minute` calls, and as many at once.

    Remembers the last 10,000 addresses, in memory only. A caller without an address counts in the common one alone.
    """

    def __init__(self, per_minute: int, now_s: Callable[[], float] = time.monotonic):
        self._per_minute = per_minute
        self._now_s = now_s
        self._buckets: OrderedDict[str | None, tuple[float, float]] = OrderedDict()  # address -> (tokens, when)

    def seconds_to_wait(self, address: str | None) -> float:
        """0 if a call may go ahead now, and counts it; else the seconds after which one may."""
        waits = [self._wait(key, rate) for key, rate in self._rates(address)]
        if not any(waits):
            for key, rate in self._rates(address):
                self._buckets[key] = (self._tokens(key, rate) - 1, self._now_s())
                self._buckets.move_to_end(key)
            while len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        return max(waits)

    def _rates(self, address: str | None) -> list[tuple[str | None, int]]:
        own = [] if address is None else [(address, self._per_minute)]
        return [*own, (None, self._per_minute * GLOBAL_FACTOR)]

    def _tokens(self, key: str | None, rate: int) -> float:
        tokens, at_s = self._buckets.get(key, (rate, self._now_s()))
        return min(rate, tokens + (self._now_s() - at_s) * rate / 60)

    def _wait(self, key: str | None, rate: int) -> float:
        return max(0.0, (1 - self._tokens(key, rate)) * 60 / rate)


class OpenRequests:
    """The requests that are not answered whole yet, by address: each may have `most` of them.

    A client that does not read its answers, or has streams without end, must not hold all of the server's connections.
    Callers without an address share one, and are not bounded.
    """

    def __init__(self, most: int):
        self._most = most
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def counted(self, address: str | None) -> Iterator[None]:
        """Counts a request for as long as the block runs. Raises Refusal."""
        if address is None:
            yield
            return
        if self._open[address] >= self._most:
            raise Refusal(429, TOO_MANY_OPEN, {"Retry-After": str(RETRY_AFTER_S)})
        self._open[address] += 1
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]


class Place:
    """Room for one request for pictures, from the moment it comes in until its run is over.

    `event_id` is the event of Gradio's queue that it became. `is_claimed` once its handler has begun. `runs` are the
    ids of the request's runs, once there are any, each with what cancels it. `body_bytes` is the size of its body if
    that is large.
    """

    __slots__ = (
        "address",
        "body_bytes",
        "entered_at_s",
        "event_id",
        "id",
        "is_abandoned",
        "is_claimed",
        "runs",
        "visitor",
    )

    def __init__(self, address: str | None, visitor: str | None, entered_at_s: float):
        self.id = secrets.token_urlsafe(16)
        self.address = address
        self.visitor = visitor
        self.entered_at_s = entered_at_s
        self.body_bytes = 0
        self.event_id: str | None = None
        self.is_claimed = False
        self.is_abandoned = False
        self.runs: dict[str, Callable[[], None]] = {}

    def abandon(self) -> None:
        """Ends the request: its caller has left."""
        self.is_abandoned = True
        for cancel in list(self.runs.values()):
            cancel()


class Capacity:
    """The only place that knows whose requests are in flight, and that says "full".

    A request takes a place when it comes in, before anything waits for anything. One visitor may have
    `max_per_visitor` of them and one address half the queue: visitors cost nothing to invent. Belongs to the server's
    event loop. `events` are the ids of the events that Gradio's queue holds: a place whose event is over and which no
    handler has claimed is free again.
    """

    def __init__(
        self,
        settings: Settings,
        status: Callable[[], BackendStatus],
        events: Callable[[], Collection[str]] = tuple,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._settings = settings
        self._status = status
        self.events = events
        self._now_s = now_s
        self._places: dict[str, Place] = {}
        self._read_bytes: dict[object, int] = {}  # of large bodies: being read, passed on, or waiting to be verified

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], None]]:
        """Bounds the large bodies in memory, those of requests in flight included.

        The block calls what it is given with the size of its body so far, which raises QueueFull.
        """
        reader = object()

        def count(size: int) -> None:
            self._read_bytes[reader] = size
            self._forget_ended()
            held = sum(self._read_bytes.values()) + sum(place.body_bytes for place in self._places.values())
            if held > MAX_HELD_BYTES:
                raise QueueFull(FULL)

        try:
            yield count
        finally:
            self._read_bytes.pop(reader, None)

    @property
    def max_per_address(self) -> int:
        return max(self._settings.max_per_visitor, self._settings.max_queue // 2)

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, address: str | None, visitor: str | None = None) -> Place:
        """A place for a request that has just come in; `visitor` is `None` while nobody knows. Raises QueueFull."""
        self._forget_ended()
        status, settings = self._status(), self._settings
        running = status.replicas.get("running", 1)
        if len(self._places) >= max(settings.max_in_flight(running), settings.max_queue + status.running):
            raise QueueFull(FULL)
        if address is not None and self._count("address")[address] >= self.max_per_address:
            raise QueueFull(Phrase(SHARE_FULL, share=self.max_per_address))
        if visitor is not None:
            self._check_share(visitor)
        place = Place(address, visitor, self._now_s())
        self._places[place.id] = place
        return place

    @contextlib.contextmanager
    def claimed(self, place_id: str | None, visitor: str, address: str | None = None) -> Iterator[Place]:
        """The place that this visitor's request took when it came in; it takes one now if it has none yet.

        The last of the runs that take the place over releases it; where the block fails, it is free again. Raises
        QueueFull.
        """
        place = self._claim(place_id, visitor, address)
        try:
            yield place
        except BaseException:  # a caller who leaves is one, too
            self.release(place)
            raise

    def _claim(self, place_id: str | None, visitor: str, address: str | None) -> Place:
        place = self._places.get(place_id or "")
        if place is None or place.is_claimed:
            place = self.enter(address, visitor)
        elif place.visitor != visitor:
            self.release(place)
            self._check_share(visitor)
            place.visitor = visitor
            self._places[place.id] = place
        place.is_claimed = True
        return place

    def _check_share(self, visitor: str) -> None:
        if self._count("visitor")[visitor] >= self._settings.max_per_visitor:
            raise QueueFull(Phrase(SHARE_FULL, share=self._settings.max_per_visitor))

    def abandon(self, event_id: str) -> None:
        """Nobody waits any more for what this event asked for."""
        for place in list(self._places.values()):
            if place.event_id == event_id:
                place.abandon()

    def release(self, place: Place) -> None:
        """Frees the place; a second time does nothing."""
        self._places.pop(place.id, None)

    def _count(self, whose: str) -> Counter[str | None]:
        return Counter(getattr(place, whose) for place in self._places.values())

    def _forget_ended(self) -> None:
        events, oldest_s = self.events(), self._now_s() - _CLAIM_WITHIN_S
        ended = [
            place
            for place in self._places.values()
            if not place.is_claimed
            and (place.event_id not in events if place.event_id else place.entered_at_s < oldest_s)
        ]
        for place in ended:
            self.release(place)
