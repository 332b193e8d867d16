"""Destinations of a real server: events come in, a webhook and a tracking API hear who is in an audience."""

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from command_line import run
from profilelake.audiences import facts
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.eventlog.embedded import LogWriter
from profilelake.ops.clock import wall
from profilelake.semantics.definitions import Definition
from profilelake.semantics.rules import EXTRACTION_VERSION
from profilelake.settings import Layout
from receivers import Receiver, receiving, wait_until
from served import ADMIN_TOKEN, KEYS, READ_TOKEN, WRITE_KEY, Served, serving

pytestmark = pytest.mark.timeout(240)
FILE = """
destinations:
  hook:
    url: {url}
    secret: $HOOK_SECRET
    definitions: [buyers]
    ids: [{{type: user_id, strategy: all}}, {{type: email, strategy: all}}]
    consent: [ads]
  itself:
    type: segment
    url: {itself}
    secret: own-key
    definitions: [orders]
    ids: [user_id]
"""


def define(directory: Path, *definitions: Definition) -> None:
    """Decide on definitions, as another process that writes to the event log."""

    async def main() -> None:
        writer = LogWriter(Layout(directory).log, region="local", clock=wall)
        try:
            for one in definitions:
                body = facts.encode(facts.Define(by="test", definition=one))
                await writer.place(
                    Entry("default", "", Kind.FACT, Flags.NONE, 0, EXTRACTION_VERSION, "", "", body)
                )
        finally:
            writer.close()

    asyncio.run(main())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Receiver]]:
    """Return a server with two definitions and two destinations, one of them the server itself."""
    directory = tmp_path_factory.mktemp("destinations") / "data"
    more = {"PROFILELAKE_ACTIVATE_ALLOW_PRIVATE": "127.0.0.0/8", "HOOK_SECRET": "shared"}
    with receiving() as receiver, serving(directory, dict(KEYS) | more) as served:
        define(
            directory,
            Definition("buyers", "audience", "event('Order Completed').count() >= 1"),
            Definition("orders", "trait", "event('Order Completed').count()"),
        )
        layout = Layout(directory)
        layout.definitions.mkdir(exist_ok=True)
        layout.destinations.write_text(FILE.format(url=receiver.url, itself=served.url))
        with patch.object(sys, "stdin", io.StringIO(WRITE_KEY + "\n")):
            stored = run("destination", "secret", "own-key", "--dir", directory)
        assert stored.code == 0, stored.err
        applied = run("destination", "apply", "--dir", directory, "--json")
        assert applied.json["added"] == ["hook", "itself"]
        served.committed()
        wait_until(lambda: all(listening(served, name) for name in ("hook", "itself")))
        yield served, receiver


def listening(served: Served, name: str) -> bool:
    """Tell whether a destination has heard what holds, and hears of changes from now on."""
    shown = served.get(f"/api/destinations/{name}").json["data"]["destination"]
    return shown["told_through"] is not None and not shown["sweeping"]


def consent(allowed: bool) -> dict[str, Any]:
    return {"consent": {"categoryPreferences": {"ads": allowed}}}


def order(user: str, **more: Any) -> dict[str, Any]:
    return {"userId": user, "event": "Order Completed", "messageId": f"m-{user}-{len(more)}"} | more


def test_members_are_told_as_they_enter_and_as_consent_goes(shop: tuple[Served, Receiver]) -> None:
    served, receiver = shop

    def mine() -> list[tuple[str, str, list[str]]]:
        return [
            (one["event"], one["cause"], sorted(id["id"] for id in one["external_ids"]))
            for one in receiver.records
            if any(id["id"] == "ana" for id in one["external_ids"])
        ]

    served.post("/v1/track", order("bob", context=consent(False)))
    served.post("/v1/track", order("ana", context=consent(True)))
    wait_until(lambda: len(mine()) == 1)
    assert mine() == [("audience_entered", "event", ["ana"])]
    served.post(
        "/v1/identify", {"userId": "ana", "traits": {"email": "ana@example.org"}, "context": consent(True)}
    )
    wait_until(lambda: len(mine()) == 2)
    assert mine()[1] == ("audience_entered", "identity", ["ana", "ana@example.org"])
    served.post("/v1/track", {"userId": "ana", "event": "Opted Out", "context": consent(False)})
    wait_until(lambda: len(mine()) == 3)
    assert mine()[2] == ("audience_exited", "consent", ["ana", "ana@example.org"])
    assert not any(id["id"] == "bob" for one in receiver.records for id in one["external_ids"])
    feed = served.get("/api/feed?after=start&definition=buyers&expand=external_ids", READ_TOKEN).json
    assert {one["external_ids"][-1]["id"] for one in feed["changes"]} >= {"ana", "bob"}


def test_calls_to_our_own_tracking_api_become_traits(shop: tuple[Served, Receiver]) -> None:
    served, _ = shop
    served.post("/v1/track", order("cleo"))
    profile = "/v1/spaces/default/collections/users/profiles/user_id:cleo"

    def computed() -> list[Any]:
        events = served.get(f"{profile}/events?limit=100").json.get("data", [])
        return [one["properties"] for one in events if one["event"] == "Trait Computed"]

    wait_until(computed)
    assert computed() == [{"trait_key": "orders", "orders": 1}]
    wait_until(lambda: served.get(f"{profile}/traits?limit=200").json.get("traits", {}).get("orders") == 1)
    shown = served.get("/api/destinations/itself").json["data"]["destination"]
    assert (shown["state"], shown["dead"]) == ("live", 0)
    assert served.get("/metrics").body.count(b"profilelake_activate_records_total") > 1


def test_a_resync_tells_who_is_in_it_now(shop: tuple[Served, Receiver]) -> None:
    served, receiver = shop
    served.post("/v1/track", order("dora", context=consent(True)))
    wait_until(lambda: [one for one in receiver.records if one["external_ids"][0]["id"] == "dora"])
    before = len(receiver.records)
    answer = served.request(
        "POST",
        "/api/destinations/hook/resync",
        {},
        authorization=f"Bearer {ADMIN_TOKEN}",
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status, answer.json) == (202, {"data": {"definitions": ["buyers"]}})
    again = receiver.wait(before + 1)[before:]
    assert {one["cause"] for one in again} == {"resync"}
    assert [one for one in again if one["external_ids"][0]["id"] == "dora"]


def test_what_a_file_says_is_changed_there(shop: tuple[Served, Receiver]) -> None:
    served, _ = shop
    answer = served.request("DELETE", "/api/destinations/hook", authorization=f"Bearer {ADMIN_TOKEN}")
    assert answer.status == 409
    assert "destinations.yaml" in answer.json["detail"]
    listed = run("destination", "list", "--dir", served.directory, "--json").json
    assert [one["name"] for one in listed] == ["hook", "itself"]
    assert "shared" not in str(listed)
