"""The shop: repeatable, exact in number, hard on purpose, and its truth is what a reader of the events finds."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, cast

import pytest
from segment.analytics import Client

from profilelake.demo import shop
from profilelake.demo.shop import Call, shop_calls
from profilelake.demo.truth import Truth, score
from profilelake.semantics.events import Envelope, Event, parse_record
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import Sighting, resolve
from profilelake.semantics.rules import segment_defaults

ENDS_AT = datetime(2026, 3, 1, tzinfo=UTC)


@cache
def made(events: int, seed: int = 7) -> tuple[list[Call], Truth]:
    truth = Truth()
    return list(shop_calls(seed, events, ENDS_AT, truth)), truth


def text(calls: list[Call]) -> str:
    return json.dumps([(call.method, call.arguments) for call in calls], default=str)


@pytest.mark.parametrize("events", [1, 2, 3, 5, 50, 1_001])
def test_makes_exactly_as_many_calls_as_asked(events: int) -> None:
    assert len(made(events)[0]) == events


def test_the_seed_decides_everything() -> None:
    first, first_truth = made(2_000)
    again, again_truth = made.__wrapped__(2_000)
    assert text(first) == text(again)
    assert first_truth == again_truth
    assert text(made(2_000, seed=8)[0]) != text(first)


def test_calls_come_in_the_order_of_their_times_and_none_is_in_the_future() -> None:
    times = [cast(datetime, call.arguments["timestamp"]) for call in made(3_000)[0]]
    assert times == sorted(times)
    assert times[-1] <= ENDS_AT
    assert ENDS_AT - timedelta(weeks=shop.WEEKS) <= times[0]
    assert times[-1] - times[0] > timedelta(weeks=shop.WEEKS - 1)


def test_every_message_id_is_its_own() -> None:
    calls, _ = made(3_000)
    assert len({call.arguments["message_id"] for call in calls}) == 3_000


def test_a_shop_has_all_kinds_of_calls() -> None:
    calls, truth = made(20_000)
    methods = Counter(call.method for call in calls)
    assert set(methods) == {"identify", "track", "page", "screen", "group", "alias"}
    events = {call.arguments["event"] for call in calls if call.method == "track"}
    assert {
        "Products Searched",
        "Product Viewed",
        "Product Added",
        "Checkout Started",
        "Order Completed",
    } <= events
    assert truth.organisations


def test_what_is_hard_for_identity_is_in_it() -> None:
    _, truth = made(20_000)
    owned = truth.owned()
    per_person = Counter((person, identifier.type) for identifier, person in owned.items())
    assert any(kind == "email" and count == 2 for (_, kind), count in per_person.items())
    assert any(kind == "anonymous_id" and count > 5 for (_, kind), count in per_person.items())
    assert any(kind == "anonymous_id" and count in (2, 3) for (_, kind), count in per_person.items())
    assert any(identifier.value.startswith("kiosk-") for identifier in truth.shared())
    assert any(persons == 2 for persons in truth.shared().values())
    assert {"user_id", "anonymous_id", "ios.idfa"} == {identifier.type for identifier in truth.junk}


def test_an_order_adds_up() -> None:
    orders = [
        cast(dict[str, Any], call.arguments["properties"])
        for call in made(3_000)[0]
        if call.arguments.get("event") == "Order Completed"
    ]
    assert orders
    for order in orders:
        assert order["revenue"] == pytest.approx(sum(p["price"] * p["quantity"] for p in order["products"]))
        assert order["total"] == pytest.approx(order["revenue"] + order["shipping"] + order["tax"])
    assert len({order["order_id"] for order in orders}) == len(orders)


def test_the_client_takes_every_call_and_the_events_name_exactly_the_identifiers_of_the_truth() -> None:
    calls, truth = made(5_000)
    sightings, users, accounts = read_back(calls)
    assert users == set(truth.owners)
    assert accounts == truth.organisations
    profiles = resolve(sightings, segment_defaults())
    found = score(truth, {name: owner for name, owner in profiles.owners.items() if owner is not None})
    # Not perfect, because the shop is not: shared devices cost precision. Far from it would mean that
    # truth and events tell different stories.
    assert found.precision > 0.95
    assert found.recall_evident > 0.97
    assert found.recall < found.recall_evident


def read_back(calls: list[Call]) -> tuple[list[Sighting], set[Identifier], set[Identifier]]:
    """Let the real client build the messages, and read them by the reference."""
    client = Client("wk_test", send=False)
    rules = segment_defaults()
    sightings: list[Sighting] = []
    users: set[Identifier] = set()
    accounts: set[Identifier] = set()
    for offset, call in enumerate(calls):
        taken, message = getattr(client, call.method)(**call.arguments)
        assert taken
        body = json.dumps({"batch": [message]}).encode()
        envelope = Envelope(1_000_000 + offset, "local", "00" * 8, offset, "web", None, 1)
        (event,) = parse_record(body, envelope, rules)
        assert isinstance(event, Event), event
        users.update(event.users)
        accounts.update(event.accounts)
        if event.users:
            sightings.append(Sighting(frozenset(event.users), event.position.to_bytes(), event.received_at))
    return sightings, users, accounts
