"""The feed: every announced change in order, read from any process, from a cursor on.

What is older than the retention is gone from here; the table `audience_changes` still has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Self

import msgspec

from profilelake.errors import Invalid, ProfilelakeError
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import COLLECTIONS
from profilelake.semantics.times import format_time
from profilelake.state.computed import ChangeRecord, change_key, decode_change
from profilelake.state.records import ProfileRecord, decode_profile
from profilelake.state.store import Db, Tx

SCAN_MAX: Final = 20_000
"""Changes one look goes through, whether they are asked for or not."""
FLOOR: Final = "feed_floor"
"""Name under which the place of the last change is kept that was removed."""
TOUCHED_FLOOR: Final = "touched_floor"
"""The same for profiles that destinations were to look at again."""
NUMBER_MAX: Final = (1 << 32) - 1
CURSOR_CHARACTERS_MAX: Final = 64
_PROGRESS: Final = "progress"
_START: Final = bytes(12)


class Gone(ProfilelakeError):
    """The changes behind a cursor are not kept any more: take a snapshot, then go on from now."""


class _Reached(msgspec.Struct):
    """How far the state is, as `pipeline.progress` keeps it."""

    epoch: str = ""
    sequence: int = 0
    watermark: int = 0


_decode_reached: Final = msgspec.msgpack.Decoder(_Reached).decode


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the feed: behind the change at `key`, in the life of a state that began with `epoch`.

    It means the same in every process and after every restart; a rebuilt state begins a new epoch.
    """

    epoch: str
    key: bytes = _START

    def text(self) -> str:
        """Return it as clients hand it back."""
        sequence, number = int.from_bytes(self.key[:8], "big"), int.from_bytes(self.key[8:], "big")
        return f"{int(self.epoch or 0):x}-{sequence:x}-{number:x}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the cursor a client handed back. Raises Invalid where it is none."""
        parts = text.split("-") if len(text) <= CURSOR_CHARACTERS_MAX and text.isascii() else []
        try:
            epoch, sequence, number = (int(part, 16) for part in parts)
            return cls(f"{epoch:020d}", change_key(sequence, number))
        except (ValueError, OverflowError):
            raise Invalid(
                "the cursor is not one of ours: give `now`, `start`, or the `cursor` of an answer before"
            ) from None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes are asked for; an empty set asks for all."""

    definitions: frozenset[str] = frozenset()
    collections: frozenset[str] = frozenset()

    def has(self, change: ChangeRecord) -> bool:
        """Tell whether a change is among them."""
        return (not self.definitions or change.definition in self.definitions) and (
            not self.collections or change.collection in self.collections
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Changes with their places, and the cursor behind all that was looked at.

    `drained` says that there was nothing behind it when the page was read.
    """

    changes: Sequence[tuple[bytes, ChangeRecord]]
    cursor: Cursor
    drained: bool


def epoch_of(tx: Tx, workspace: str) -> str:
    """Return which life of the state this is."""
    return _reached(tx, workspace).epoch


def pipeline_time(tx: Tx, workspace: str) -> int:
    """Return the time up to which everything is applied, in microseconds."""
    return _reached(tx, workspace).watermark


def start(tx: Tx, workspace: str) -> Cursor:
    """Return the cursor before the oldest change that is kept."""
    return Cursor(epoch_of(tx, workspace), floor(tx, workspace, FLOOR))


def now(tx: Tx, workspace: str) -> Cursor:
    """Return the cursor behind everything that was announced."""
    reached = _reached(tx, workspace)
    return Cursor(reached.epoch, change_key(reached.sequence, NUMBER_MAX))


def check(tx: Tx, workspace: str, after: Cursor) -> Cursor:
    """Return a cursor behind which everything is still there: the given one.

    One from before the state had anything in it is before everything.

    Raises:
        Gone: something behind it is not there any more.
    """
    reached = _reached(tx, workspace)
    if not int(after.epoch or 0):
        after = Cursor(reached.epoch)
    if after.epoch != reached.epoch:
        raise Gone(
            "reading the feed: the state was built anew since this cursor; read what holds now (the tables"
            " `audience_members` and `computed_traits`, or a resync), then go on with after=now"
        )
    if after.key < floor(tx, workspace, FLOOR):
        raise Gone(
            "reading the feed: changes behind this cursor are older than the retention; read what holds now"
            " (the tables `audience_members` and `computed_traits`, or a resync), then go on with after=now"
        )
    return after


def read(tx: Tx, workspace: str, after: Cursor, wanted: Wanted, most: int, *, scan: int = SCAN_MAX) -> Page:
    """Return the changes behind a cursor that are wanted, at most so many.

    Raises:
        Gone: some of them are not kept any more.
    """
    after = check(tx, workspace, after)
    found: list[tuple[bytes, ChangeRecord]] = []
    place = after.key
    items = (item for item in tx.items(workspace, Db.CHANGE, after.key) if item[0] != after.key)
    looked = 0
    for key, value in islice(items, scan):
        looked += 1
        place = key
        change = decode_change(value)
        if wanted.has(change):
            found.append((key, change))
            if len(found) == most:
                return Page(found, Cursor(after.epoch, place), drained=False)
    return Page(found, Cursor(after.epoch, place), drained=looked < scan)


def people(tx: Tx, workspace: str, profiles: Sequence[bytes]) -> dict[bytes, list[dict[str, str]]]:
    """Return the identifiers of profiles as the feed shows them, in the order of their types and values."""
    records: dict[bytes, ProfileRecord] = tx.decoded(workspace, Db.PROFILE, set(profiles), decode_profile)
    idents = tx.idents(workspace, {ident for record in records.values() for ident, _ in record.idents})
    return {
        key: sorted(
            (
                {"type": idents[ident].type, "id": idents[ident].value}
                for ident, _ in record.idents
                if ident in idents
            ),
            key=lambda one: (one["type"], one["id"]),
        )
        for key, record in records.items()
    }


def document(
    epoch: str, key: bytes, change: ChangeRecord, identifiers: Mapping[bytes, Any] | None = None
) -> dict[str, Any]:
    """Return a change as the feed tells it; with `identifiers` also whose it is."""
    told: dict[str, Any] = {
        "definition": change.definition,
        "kind": change.kind,
        "version": change.version,
        "collection": change.collection,
        "profile_id": profile_id(change.collection, change.profile),
        "value": value_of(change.kind, change.value),
        "previous": value_of(change.kind, change.previous),
        "at": format_time(change.at),
        "cause": change.cause,
        "idempotency_key": change.idempotency_key,
        "cursor": Cursor(epoch, key).text(),
    }
    if identifiers is not None:
        told["external_ids"] = identifiers.get(change.profile, [])
    return told


def value_of(kind: str, value: str | None) -> msgspec.Raw:
    """Return a value as it is told: nobody is a member of nothing, so an audience is true or false."""
    if value is None:
        return msgspec.Raw(b"false" if kind.endswith("audience") else b"null")
    return msgspec.Raw(value.encode())


def profile_id(collection: str, profile: bytes) -> str:
    """Return the public id of a profile."""
    return public_id(COLLECTIONS[0] if collection == COLLECTIONS[0] else COLLECTIONS[1], profile)


def _reached(tx: Tx, workspace: str) -> _Reached:
    held = tx.meta(workspace, _PROGRESS)
    return _Reached() if held is None else _decode_reached(held)


def floor(tx: Tx, workspace: str, name: str) -> bytes:
    """Return the key of the last entry that was removed; what is behind it is all there."""
    held = tx.meta(workspace, name)
    if held is None:
        return _START
    key: bytes = msgspec.msgpack.decode(held, type=bytes)
    return key
