import pytest

from sd_space.errors import QueueFull
from sd_space.schema import BackendStatus, Stage
from sd_space.serving.envelope import Refusal
from sd_space.serving.limits import GLOBAL_FACTOR, Capacity, OpenRequests, RateLimiter, limit_key
from sd_space.settings import Settings

from .fakes import Clock


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:5000 ", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002::1", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("999.0.0.1", None),
    ],
)
def test_an_address_counts_as_one_however_it_is_written(text, key):
    assert limit_key(text) == key


def test_all_addresses_together_have_a_limit_too():
    limiter = RateLimiter(1, Clock())
    waits = [limiter.seconds_to_wait(f"10.0.0.{k}") for k in range(GLOBAL_FACTOR + 1)]
    assert not any(waits[:-1]) and waits[-1] > 0


class House:
    """Room for 6 who wait, 2 of a visitor and 3 of an address; `events` are those that Gradio's queue holds."""

    def __init__(self, **settings):
        self.status, self.events, self.clock = BackendStatus(Stage.LOADING), set(), Clock()
        given = Settings(**{"max_queue": 6, "max_per_visitor": 2, "max_batch_size": 1} | settings)
        self.capacity = Capacity(given, lambda: self.status, lambda: self.events, self.clock)

    def enter(self, address: str | None = None, event_id: str | None = None):
        place = self.capacity.enter(address)
        place.event_id = event_id
        self.events |= {event_id} - {None}
        return place

    def claim(self, place, visitor: str) -> None:
        with self.capacity.claimed(place.id, visitor):
            pass


def test_an_address_has_so_many_requests_open_and_others_have_theirs():
    requests = OpenRequests(2)
    with requests.counted("192.0.2.1"), requests.counted("192.0.2.2"):
        with requests.counted("192.0.2.1"), pytest.raises(Refusal, match="open"), requests.counted("192.0.2.1"):
            pass
        with requests.counted("192.0.2.1"), requests.counted("192.0.2.2"):
            pass
    assert not requests._open, "no address is remembered"


def test_callers_who_share_an_address_are_not_bounded_together():
    requests = OpenRequests(1)
    with requests.counted(None), requests.counted(None):
        pass


def test_one_visitor_cannot_take_all_places_while_the_model_loads():
    house = House()
    for _ in range(2):
        house.claim(house.enter(), "one")
    with pytest.raises(QueueFull, match="2 of your requests"):
        house.claim(house.enter(), "one")
    assert len(house.capacity) == 2, "what was refused takes no place"
    house.claim(house.enter(), "another")


def test_one_address_has_half_the_queue_and_the_rest_is_for_others():
    house = House()
    for _ in range(3):
        house.enter("192.0.2.1")
    with pytest.raises(QueueFull, match="3 of your requests"):
        house.enter("192.0.2.1")
    house.enter("192.0.2.2")


def test_a_full_house_says_so_until_somebody_leaves():
    house = House()
    places = [house.enter() for _ in range(7)]
    with pytest.raises(QueueFull, match="come back in a few minutes"):
        house.enter()
    house.capacity.release(places[0])
    house.capacity.release(places[0])
    house.enter()
    with pytest.raises(QueueFull):
        house.enter()


def test_a_place_whose_event_is_over_is_free_unless_a_handler_has_claimed_it():
    house = House()
    claimed, unclaimed = house.enter(event_id="a"), house.enter(event_id="b")
    house.claim(claimed, "one")
    house.events.clear()
    house.enter()
    assert set(house.capacity._places) & {claimed.id, unclaimed.id} == {claimed.id}


def test_a_place_that_became_no_event_is_free_in_the_end():
    house = House()
    lost = house.enter()
    house.clock.now_s = 61.0
    house.enter()
    assert lost.id not in house.capacity._places


def test_a_claim_that_fails_later_gives_its_place_back():
    house = House()
    place = house.enter()
    with pytest.raises(ZeroDivisionError), house.capacity.claimed(place.id, "one"):
        raise ZeroDivisionError
    assert len(house.capacity) == 0


def test_a_place_is_claimed_once_and_its_name_leads_nobody_else_in():
    house = House()
    place = house.enter()
    house.claim(place, "one")
    house.claim(place, "another")
    assert len(house.capacity) == 2
