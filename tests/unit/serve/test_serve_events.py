"""Recent events, as a token with an allow-list of traits sees them."""

import base64
import json
from collections.abc import Iterator

import pytest

from past_examples import World, track, world
from profilelake.semantics.times import TIME_MAX
from profilelake.serve._answer import Refused
from profilelake.serve._events import events
from profilelake.serve._request import NO_QUERY, Query
from profilelake.state.recent import RunReader
from profilelake.workspaces.scopes import Scope

TRAITS = {"email": "ann@example.com", "plan": "pro"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("events")) as made:
        made.feed(0, track("m1", "a1", context={"locale": "de", "traits": TRAITS}))
        yield made


@pytest.mark.parametrize(
    ("scope", "traits"),
    [
        ("", TRAITS),
        ("resource:events trait:plan", {"plan": "pro"}),
        ("resource:events trait:colour", {}),
    ],
)
def test_traits_in_the_context_are_traits_too(shop: World, scope: str, traits: dict[str, str]) -> None:
    with shop.found("anonymous_id:a1", scope=Scope.parse(scope)) as found:
        page = events(found, NO_QUERY, RunReader(shop.desk.setup.recent_directory))
    (shown,) = page.data
    assert json.loads(bytes(shown.context)) == {"locale": "de", "traits": traits}


@pytest.mark.parametrize("nanos", ["9" * 24, "-" + "9" * 23, "9" * 3000, str((TIME_MAX + 1) * 1000)])
def test_a_cursor_at_no_time_is_told(shop: World, nanos: str) -> None:
    text = base64.urlsafe_b64encode(f"{nanos}::m1".encode())
    with shop.found("anonymous_id:a1") as found, pytest.raises(Refused, match="not a cursor"):
        events(found, Query(b"next=" + text), RunReader(shop.desk.setup.recent_directory))
