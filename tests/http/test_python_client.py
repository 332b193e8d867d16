"""The Python client against a running server."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from profilelake import AsyncClient, Client
from profilelake.client import InvalidRequest, NotAllowed, ProfileNotFound
from served import READ_TOKEN, Served

TRAITS_MANY = 250
"""More than one page of traits holds."""


@pytest.fixture(scope="module")
def person(served: Served) -> str:
    """Send the events of one person and return their user id."""
    user = f"client-{uuid.uuid4().hex}"
    traits = {f"trait {number:03}": number for number in range(TRAITS_MANY)} | {"address": {"city": "Bern"}}
    body = {
        "batch": [
            {"type": "identify", "userId": user, "traits": traits, "anonymousId": f"{user}-a"},
            {"type": "track", "userId": user, "event": "Bought", "properties": {"price": 5.5}},
            {"type": "track", "userId": user, "event": "Left"},
        ]
    }
    assert served.post("/v1/batch", body).status == 200
    served.committed()
    return user


def test_a_person_is_read_whole(served: Served, person: str) -> None:
    with Client(served.url, READ_TOKEN) as client:
        profile = client.profile(f"user_id:{person}")
        assert len(profile.traits) == TRAITS_MANY + 1
        assert profile.traits["address"] == {"city": "Bern"}
        assert profile.identifiers("anonymous_id") == [f"{person}-a"]
        assert client.profile(profile.segment_id) == profile
        found = client.profiles(["user_id:nobody", f"anonymous_id:{person}-a"])
        assert found == [None, profile]
        assert profile in list(client.all_profiles())


def test_events_and_traits_with_their_times(served: Served, person: str) -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    with Client(served.url, READ_TOKEN) as client:
        events = list(client.events(f"user_id:{person}", start=hour_ago, include=["Bought"]))
        assert [(event.event, event.properties) for event in events] == [("Bought", {"price": 5.5})]
        assert events[0].timestamp > hour_ago
        traits = client.traits(f"user_id:{person}", include=["trait 001"])
        assert traits["trait 001"].value == 1
        assert traits["trait 001"].updated_at > hour_ago


def test_sql_gives_the_rows_of_the_tables(served: Served, person: str) -> None:
    with Client(served.url, READ_TOKEN) as client:
        query = "SELECT event FROM events WHERE user_id = $1 AND type = 'track' ORDER BY event"
        result = client.sql(query, [person])
        assert result.rows() == [{"event": "Bought"}, {"event": "Left"}]
        batches = client.sql_batches("SELECT range AS n FROM range(300000)")
        assert sum(batch.num_rows for batch in batches) == 300_000
        with pytest.raises(InvalidRequest) as raised:
            client.sql("SELECT nothing FROM events")
        assert raised.value.code


def test_refusals_are_errors_of_their_kind(served: Served) -> None:
    with Client(served.url, READ_TOKEN) as client, pytest.raises(ProfileNotFound):
        client.profile("user_id:nobody")
    with Client(served.url, "rk_wrong") as client, pytest.raises(NotAllowed):
        client.profile("user_id:nobody")


def test_the_same_reads_awaited(served: Served, person: str) -> None:
    async def read() -> None:
        async with AsyncClient(served.url, READ_TOKEN) as client:
            profile = await client.profile(f"user_id:{person}")
            assert len(profile.traits) == TRAITS_MANY + 1
            assert await client.find("user_id:nobody") is None
            names = {event.event async for event in client.events(f"user_id:{person}")}
            assert {"Bought", "Left"} <= names
            rows = (await client.sql("SELECT 1 AS one")).rows()
            assert rows == [{"one": 1}]

    asyncio.run(read())
