"""Laws of the small endpoints: whatever is asked, the answer is one of those that are meant."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from profilelake.collect.limits import CollectLimits
from profilelake.collect.tracking import Tracking
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.ops.http import Message
from profilelake.workspaces.control import CONTROL_FILE, Control
from profilelake.workspaces.keyring import KeyRing

KEY = "wk_law"


class Memory:
    """A log that keeps entries and calls each durable at once."""

    trouble: str | None = None

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, entry: Entry) -> asyncio.Future[Any]:
        self.entries.append(entry)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Asked:
    """The application without a network."""

    def __init__(self, directory: Path) -> None:
        with Control.open(directory / CONTROL_FILE, bytes) as control:
            control.ensure_default(now=1, write_key=KEY, read_token="r", admin_token="a")
        self.log = Memory()
        self.registry = CollectorRegistry()
        self.keys = KeyRing(directory / CONTROL_FILE)
        self._app = Tracking(self.log, self.keys, CollectLimits(), self.registry)
        self._runner = asyncio.Runner()

    def get(self, path: str, query: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> Any:
        """Return status and body of the answer."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b""}

        scope = {
            "type": "http",
            "path": path,
            "method": "GET",
            "query_string": query,
            "headers": headers or [],
            "client": ("192.0.2.7", 1),
        }
        self._runner.run(self._app(scope, receive, send))
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])

    def faults(self) -> float:
        reason = {"reason": "internal"}
        return self.registry.get_sample_value("profilelake_collect_refused_total", reason) or 0.0

    def close(self) -> None:
        self._runner.close()
        self.keys.close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    made = Asked(tmp_path_factory.mktemp("laws"))
    yield made
    made.close()


@contextmanager
def one_pixel(asked: Asked) -> Iterator[list[Entry]]:
    """Give what is stored meanwhile, once it is over."""
    stored: list[Entry] = []
    before = len(asked.log.entries)
    yield stored
    stored += asked.log.entries[before:]
    del asked.log.entries[:]


QUERY = st.lists(
    st.sampled_from([b"&", b"=", b".", b"%", b"%ff", b"+", b"data=", b"writeKey=", b"a", b"e30"])
)


@given(query=st.one_of(st.binary(max_size=200), QUERY.map(b"".join)))
def test_a_pixel_is_shown_whatever_its_address_is(asked: Asked, query: bytes) -> None:
    with one_pixel(asked) as stored:
        status, image = asked.get("/v1/pixel/track", query + b"&writeKey=" + KEY.encode())
    assert (status, image[:6]) == (200, b"GIF89a")
    assert asked.faults() == 0
    for entry in stored:
        assert isinstance(json.loads(entry.body), dict)
        assert (entry.kind, entry.flags & Flags.BROWSER, entry.ip) == (Kind.TRACK, Flags.BROWSER, "192.0.2.7")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


@given(
    message=st.dictionaries(st.text(), JSON),
    url_safe=st.booleans(),
    padded=st.booleans(),
    escaped=st.booleans(),
)
def test_what_is_in_data_is_stored_to_the_byte(
    asked: Asked, message: dict[str, Any], url_safe: bool, padded: bool, escaped: bool
) -> None:
    body = json.dumps(message | {"writeKey": KEY}).encode()
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(body).decode()
    text = text if padded else text.rstrip("=")
    with one_pixel(asked) as stored:
        asked.get("/v1/pixel/identify", f"data={quote(text, safe='') if escaped else text}".encode())
    assert [(entry.kind, entry.body) for entry in stored] == [(Kind.IDENTIFY, body)]


NAME = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="."), min_size=1)


@given(
    inner=st.dictionaries(NAME, st.text(st.characters(exclude_categories=("Cs",))), min_size=1, max_size=4),
    user=st.text(st.characters(exclude_categories=("Cs",))),
)
def test_fields_come_back_as_they_were_written(asked: Asked, inner: dict[str, str], user: str) -> None:
    fields = {"userId": user} | {f"properties.deep.{name}": value for name, value in inner.items()}
    with one_pixel(asked) as stored:
        asked.get("/v1/pixel/page", urlencode(fields | {"writeKey": KEY}).encode())
    [entry] = stored
    assert json.loads(entry.body) == {"userId": user, "properties": {"deep": inner}}


HOSTS = st.lists(
    st.sampled_from(["a", "-", ".", ":", "80", "[", "]", "::1", "/", "@", '"', "\\", "ü", " ", "_"])
)


@given(host=st.one_of(st.text(st.characters(max_codepoint=255)), HOSTS.map("".join)))
def test_a_host_in_settings_is_one_that_cannot_be_read_in_two_ways(asked: Asked, host: str) -> None:
    status, body = asked.get(f"/v1/projects/{KEY}/settings", headers=[(b"host", host.encode("latin-1"))])
    assert asked.faults() == 0
    if status == 400:
        return
    assert status == 200
    told = json.loads(body)["integrations"]["Segment.io"]["apiHost"]
    assert told == f"{host}/v1"
    parts = urlsplit(f"http://{told}/t")
    assert (parts.netloc, parts.path, parts.query, parts.username) == (host, "/v1/t", "", None)
