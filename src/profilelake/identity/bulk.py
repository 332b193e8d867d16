"""Identity of a whole history at once, larger than memory: sets stream through, the mapping streams out.

What stays in memory is numbers: about 50 bytes per identifier (decision 9 says of what), and no
text. The answer is that of `semantics.identity`. `BulkResolver` takes columns piece by piece, `resolve_files`
reads them from Parquet, and `BulkMapping.parts` gives the rows of `identity_map` in bounded pieces.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Invalid
from profilelake.identity.problem import Column, SetColumns, clean, is_among, rules_by_strength
from profilelake.identity.set_files import read_sets
from profilelake.identity.tables import IDENTITY_MAP
from profilelake.kernels import identity_stream, siphash
from profilelake.kernels.base62 import base62
from profilelake.kernels.growing import Growing
from profilelake.kernels.hashed import Components, Numbering
from profilelake.kernels.identity import NO_LIMIT, Int32s, Int64s
from profilelake.kernels.identity_stream import IdentityStream, Piece, order_members
from profilelake.kernels.slots import SLOT_BITS, by_slot, slots_of
from profilelake.lake.schema import BUCKETS
from profilelake.semantics import identity
from profilelake.semantics.identifiers import PREFIX, set_prefix
from profilelake.semantics.rules import Collection, IdentityRules

PART_ROWS: Final = 1 << 21
"""Rows of `identity_map` made at a time, and so of one file."""
BUCKET_BITS: Final = (BUCKETS - 1).bit_length()
"""No part reaches over a bucket of the table."""
PARTS_MAX: Final = 255
"""Parts of components: one byte per set says which."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a bulk resolution took in and decided. `profiles` are those that live at the end."""

    sets: int = 0
    members: int = 0
    identifiers: int = 0
    owned: int = 0
    founded: int = 0
    profiles: int = 0
    merges: int = 0
    refusals: int = 0


class BulkResolver:
    """Takes distinct sets (repeats do no harm) in order of position, then says who is who."""

    def __init__(
        self,
        rules: IdentityRules,
        key: bytes,
        collection: Collection = "users",
        *,
        unlinks: siphash.Words | None = None,
        quarantined: siphash.Words | None = None,
    ) -> None:
        """Begin with nobody, under `rules` and the workspace's `key`.

        `unlinks` are pairs of identifier ids in consecutive rows, `quarantined` ids that link nobody.

        Raises:
            Invalid: the rules cannot hold.
        """
        identity.check(rules)
        self._rules, self._key, self._collection = rules, key, collection
        by_strength = rules_by_strength(rules, collection)
        self._types = pa.array([rule.type for rule in by_strength], pa.large_string())
        self._numbering = Numbering()
        # Known before the stream begins: what is quarantined has the lowest numbers, what is unlinked
        # the next, and gets its type when it is met.
        self._number(quarantined)
        self._quarantined = self._numbering.count
        paired = self._number(unlinks).reshape(-1, 2)
        self._awaited = self._numbering.count
        windows = [(rule.window_seconds or 0) * 1_000_000 for rule in by_strength]
        self._stream = IdentityStream(
            identity_stream.Rules(
                type_limit=np.array(
                    [NO_LIMIT if rule.limit is None else rule.limit for rule in by_strength], dtype=np.int32
                ),
                type_window=np.array(windows, dtype=np.int64),
                lowest_priority=rules.demotion == "lowest_priority",
                identifiers_max=rules.identifiers_max,
                merges_max=rules.merges_max,
            ),
            paired,
        )
        self._stream.meet(np.full(self._awaited, -1, dtype=np.int8))
        self._timed = any(windows)
        self._founding = Growing(np.uint64, 2)
        self._sets = self._members = self._merges = self._refusals = 0

    def add(self, sets: SetColumns) -> None:
        """Process the next sets.

        Raises:
            Invalid: more identifiers or profiles than one resolution can hold.
        """
        codes = self._codes(sets.types)
        rows = np.flatnonzero(codes >= 0)
        numbers, first = self._numbering.numbers(sets.ident_ids, rows)
        self._meet(sets, rows, numbers, first)
        data, starts = _text(sets.values)
        offsets, members = order_members(sets.offsets, rows, numbers, self._stream.types(), data, starts)
        times = sets.received_at if self._timed else np.empty(0, dtype=np.int64)
        piece = self._stream.take(offsets, members, times)
        self._remember(sets, piece)
        self._sets += len(sets.offsets) - 1
        self._members += len(members)
        self._merges += piece.merges
        self._refusals += piece.refusals

    def finish(self) -> "BulkMapping":
        """Return who is who. The resolver is spent: most of its memory is given back."""
        identifiers, founded = self._numbering.count, self._stream.profiles
        ident_ids, profile = self._numbering.give_up(), self._stream.finish()
        alive, owned = self._stream.living(), int((profile >= 0).sum())
        del self._stream
        totals = Totals(
            sets=self._sets,
            members=self._members,
            identifiers=identifiers,
            owned=owned,
            founded=founded,
            profiles=alive,
            merges=self._merges,
            refusals=self._refusals,
        )
        return BulkMapping(self._collection, ident_ids, profile, self._founding.array[:founded], totals)

    def bytes(self) -> int:
        """Return how much memory the state takes."""
        return self._numbering.bytes() + self._stream.bytes() + self._founding.array.nbytes

    def _number(self, ids: siphash.Words | None) -> Int32s:
        if ids is None or not len(ids):
            return np.empty(0, dtype=np.int32)
        return self._numbering.numbers(ids, np.arange(len(ids)))[0]

    def _codes(self, types: Column) -> Int32s:
        """Return the strength of each row's type, -1 where no rule knows it."""
        if isinstance(types, pa.ChunkedArray):
            types = types.combine_chunks()
        if not pa.types.is_dictionary(types.type):
            types = types.dictionary_encode()
        names = pc.cast(types.dictionary, pa.large_string())
        places = pc.fill_null(pc.index_in(names, value_set=self._types), -1)
        of_names = np.append(np.asarray(places, dtype=np.int32), np.int32(-1))
        return of_names[np.asarray(pc.fill_null(types.indices, -1), dtype=np.int64)]

    def _meet(self, sets: SetColumns, rows: Int64s, numbers: Int32s, first: Int64s) -> None:
        """Say of which type the new identifiers are, or that they are blocked: once for each."""
        self._stream.meet(self._linking(sets, first))
        if self._awaited > self._quarantined:
            places = np.flatnonzero((numbers < self._awaited) & (numbers >= self._quarantined))
            if len(places):
                types = self._linking(sets, rows[places])
                self._stream.types()[numbers[places]] = types

    def _linking(self, sets: SetColumns, rows: Int64s) -> identity_stream.Codes:
        chosen = pa.array(rows)
        cleaned = clean(sets.types.take(chosen), sets.values.take(chosen), self._rules, self._collection)
        return np.where(cleaned.links, cleaned.type_code, -1).astype(np.int8)

    def _remember(self, sets: SetColumns, piece: Piece) -> None:
        """Keep the ids of the sets that founded a profile."""
        start, stop = sets.offsets[piece.founding_set], sets.offsets[piece.founding_set + 1]
        offsets = np.concatenate([[0], np.cumsum(stop - start)])
        rows = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
        ids = siphash.set_ids(self._key, set_prefix(self._collection), sets.ident_ids[rows], offsets)
        self._founding.reserve(piece.founded_before + len(ids))
        self._founding.array[piece.founded_before : piece.founded_before + len(ids)] = ids


@dataclass(frozen=True, slots=True)
class BulkMapping:
    """Who is who: for each identifier its profile's number (-1: nobody's), for each profile its founding set."""

    collection: Collection
    ident_ids: siphash.Words
    profile: Int32s
    founding: siphash.Words
    totals: Totals

    def parts(self, rows_max: int = PART_ROWS) -> Iterator[pa.Table]:
        """Yield the rows of `identity_map` in the order of their ids, about `rows_max` at a time."""
        bits = min(SLOT_BITS, max(BUCKET_BITS, (self.totals.owned // max(1, rows_max)).bit_length()))
        owned, starts = by_slot(self.ident_ids, self.profile, bits)
        for part in range(len(starts) - 1):
            chosen = owned[starts[part] : starts[part + 1]]
            if len(chosen):
                yield self._rows(chosen)

    def _rows(self, chosen: Int32s) -> pa.Table:
        words = self.ident_ids[chosen]
        high, low = words[:, 0].byteswap(), words[:, 1].byteswap()
        order = np.argsort(high)
        ranked = high[order]
        if (ranked[1:] == ranked[:-1]).any():
            order = np.lexsort((low, high))
        words, chosen = words[order], chosen[order]
        rows = len(chosen)
        return pa.table(
            [
                siphash.to_arrow(words),
                pa.repeat(pa.scalar(self.collection, pa.string()), rows),
                public_ids(self.collection, self.founding[self.profile[chosen]]),
                pa.array(slots_of(words)),
            ],
            schema=IDENTITY_MAP.schema(),
        )


def public_ids(collection: Collection, founding: siphash.Words) -> pa.StringArray:
    """Return the ids users see of profiles founded by these sets."""
    prefix = np.frombuffer(PREFIX[collection].encode(), dtype=np.uint8)
    digits = base62(np.ascontiguousarray(founding).view(np.uint8).reshape(-1, siphash.HASH_BYTES))
    text = np.empty((len(founding), len(prefix) + digits.shape[1]), dtype=np.uint8)
    text[:, : len(prefix)] = prefix
    text[:, len(prefix) :] = digits
    ends = np.arange(len(founding) + 1, dtype=np.int32) * np.int32(text.shape[1])
    return pa.StringArray.from_buffers(len(founding), pa.py_buffer(ends), pa.py_buffer(text))


def resolve_files(
    paths: Sequence[Path],
    rules: IdentityRules,
    key: bytes,
    collection: Collection = "users",
    *,
    unlinks: siphash.Words | None = None,
    quarantined: siphash.Words | None = None,
) -> BulkMapping:
    """Resolve the sets in Parquet files, one after the other.

    `set_files` says what the files look like.

    Raises:
        Invalid: a position does not follow the one before it, or a column is missing.
    """
    resolver = BulkResolver(rules, key, collection, unlinks=unlinks, quarantined=quarantined)
    for sets in read_sets(paths, rules, key, collection):
        resolver.add(sets)
    return resolver.finish()


def resolve_by_component(
    paths: Sequence[Path],
    rules: IdentityRules,
    key: bytes,
    collection: Collection = "users",
    *,
    parts: int,
    identifiers_max: int,
    unlinks: siphash.Words | None = None,
    quarantined: siphash.Words | None = None,
) -> Iterator[BulkMapping]:
    """Do what `resolve_files` does in `parts` parts that have no identifier in common, one after the other.

    For more identifiers than one resolution can hold: memory is first that of `Components` for
    `identifiers_max`, then a byte per set and the state of one part. The files are read `parts` + 2
    times. Components are whole in their part, so one that holds a fifth of all sets makes a part of that size.

    Raises:
        Invalid: as for `resolve_files`; or there are more identifiers than `identifiers_max`.
    """
    if not 1 <= parts <= PARTS_MAX:
        raise Invalid(f"resolving by component: {parts} parts; give 1 to {PARTS_MAX}")
    part_of_set = _divided(paths, rules, key, collection, parts, identifiers_max, quarantined)
    for part in range(parts):
        resolver = BulkResolver(rules, key, collection, unlinks=unlinks, quarantined=quarantined)
        for sets in read_sets(paths, rules, key, collection, part_of_set == part):
            resolver.add(sets)
        yield resolver.finish()


def _divided(
    paths: Sequence[Path],
    rules: IdentityRules,
    key: bytes,
    collection: Collection,
    parts: int,
    identifiers_max: int,
    quarantined: siphash.Words | None,
) -> npt.NDArray[np.uint8]:
    """Return the part of each set: sets that share an identifier that may link are in one part."""

    def linking() -> Iterator[tuple[siphash.Words, Int64s]]:
        for sets in read_sets(paths, rules, key, collection):
            links = clean(sets.types, sets.values, rules, collection).links
            if quarantined is not None and len(quarantined):
                links &= ~is_among(sets.ident_ids, quarantined)
            kept = np.flatnonzero(links)
            yield sets.ident_ids[kept], np.searchsorted(kept, sets.offsets).astype(np.int64)

    components = Components(identifiers_max)
    for ids, offsets in linking():
        components.unite(ids, offsets)
    found = [np.empty(0, dtype=np.uint8)]
    for ids, offsets in linking():
        # A set that links nothing may be anywhere.
        part = np.zeros(len(offsets) - 1, dtype=np.uint8)
        full = np.flatnonzero(offsets[:-1] < offsets[1:])
        part[full] = components.roots(ids[offsets[full]]) % parts
        found.append(part)
    return np.concatenate(found)


def _text(values: Column) -> tuple[npt.NDArray[np.uint8], Int64s]:
    """Return the bytes of a column of text, and where each value starts (one more at the end)."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    values = pc.cast(values, pa.large_binary())
    if not len(values):
        return np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    _, offsets, data = values.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[values.offset : values.offset + len(values) + 1]
    return np.empty(0, dtype=np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8), starts
