"""The events of a micro-batch that steps ask for, as columns sorted by identifier set and time."""

import json
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels.json_paths import Ints, Longs
from profilelake.kernels.siphash import from_arrow, to_bytes
from profilelake.semantics.conditions.tree import Path
from profilelake.traits.found import Bools, Coded, Column, Texts
from profilelake.traits.matching import Matching
from profilelake.traits.merging import order_of, ranked

COLUMNS: Final = (
    "set_id", "type", "event", "name", "timestamp", "source_id", "position", "properties", "context",
)  # fmt: skip
"""Columns of `events` that are read."""
_CALLS: Final = {"page": ("Page Viewed", "page_name"), "screen": ("Screen Viewed", "screen_name")}
"""The event that a page or screen call is, and the property that its name is then."""


class Happened:
    """The events of a table with one of some names and an identifier set, until a time.

    They are numbered in the order of their sets and, in a set, of time: `sets` are the distinct sets, `places`
    which of these an event belongs to.
    """

    def __init__(self, table: pa.Table, names: Sequence[str], at: int | None) -> None:
        self._table = table
        self._columns: dict[str, pa.Array] = {}
        named = self._named(names)
        times = self._column("timestamp").cast(pa.int64()).to_numpy()
        set_id = self._column("set_id")
        kept = (named >= 0) & _bools(set_id.is_valid())
        if at is not None:
            kept &= times <= at
        rows = np.flatnonzero(kept)
        self.sets, places = ranked(from_arrow(set_id)[rows])
        order = order_of(times[rows], places)
        self._rows: Longs = rows[order]
        self._names: Ints = named[self._rows]
        self._masks: dict[Hashable, Bools] = {}
        self.times: Longs = times[self._rows]
        self.places: Ints = places[order]

    @cached_property
    def ids(self) -> list[bytes]:
        """The ids of `sets`."""
        return to_bytes(self.sets)

    def of(self, name: int) -> Longs:
        """Return the events of a name, by its place among the names."""
        return np.flatnonzero(self._names == name)

    def behind(self, position: bytes) -> Bools:
        """Return which events lie behind a position."""
        column = self._column("position")
        return self._mask(position, lambda: pc.greater(column, pa.scalar(position, column.type)))

    def from_others(self, sources: tuple[str, ...]) -> Bools:
        """Return which events come from other sources than these."""
        column = self._column("source_id")
        return self._mask(
            sources, lambda: pc.invert(pc.is_in(column, value_set=pa.array(sources, pa.string())))
        )

    def sources(self, events: Longs) -> list[str]:
        """Return the sources of some events."""
        sources: list[str] = self._taken("source_id", events).to_pylist()
        return sources

    def matching(
        self, name: str, events: Longs, paths: Sequence[Path], context_paths: Sequence[Path]
    ) -> Matching:
        """Return what events of a name say at paths."""
        rows = self._rows[events]
        properties = Texts(self._column("properties")).columns(rows, paths) if paths else {}
        context = Texts(self._column("context")).columns(rows, context_paths) if context_paths else {}
        for call, (event, named) in _CALLS.items():
            if event == name:
                self._name_calls(call, named, events, properties)
        return Matching(len(events), properties, context)

    def _name_calls(self, call: str, named: str, events: Longs, properties: dict[Path, Column]) -> None:
        """Let the name of a page or screen be a property of its event, whatever its properties say."""
        asked = [path for path in properties if path[0] == named]
        if not asked:
            return
        calls = _bools(pc.equal(self._taken("type", events), call))
        names = self._taken("name", events).dictionary_encode()
        codes = pc.fill_null(names.indices, -1).to_numpy(zero_copy_only=False)
        texts = [json.dumps(text, ensure_ascii=False) for text in names.dictionary.to_pylist()]
        for path in asked:
            own = Coded(codes if len(path) == 1 else np.full_like(codes, -1), texts)
            properties[path] = properties[path].replaced(calls, own)

    def _mask(self, what: Hashable, made: Callable[[], pa.Array]) -> Bools:
        known = self._masks.get(what)
        if known is None:
            known = self._masks[what] = _bools(made())[self._rows]
        return known

    def _taken(self, column: str, events: Longs) -> pa.Array:
        return self._column(column).take(pa.array(self._rows[events]))

    def _column(self, name: str) -> pa.Array:
        known = self._columns.get(name)
        if known is None:
            column = self._table.column(name)
            known = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
            if pa.types.is_dictionary(known.type) or pa.types.is_large_string(known.type):
                known = known.cast(pa.string())
            self._columns[name] = known
        return known

    def _named(self, names: Sequence[str]) -> Ints:
        """Return the place in `names` of the name of each row, -1 for none of these."""
        types = self._column("type")
        codes = pc.index_in(self._column("event"), value_set=pa.array(names, pa.string()))
        named = np.where(
            _bools(pc.equal(types, "track")), pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), -1
        ).astype(np.int32)
        for call, (name, _) in _CALLS.items():
            if name in names:
                named[_bools(pc.equal(types, call))] = names.index(name)
        return named


def _bools(column: pa.Array) -> Bools:
    mask: Bools = column.to_numpy(zero_copy_only=False)
    return mask
