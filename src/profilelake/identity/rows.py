"""The rows that resolving a micro-batch adds to append-only tables of identity."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.identity.facts import Fact, encode
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTITY_FACTS, IDENTITY_UPDATES, TIME
from profilelake.kernels.siphash import HASH_BYTES
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import Collection
from profilelake.state.records import NOBODY, received_at

SHOWN_IDS_MAX: Final = 100_000
"""Public ids kept at hand: the same profiles are written again and again."""


class Sighting(msgspec.Struct, frozen=True, gc=False):
    """One event that showed a set."""

    position: bytes
    message_id: str
    source_id: str


Update: TypeAlias = tuple[Collection, bytes, bytes, bytes, str, bytes, Sighting]
"""Collection, identifier, profile before and after, cause, evidence set and its sighting."""


class IdentityRows:
    """Rows that a micro-batch adds to append-only identity tables.

    `updates` are the changes of ownership in the order in which they happened. `replayed` says that
    components were resolved again, so that there may be more changes than these tell.
    """

    def __init__(self, rule_version: int, sequence: int) -> None:
        """Gather the rows of micro-batch `sequence`, resolved under that version of the rules."""
        self._rule_version = rule_version
        self._sequence = sequence
        self._sets: list[pa.Table] = []
        self.updates: list[Update] = []
        self.replayed = False
        self._facts: list[tuple[bytes, Fact]] = []

    def add_sets(
        self,
        collection: Collection,
        keys: list[bytes],
        firsts: list[Sighting],
        offsets: npt.NDArray[np.int64],
        types: pa.Array,
        idents: bytes,
    ) -> None:
        """Add sets that became known; the identifiers of set s are `offsets[s]` to `offsets[s + 1]`."""
        schema = IDENTIFIER_SETS.schema()
        listed = schema.field("identifiers").type
        members = pa.StructArray.from_arrays(
            [types, _fixed(idents, HASH_BYTES)], fields=list(listed.value_type)
        )
        position, at, message_id, source_id = _sighting_columns(firsts)
        columns = (
            _fixed(b"".join(keys), HASH_BYTES),
            pa.repeat(pa.scalar(collection), len(keys)),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), members, type=listed),
            position,
            at,
            message_id,
            source_id,
        )
        self._sets.append(_table(schema, columns))

    def add_update(
        self,
        collection: Collection,
        ident: bytes,
        before: bytes,
        after: bytes,
        cause: str,
        evidence: bytes,
        first: Sighting,
    ) -> None:
        """Add a change of ownership that a set, at its first sighting, is the evidence of."""
        self.updates.append((collection, ident, before, after, cause, evidence, first))

    def add_fact(self, position: bytes, fact: Fact) -> None:
        """Add a decision of somebody."""
        self._facts.append((position, fact))

    def identity_facts(self) -> pa.Table:
        """Return the decisions, each with who made it."""
        schema = IDENTITY_FACTS.schema()
        if not self._facts:
            return schema.empty_table()
        columns = (
            [position for position, _ in self._facts],
            pa.array([received_at(position) for position, _ in self._facts], pa.int64()).cast(TIME),
            [fact.__struct_config__.tag for _, fact in self._facts],
            [fact.by for _, fact in self._facts],
            [fact.note or None for _, fact in self._facts],
            [encode(fact).decode() for _, fact in self._facts],
        )
        return _table(schema, columns)

    def identifier_sets(self) -> pa.Table:
        """Return the sets that became known."""
        return pa.concat_tables([IDENTIFIER_SETS.schema().empty_table(), *self._sets])

    def identity_updates(self) -> pa.Table:
        """Return the changes of ownership, in the order in which they happened."""
        schema = IDENTITY_UPDATES.schema()
        if not self.updates:
            return schema.empty_table()
        collections, idents, befores, afters, causes, keys, firsts = zip(*self.updates, strict=True)
        position, at, message_id, source_id = _sighting_columns(firsts)
        columns = (
            at,
            _fixed(b"".join(idents), HASH_BYTES),
            collections,
            list(map(shown, collections, befores)),
            list(map(shown, collections, afters)),
            causes,
            _fixed(b"".join(keys), HASH_BYTES),
            message_id,
            source_id,
            pa.repeat(pa.scalar(self._rule_version, pa.int32()), len(keys)),
            position,
            pa.repeat(pa.scalar(self._sequence, pa.int64()), len(keys)),
        )
        return _table(schema, columns)


def _table(schema: pa.Schema, columns: Iterable[pa.Array | Sequence[Any]]) -> pa.Table:
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for values, field in zip(columns, schema, strict=True)
    ]
    return pa.table(arrays, schema=schema)


def _fixed(joined: bytes, width: int) -> pa.Array:
    """Return values of one width that stand one after the other as a column."""
    return pa.Array.from_buffers(pa.binary(width), len(joined) // width, [None, pa.py_buffer(joined)])


def _sighting_columns(firsts: Sequence[Sighting]) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
    """Return positions, times of receipt, message ids and sources."""
    joined = b"".join([first.position for first in firsts])
    # The first eight bytes of a position are its time, as `received_at` reads it.
    times = np.frombuffer(joined, dtype=">i8").reshape(len(firsts), -1)[:, 0].astype(np.int64)
    return (
        _fixed(joined, POSITION_BYTES),
        pa.array(times).cast(TIME),
        pa.array([first.message_id for first in firsts], pa.string()),
        pa.array([first.source_id for first in firsts], pa.string()),
    )


@lru_cache(maxsize=SHOWN_IDS_MAX)
def shown(collection: Collection, profile: bytes) -> str | None:
    """Return the public id of a profile key, None for nobody."""
    return None if profile == NOBODY else public_id(collection, profile)
