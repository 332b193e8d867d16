"""Profiles in a real state, and the Profile API over them: called directly, or on a real server."""

import asyncio
import base64
import http.client
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from prometheus_client import CollectorRegistry

from profilelake.landing.tables import EVENTS
from profilelake.ops.http import HttpLimits, bind, run, serve_app
from profilelake.semantics.identifiers import Identifier, ident_id, normalised, public_id, set_id
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import COLLECTIONS, Collection, segment_defaults
from profilelake.serve.profile_api import ProfileApi
from profilelake.state import recent
from profilelake.state.computed import (
    ComputedRecord,
    DefinitionRecord,
    ValueRecord,
    definition_records,
    put_computed,
)
from profilelake.state.records import (
    ActivityRecord,
    ConsentRecord,
    IdentRecord,
    MembershipRecord,
    ProfileRecord,
    SetRecord,
    SpellRecord,
    TraitRecord,
    encode,
)
from profilelake.state.store import Db, State
from profilelake.workspaces import Token, TokenKind

SPACE = "default"
OTHER_SPACE = "elsewhere"
KEY = b"0123456789abcdef"
RULES = segment_defaults()
TOKEN = "rk_test"
OTHER_TOKEN = "rk_other"
SCOPED = "rk_scoped "
SECOND = 1_000_000
DAY = 86_400 * SECOND
BEGIN = 1_767_225_600 * SECOND
"""2026-01-01T00:00:00Z"""

ROWS = pa.schema(
    [
        pa.field("key", pa.binary(16)),
        pa.field("copy", pa.bool_()),
        *(f.with_nullable(True) for f in EVENTS.schema()),
    ]
)


def position(received_at: int, offset: int = 0) -> bytes:
    return Position(received_at, "here", "00" * 8, offset, 0).to_bytes()


def basic(token: str) -> dict[str, str]:
    """Return the header of a client that gives its token as user name, as Segment's do."""
    return {"Authorization": "Basic " + base64.b64encode(f"{token}:".encode()).decode()}


def row(key: bytes, received_at: int, message_id: str, offset: int = 0, **values: Any) -> dict[str, Any]:
    """Return one row of a recent run."""
    return {
        "key": key,
        "copy": False,
        "position": position(received_at, offset),
        "received_at": received_at,
        "message_id": message_id,
        "type": "track",
        "event": "Clicked",
        "timestamp": received_at,
        "source_id": "src_web",
        "region": "here",
        "set_id": key,
        **values,
    }


def rows_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a run wants them: sorted by key and position."""
    ordered = sorted(rows, key=lambda row: (row["key"], row["position"]))
    return pa.Table.from_pylist(ordered, schema=ROWS)


@dataclass
class Profiles:
    """Writes profiles through the state's own interface, as the pipeline's micro-batches do."""

    directory: Path
    space: str = SPACE

    def __post_init__(self) -> None:
        self.state = State.open(self.directory / "state", writable=True)
        self.state.ensure([SPACE, OTHER_SPACE])
        self.sequence = 0

    def recent(self, space: str) -> Path:
        return self.directory / "recent" / space

    def add(
        self,
        *sets: Sequence[str],
        traits: Mapping[str, object] | None = None,
        collection: Collection = "users",
        at: int = BEGIN,
    ) -> tuple[str, list[bytes]]:
        """Store a profile of these identifier sets, seen a second apart; return its id and the set ids.

        Identifiers are written `type:value`; traits are values, or JSON text as `JsonText`.
        """
        number = COLLECTIONS.index(collection)
        idents: dict[bytes, tuple[Identifier, int]] = {}
        keys: list[bytes] = []
        members: list[list[bytes]] = []
        for age, texts in enumerate(sets):
            seen = at + age * SECOND
            ids = []
            for text in texts:
                type, _, value = text.partition(":")
                identifier = Identifier(type, normalised(RULES, collection, type, value))
                ids.append(ident_id(KEY, collection, identifier))
                idents.setdefault(ids[-1], (identifier, seen))
            members.append(ids)
            keys.append(set_id(KEY, collection, ids))
        founder = keys[0]
        with self.state.write() as tx:
            for ident, (identifier, seen) in idents.items():
                record = IdentRecord(
                    number, identifier.type, identifier.value, "src_web", f"first-{identifier.value}", seen,
                    position(seen), founder,
                )  # fmt: skip
                tx.put(self.space, Db.IDENT, ident, encode(record))
            for age, (key, ids) in enumerate(zip(keys, members, strict=True)):
                seen = at + age * SECOND
                sets_record = SetRecord(
                    number, b"".join(sorted(ids)), ids[0], founder, founder, position(seen), f"m-{age}", "src_web",
                )  # fmt: skip
                tx.put(self.space, Db.SET, key, encode(sets_record))
                active = ActivityRecord(2, position(seen + DAY), f"last-{age}", "src_app")
                tx.put(self.space, Db.ACTIVITY, key, encode(active))
            written = {
                name: TraitRecord(
                    None if value is None else str(value) if isinstance(value, JsonText) else json.dumps(value),
                    at, position(at), "src_web", "m-0",
                )
                for name, value in (traits or {}).items()
            }  # fmt: skip
            profile = ProfileRecord(
                number, position(at), [(key, found.type) for key, (found, _) in idents.items()], keys
            )
            tx.put(self.space, Db.TRAITS, founder, encode(written))
            tx.put(self.space, Db.PROFILE, founder, encode(profile))
        return public_id(collection, founder), keys

    def merge_away(self, text: str, into: bytes) -> str:
        """Store a set that founded a profile of its own before it was merged; return that profile's id."""
        type, _, value = text.partition(":")
        key = set_id(KEY, "users", [ident_id(KEY, "users", Identifier(type, value))])
        with self.state.write() as tx:
            tx.put(self.space, Db.SET, key, encode(SetRecord(0, b"", b"", into, key, bytes(32), "", "")))
        return public_id("users", key)

    def link(self, person_set: bytes, account_set: bytes, at: int = BEGIN, offset: int = 0) -> None:
        """Store that a person's set was seen with an account's."""
        seen = MembershipRecord([SpellRecord(position(at, offset), f"group-{offset}", "src_crm")])
        with self.state.write() as tx:
            tx.put(self.space, Db.ACCOUNTS_OF, person_set + account_set, encode(seen))
            tx.put(self.space, Db.MEMBERS, account_set + person_set, b"")

    def part(self, person: str, account: str, at: int) -> None:
        """Store that a decision ended what two identifiers (`type:value`) had with each other."""
        keys = []
        for collection, text in zip(COLLECTIONS, (person, account), strict=True):
            type, _, value = text.partition(":")
            keys.append(ident_id(KEY, collection, Identifier(type, value)))
        with self.state.write() as tx:
            tx.put(self.space, Db.LEFT, b"".join(keys), encode([position(at)]))

    def say(self, key: bytes, allowed: dict[str, bool], at: int = BEGIN) -> None:
        """Store what a set says about consent."""
        with self.state.write() as tx:
            said = ConsentRecord(at, position(at), "src_web", "consent-1", allowed)
            tx.put(self.space, Db.CONSENT, key, encode(said))

    def compute(self, founder: bytes, at: int = BEGIN, **values: tuple[str, object]) -> None:
        """Store what definitions are worth for a profile: by key the kind of the definition and the value."""
        with self.state.write() as tx:
            known = definition_records(tx, self.space)
            held: dict[int, ValueRecord] = {}
            for key, (kind, value) in values.items():
                record = known.setdefault(key, DefinitionRecord(len(known) + 1, key, "live", 1, kind=kind))
                tx.put(self.space, Db.DEFINITION, key.encode(), encode(record))
                held[record.number] = ValueRecord(json.dumps(value), at, 1)
            put_computed(tx, self.space, {founder: ComputedRecord(0, held)}, {})

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store events as one run."""
        self.sequence += 1
        with self.state.write() as tx:
            written = recent.write(
                self.recent(self.space),
                rows_table(rows),
                sequence_min=self.sequence,
                sequence_max=self.sequence,
            )
            recent.store(tx, self.space, [*recent.load(tx, self.space), written])


class JsonText(str):
    """A trait's value as its JSON text."""

    __slots__ = ()


class FixedTokens:
    """One read token for each of the two spaces, and `SCOPED` with a scope behind it for any scope."""

    def __init__(self) -> None:
        self.version = 1
        self.tokens = {
            TOKEN: Token("tok_1", TokenKind.READ, SPACE, "", None, revoked=False),
            OTHER_TOKEN: Token("tok_2", TokenKind.READ, OTHER_SPACE, "", None, revoked=False),
        }

    def poll(self) -> int:
        return self.version

    def token(self, secret: str, *, now: int) -> Token | None:
        if secret.startswith(SCOPED):
            scope = secret.removeprefix(SCOPED)
            return Token(f"tok_{scope}", TokenKind.READ, SPACE, scope, None, revoked=False)
        found = self.tokens.get(secret)
        return None if found is None or (found.expires_at or now + 1) <= now else found


def profile_api(profiles: Profiles, **changes: Any) -> ProfileApi:
    options: dict[str, Any] = {
        "rules": lambda _: RULES,
        "registry": CollectorRegistry(),
        "request_id": lambda: os.urandom(8).hex(),
        "now": lambda: BEGIN,
        "requests_per_second": None,
        **changes,
    }
    state = options.pop("state", lambda: profiles.state)
    tokens = options.pop("tokens", None) or FixedTokens()
    return ProfileApi(state, profiles.recent, lambda _: KEY, tokens, **options)


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def call(
    api: ProfileApi,
    target: str | bytes,
    *,
    method: str = "GET",
    token: str | None = TOKEN,
    body: Sequence[bytes] = (b"",),
    if_none_match: str | None = None,
) -> Response:
    """Send one request to the ASGI callable; anything it raises is raised here."""
    raw = target if isinstance(target, bytes) else target.encode("latin-1")
    path, _, query = raw.partition(b"?")
    headers = [(b"host", b"x")]
    if token is not None:
        headers.append((b"authorization", b"Bearer " + token.encode()))
    if if_none_match is not None:
        headers.append((b"if-none-match", if_none_match.encode()))
    scope = {
        "type": "http",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
    }
    parts = [
        {"type": "http.request", "body": part, "more_body": number + 1 < len(body)}
        for number, part in enumerate(body)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(api(scope, receive, send))
    start, finish = sent
    names = {name.decode(): value.decode() for name, value in start["headers"]}
    assert int(names.get("content-length", "0")) == len(finish["body"])
    return Response(start["status"], names, finish["body"])


class ProfileServer:
    """The API on a real server on loopback, in a thread; started on entry, ended on exit."""

    def __init__(self, api: ProfileApi) -> None:
        self._api = api
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: run(self._main()), name="profile-server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        sock = bind("127.0.0.1", 0)
        self.port = sock.getsockname()[1]
        await serve_app(self._api, sock, HttpLimits(), stop=self._stop, on_ready=self._ready.set)

    def get(self, target: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Response:
        return self.get_all([(target, headers or {})], method=method)[0]

    def get_all(
        self, requests: Iterable[tuple[str, Mapping[str, str]]], *, method: str = "GET"
    ) -> list[Response]:
        """Send requests one after another on one connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        answers = []
        try:
            for target, headers in requests:
                connection.request(method, target, headers=dict(headers))
                answer = connection.getresponse()
                names = {name.lower(): value for name, value in answer.getheaders()}
                answers.append(Response(answer.status, names, answer.read()))
        finally:
            connection.close()
        return answers
