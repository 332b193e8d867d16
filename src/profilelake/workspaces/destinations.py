"""The destinations of a workspace in the control database: what was said of each, and whether it is paused.

What they are sent and how far they are belongs to `activate`. Secrets are not here, only their names.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Final

from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.semantics.destinations import Destination, IdSync, faults

DESTINATIONS_MAX: Final = 100
"""Destinations of one workspace."""
REASON_CHARACTERS_MAX: Final = 500

TABLES: Final = """
CREATE TABLE destinations (
    workspace TEXT NOT NULL REFERENCES workspaces (id),
    name TEXT NOT NULL,
    document TEXT NOT NULL,
    paused TEXT,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (workspace, name)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Held:
    """A destination that holds. `paused` says why nothing is sent, None where it is. Times in microseconds."""

    destination: Destination
    paused: str | None
    created_at: int
    changed_at: int

    @property
    def active(self) -> bool:
        """Whether anything is sent there."""
        return self.destination.enabled and self.paused is None


class Destinations:
    """Reads and changes the destinations of one workspace, in transactions of the control database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
        workspace: str,
    ) -> None:
        self._connection = connection
        self._transaction = transaction
        self._workspace = workspace

    def all(self) -> list[Held]:
        """Return all destinations by name."""
        return read_destinations(self._connection, self._workspace)

    def one(self, name: str) -> Held:
        """Return one destination. Raises NotFound."""
        for held in self.all():
            if held.destination.name == name:
                return held
        raise NotFound(
            f"looking for destination {name[:80]!r}: there is none; list the destinations to see all"
        )

    def put(self, destination: Destination, *, now: int) -> Held:
        """Let a destination hold, in place of what holds under its name.

        Raises:
            Invalid: it cannot be used.
            Conflict: another file, or the API, says what this destination is; or there are too many.
        """
        found = [f"{field}: {fault}" for field, fault in faults(destination)]
        if found:
            raise Invalid(f"destination {destination.name[:80]!r}: {'; '.join(found)}")
        with self._transaction() as connection:
            before = {held.destination.name: held for held in self.all()}
            known = before.get(destination.name)
            if known is None and len(before) >= DESTINATIONS_MAX:
                raise Conflict(f"adding a destination: there are {len(before)}, the most there may be")
            if known is not None and known.destination.managed_by != destination.managed_by:
                owner = known.destination.managed_by or "the API"
                raise Conflict(
                    f"changing destination {destination.name!r}: {owner} says what it is; change it there"
                )
            if known is None or known.destination != destination:
                connection.execute(
                    "INSERT INTO destinations VALUES (?1, ?2, ?3, NULL, ?4, ?4) ON CONFLICT (workspace, name)"
                    " DO UPDATE SET document = excluded.document, changed_at = excluded.changed_at",
                    (self._workspace, destination.name, json.dumps(asdict(destination)), now),
                )
            return self.one(destination.name)

    def remove(self, name: str) -> None:
        """Have nothing sent there any more; how far it was is forgotten. Raises NotFound."""
        with self._transaction() as connection:
            self.one(name)
            connection.execute(
                "DELETE FROM destinations WHERE workspace = ? AND name = ?", (self._workspace, name)
            )

    def replace_file(self, file: str, destinations: list[Destination], *, now: int) -> dict[str, list[str]]:
        """Let what a file says hold, and drop what it said before; return names by what became of them.

        Raises: as `put`.
        """
        told: dict[str, list[str]] = {"added": [], "changed": [], "removed": [], "unchanged": []}
        with self._transaction():
            before = {held.destination.name: held.destination for held in self.all()}
            for one in destinations:
                known = before.get(one.name)
                self.put(one, now=now)
                told["added" if known is None else "unchanged" if known == one else "changed"].append(
                    one.name
                )
            names = {one.name for one in destinations}
            for name, known in before.items():
                if known.managed_by == file and name not in names:
                    self.remove(name)
                    told["removed"].append(name)
        return told

    def pause(self, name: str, reason: str, *, now: int) -> Held:
        """Send nothing there until it is resumed; what is to be told waits. Raises NotFound."""
        return self._set_paused(name, reason[:REASON_CHARACTERS_MAX], now)

    def resume(self, name: str, *, now: int) -> Held:
        """Go on sending where it was paused. Raises NotFound."""
        return self._set_paused(name, None, now)

    def _set_paused(self, name: str, reason: str | None, now: int) -> Held:
        with self._transaction() as connection:
            self.one(name)
            connection.execute(
                "UPDATE destinations SET paused = ?, changed_at = ? WHERE workspace = ? AND name = ?",
                (reason, now, self._workspace, name),
            )
            return self.one(name)


def read_destinations(connection: sqlite3.Connection, workspace: str) -> list[Held]:
    """Return the destinations of a workspace by name."""
    return [
        Held(_destination(json.loads(document)), paused, created_at, changed_at)
        for document, paused, created_at, changed_at in connection.execute(
            "SELECT document, paused, created_at, changed_at FROM destinations WHERE workspace = ? ORDER BY name",
            (workspace,),
        )
    ]


def _destination(document: dict[str, Any]) -> Destination:
    for field in ("definitions", "consent", "send", "traits"):
        document[field] = tuple(document[field])
    for field in ("headers", "integrations"):
        document[field] = tuple((name, value) for name, value in document[field])
    document["ids"] = tuple(IdSync(**one) for one in document["ids"])
    return Destination(**document)
