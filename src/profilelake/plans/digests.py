"""A digest of a table's rows that every engine computes alike: whether two copies hold the same.

Each row is written as one MessagePack array, its columns in the order of their names and each value in the one
form it has (`canonical`); the row's keyed hash is two numbers of 64 bits. A digest is the sums of these numbers
over all rows, and how many rows there are: neither order nor files matter, and a row counts as often as it is there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.schema import Schema

from profilelake.engines.engine import Engine
from profilelake.errors import Invalid
from profilelake.kernels import siphash
from profilelake.lake.catalog import Lake
from profilelake.lake.pinned import PinnedTable, Shape, Share
from profilelake.lake.sql import identifier
from profilelake.lake.storage import Storage
from profilelake.plans.facts import Read, read_share
from profilelake.state import packed
from profilelake.state.packed import Packed

SHARE_BYTES: Final = 64 << 20
"""Files of a table that one task reads."""
HASHED_ROWS: Final = 1 << 16
"""Rows that are written out together."""
_KEY: Final = b"profilelake rows"
_WORD: Final = 1 << 64
_TEXTS: Final = (pa.types.is_string, pa.types.is_large_string, pa.types.is_decimal)
_BINARIES: Final = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


class Digest(msgspec.Struct, frozen=True):
    """The digest of some rows; those of parts of a table are added."""

    rows: int = 0
    first: int = 0
    second: int = 0

    def __add__(self, other: "Digest") -> "Digest":
        """Return the digest of the rows of both."""
        return Digest(
            self.rows + other.rows, (self.first + other.first) % _WORD, (self.second + other.second) % _WORD
        )

    def __str__(self) -> str:
        """Return it as it is compared."""
        return f"{self.first:016x}{self.second:016x}"


@dataclass(frozen=True)
class TableDigest:
    """The digest of a table, and of which columns."""

    table: str
    columns: tuple[str, ...]
    digest: Digest


def digest_tables(engine: Engine, lake: Lake, workspace: str, names: Sequence[str] = ()) -> list[TableDigest]:
    """Return the digests of these tables, or of all tables of a workspace, as the catalog has them now.

    Raises:
        NotFound: there is no such table.
        Invalid: a column is of a type that has no one form.
        Unavailable: as the engine does.
    """
    pinned = [PinnedTable.of(lake, workspace, name) for name in names or lake.names(workspace)]
    shapes = {table.name: table.shape for table in pinned}
    units = [share for table in pinned for share in table.shares(SHARE_BYTES)]
    answers = engine.each("digest", units, DigestShare(lake.storage, shapes))
    found: dict[str, Digest] = {}
    for share, body in zip(units, answers, strict=True):
        found[share.table] = found.get(share.table, Digest()) + msgspec.msgpack.decode(body, type=Digest)
    return [
        TableDigest(table.name, columns_of(table.shape), found.get(table.name, Digest())) for table in pinned
    ]


def columns_of(shape: Shape) -> tuple[str, ...]:
    """Return the columns that a digest is of, in their order."""
    return tuple(sorted(field.name for field in Schema.model_validate_json(shape.schema).fields))


@dataclass(frozen=True)
class DigestShare:
    """Makes the digest of one share of a table."""

    storage: Storage
    shapes: dict[str, Shape]

    def __call__(self, share: Share) -> bytes:
        """Return it as MessagePack."""
        shapes = {share.table: self.shapes[share.table]}
        query = f"FROM {identifier(share.table)}"
        return msgspec.msgpack.encode(digest(read_share(self.storage, shapes, share, Read("rows", query))))


def digest(parts: Iterable[pa.Table]) -> Digest:
    """Return the digest of rows, however they were read."""
    found = Digest()
    for part in parts:
        for start in range(0, part.num_rows, HASHED_ROWS):
            rows = part.slice(start, HASHED_ROWS).combine_chunks()
            written = packed.record(
                *(canonical(_one(rows.column(name))) for name in sorted(rows.column_names))
            )
            words = siphash.hash_strings(_KEY, b"", written)
            first, second = (int(np.add.reduce(words[:, place])) for place in range(2))
            found += Digest(len(words), first, second)
    return found


def canonical(column: pa.Array) -> Packed:
    """Return values in the one form they have, whichever engine read them; nothing is nil.

    Whole numbers of any width are one, so are times (microseconds since 1970) and dates (days); texts and bytes
    of any offsets; lists and maps of any kind.

    Raises:
        Invalid: the type has no one form here.
    """
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return packed.or_nil(_canonical(column), there)


def _canonical(column: pa.Array) -> Packed:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return canonical(column.dictionary_decode())
    if pa.types.is_struct(kind):
        return packed.record(*(canonical(child) for child in column.flatten()))
    if pa.types.is_map(kind):
        pairs = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _canonical(column.cast(pa.list_(pairs)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        sizes = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return packed.lists(canonical(column.flatten()), np.append(0, np.cumsum(sizes)))
    if any(of(kind) for of in _TEXTS):
        return packed.texts(column.cast(pa.large_string()))
    if any(of(kind) for of in _BINARIES):
        return packed.binaries(column)
    return _number(column)


def _number(column: pa.Array) -> Packed:
    kind = column.type
    if pa.types.is_boolean(kind):
        return packed.booleans(column.fill_null(False).to_numpy(zero_copy_only=False))
    if pa.types.is_floating(kind):
        return packed.decimals(column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False))
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz))
    elif pa.types.is_time(kind):
        column = column.cast(pa.time64("us"))
    elif pa.types.is_date(kind):
        column = column.cast(pa.date32()).cast(pa.int32())
    elif not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise Invalid(f"making a digest: a column is {kind}, which has no one form")
    return packed.integers(column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
