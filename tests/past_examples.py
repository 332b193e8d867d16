"""A desk with a past, and what reads it."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pipeline_driver import KEY, SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.semantics.rules import Collection
from profilelake.serve._past import Past
from profilelake.serve._profile import EVERYTHING, Found, find
from profilelake.serve._request import Query
from profilelake.serve._visible import Allowed
from profilelake.serve.as_of import AsOf, FoundThen, Reading, find_then
from profilelake.serve.event_history import HistoryPage, event_history
from profilelake.serve.trait_history import TraitHistory, trait_history
from profilelake.state.store import Tx
from profilelake.workspaces.scopes import Scope

LOG = "00000000000000aa"


def identify(
    id: str, user: str | None, device: str | None = None, traits: Message | None = None, at: str = "01"
) -> Message:
    return {**_event("identify", id, at), "userId": user, "anonymousId": device, "traits": traits or {}}


def track(id: str, device: str, properties: Message | None = None, at: str = "01", **more: Any) -> Message:
    return {
        **_event("track", id, at),
        "event": "Bought",
        "anonymousId": device,
        "properties": properties or {},
        **more,
    }


def _event(type: str, id: str, at: str) -> Message:
    return {"type": type, "messageId": id, "timestamp": f"2026-02-{at}T00:00:00Z"}


class World:
    """A desk that is fed second by second, and the past as requests read it."""

    def __init__(self, directory: Path) -> None:
        self.desk = Desk(directory)
        self.log = LogBuilder(LOG)
        self.past = Past(
            self.desk._open_lake, lambda _: self.desk.setup.recent_directory, directory / "spill"
        )

    def feed(self, second: int, *messages: Message, source: str = "shop") -> None:
        """Apply messages that are received at that second, as one micro-batch."""
        self.desk.apply([self.log.record(START + second * SECOND, messages, source_id=source)])

    @contextmanager
    def found(self, id: str, collection: Collection = "users", scope: Scope = EVERYTHING) -> Iterator[Found]:
        with self.desk.state.read(WORKSPACE) as tx:
            yield find(tx, WORKSPACE, collection, id, KEY, self.desk.rules(), scope)

    def events(
        self, id: str, query: str = "", *, collection: Collection = "users", allowed: Allowed = None
    ) -> HistoryPage:
        with self.found(id, collection) as found:
            return event_history(found, Query(query.encode()), self.past, allowed)

    def ids(self, id: str, query: str = "", *, collection: Collection = "users") -> list[str]:
        return [event.message_id for event in self.events(id, query, collection=collection).data]

    def all_ids(self, id: str, query: str = "limit=2") -> list[str]:
        """Return the ids of all pages, each asked for with the cursor of the one before."""
        ids: list[str] = []
        following = ""
        while True:
            page = self.events(id, f"{query}&next={following}")
            ids += [event.message_id for event in page.data]
            following = page.cursor.next
            if not following:
                return ids

    def writes(self, id: str, trait: str, query: str = "", *, allowed: Allowed = None) -> TraitHistory:
        with self.found(id) as found:
            return trait_history(found, trait, Query(query.encode()), self.past, allowed)

    @contextmanager
    def found_then(
        self, id: str, second: float, *, rules_now: bool = False, untrusted: frozenset[str] = frozenset()
    ) -> Iterator[FoundThen]:
        with self.desk.state.read(WORKSPACE) as tx:
            yield self.then(tx, id, second, rules_now=rules_now, untrusted=untrusted)

    def then(
        self, tx: Tx, id: str, second: float, *, rules_now: bool, untrusted: frozenset[str]
    ) -> FoundThen:
        reading = Reading(self.past, KEY, self.desk.setup.rules, untrusted)
        as_of = AsOf(START + int(second * SECOND), rules_now)
        return find_then(tx, WORKSPACE, "users", id, as_of, reading)

    def shown_then(self, id: str, second: float, **options: Any) -> tuple[list[str], dict[str, Any]]:
        """Return the identifiers and traits of then."""
        with self.found_then(id, second, **options) as found:
            known = found.tx.idents(WORKSPACE, [key for key, _ in found.record.idents])
            return (
                sorted(f"{record.type}:{record.value}" for record in known.values()),
                {name: json.loads(write.value or "null") for name, write in found.traits().items()},
            )

    def close(self) -> None:
        self.past.close()
        self.desk.close()


@contextmanager
def world(directory: Path) -> Iterator[World]:
    with closing(World(directory)) as made:
        yield made
