"""What changed, written down once: in the feed, for the journal, as marks for the tables.

Whoever finds that a profile is worth something else than before, live or by SQL, says it here, in the
transaction that makes it so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import pyarrow as pa

from profilelake.audiences.loading import AUDIENCES
from profilelake.audiences.tables import AUDIENCE_CHANGES
from profilelake.identity.publish import public_ids
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import COLLECTIONS
from profilelake.state import outbox
from profilelake.state.computed import ChangeRecord, ComputedRecord, ValueRecord, change_key
from profilelake.state.records import encode
from profilelake.state.store import Db, Tx
from profilelake.state.working import Dirty

MARK_NUMBER_BYTES: Final = 4


class Announcing:
    """The changes of one micro-batch, in the order in which they are said."""

    def __init__(self, tx: Tx, workspace: str, sequence: int, at: int) -> None:
        self._tx = tx
        self._workspace = workspace
        self._sequence = sequence
        self._at = at
        self._changes: list[ChangeRecord] = []
        self._marks: dict[bytes, bytes] = {}
        self.members: Counter[int] = Counter()
        """By number of the definition, how many more profiles have a value; fewer where negative."""

    @property
    def count(self) -> int:
        """How many changes were said so far."""
        return len(self._changes)

    def change(
        self,
        record: ComputedRecord,
        *,
        number: int,
        definition: str,
        kind: str,
        version: int,
        collection: str,
        profile: bytes,
        value: str | None,
        told: str | None,
        cause: str,
        position: bytes,
    ) -> None:
        """Let a profile be worth `value` from now on, in `record` too, and announce it as `told`.

        That is the value, but for a count that has come down to 0, which is nothing and told as 0.
        """
        before = record.values.get(number)
        if value is None:
            record.values.pop(number, None)
        else:
            record.values[number] = ValueRecord(value, self._at, version)
        self.members[number] += (value is not None) - (before is not None)
        place = (Dirty.MEMBER if kind in AUDIENCES else Dirty.VALUE).encode() + value_mark(profile, number)
        self._marks[place] = self._sequence.to_bytes(8, "big")
        self.say(
            definition=definition,
            kind=kind,
            version=version,
            collection=collection,
            profile=profile,
            value=told,
            previous=None if before is None else before.value,
            cause=cause,
            position=position,
        )

    def say(
        self,
        *,
        definition: str,
        kind: str,
        version: int,
        collection: str,
        profile: bytes,
        value: str | None,
        previous: str | None,
        cause: str,
        position: bytes,
    ) -> None:
        """Announce what a profile is worth, changed or not."""
        self._changes.append(
            ChangeRecord(
                definition,
                kind,
                version,
                collection,
                profile,
                value,
                previous,
                self._at,
                cause,
                position,
                idempotency_key(definition, version, profile, value, position),
            )
        )

    def flush(self) -> None:
        """Put all that was said into the transaction."""
        if not self._changes:
            return
        tx, workspace = self._tx, self._workspace
        tx.put_many(workspace, Db.DIRTY, list(self._marks.items()))
        tx.put_many(
            workspace,
            Db.CHANGE,
            [(change_key(self._sequence, n), encode(change)) for n, change in enumerate(self._changes)],
        )
        key = outbox.key_of(self._sequence, AUDIENCE_CHANGES.name)
        tx.put(workspace, Db.OUTBOX, key, outbox.pack(change_rows(self._changes, self._sequence)))


def value_mark(profile: bytes, number: int) -> bytes:
    """Return under what the value of a profile is marked as not published."""
    return profile + number.to_bytes(MARK_NUMBER_BYTES, "big")


def idempotency_key(definition: str, version: int, profile: bytes, value: str | None, position: bytes) -> str:
    """Return a name of a change that is the same however often it is told."""
    key = definition.encode()
    said = (
        profile,
        position.ljust(POSITION_BYTES, b"\0"),
        version.to_bytes(8, "big"),
        len(key).to_bytes(4, "big"),
        key,
        (value or "").encode(),  # no value is JSON of no characters
    )
    return blake2b(b"".join(said), digest_size=16, person=b"change").hexdigest()


def timer_position(due: int, profile: bytes) -> bytes:
    """Return the position of a change that time brought: when it was due, and whose it is."""
    return (due.to_bytes(8, "big") + profile).ljust(POSITION_BYTES, b"\0")


def change_rows(changes: Sequence[ChangeRecord], sequence: int) -> pa.Table:
    """Return the changes of a micro-batch as rows of `audience_changes`."""
    schema = AUDIENCE_CHANGES.schema()
    numbers = [COLLECTIONS.index(change.collection) for change in changes]
    columns: Mapping[str, object] = {
        "sequence": [sequence] * len(changes),
        "number": list(range(len(changes))),
        "changed_at": [change.at for change in changes],
        "profile_id": public_ids(numbers, [change.profile for change in changes]),
        "position": [change.position or None for change in changes],
        **{
            name: [getattr(change, name) for change in changes]
            for name in (
                "definition",
                "kind",
                "version",
                "collection",
                "value",
                "previous",
                "cause",
                "idempotency_key",
            )
        },
    }
    arrays = [
        values if isinstance(values := columns[field.name], pa.Array) else pa.array(values, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)
