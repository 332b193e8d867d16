"""The shapes of a workspace's events: told from columns of events, kept as numbers, shown as rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from profilelake.identity.publish import change_rows
from profilelake.kernels import json_shapes as kernel
from profilelake.kernels._compiled import read_only
from profilelake.semantics import json_text
from profilelake.semantics.shapes import (
    DEPTH_MAX,
    JSON_TYPES,
    PARTS,
    UNLISTED,
    JsonType,
    ShapePart,
    join_path,
    split_path,
)
from profilelake.semantics.snake_case import column_name
from profilelake.shapes.examples import example
from profilelake.shapes.tables import SCHEMA, TIME

COLUMNS: Final = ("received_at", "type", "event", *PARTS)
"""Columns of events that shapes are told from."""
POSITION: Final = "position"
LOCATED: Final = SCHEMA.schema().append(pa.field(POSITION, pa.binary()))
"""Rows of the table, and where the first event of each stands."""
NEW_MAX: Final = 1_024
"""New shapes that are described together."""
TYPES_ROOM: Final = 16
"""Groups beyond the limit: two per type of event, for those without a name and for the names not listed."""

_Numbers = npt.NDArray[np.int64]
_SLOTS_AT_START: Final = 1 << 12
_NO_BYTES: Final = read_only(np.zeros(0, dtype=np.uint8), np.uint8)
_NO_TEXT: Final = read_only(np.zeros(1, dtype=np.int32), np.int32)
_KEY_END: Final = bytes([kernel.KEY_END])
_KEY: Final = ("type", "event", "part", "path", "json_type")
_DESCRIBED: Final = ("schema_id", *_KEY, "example", "column_name", "slot")


@dataclass(frozen=True, slots=True)
class ShapeLimits:
    """How much is listed. What is beyond is counted in a row whose path (or event) is `…`, and stored as ever."""

    shapes_max: int = 200_000
    """Of a workspace."""
    shapes_per_part_max: int = 12_000
    """Of one part of the events of one name."""
    events_max: int = 2_000
    """Types and names of events."""
    event_bytes_max: int = 512
    """Of the name of an event."""


class Shapes:
    """Counts the shapes of events. Not thread-safe. `seed` is a secret of this process: its hashes are 64 bits."""

    def __init__(self, seed: int, limits: ShapeLimits | None = None) -> None:
        """Know nothing yet."""
        self.limits = limits = limits or ShapeLimits()
        cursor = np.zeros(kernel.CURSORS, dtype=np.int64)
        cursor[kernel.SEED] = seed & ((1 << 63) - 1)
        cursor[kernel.SHAPES_MAX] = limits.shapes_max
        cursor[kernel.PER_PART_MAX] = limits.shapes_per_part_max
        cursor[kernel.GROUPS_MAX] = limits.events_max
        cursor[kernel.NAME_BYTES_MAX] = limits.event_bytes_max
        cursor[kernel.ROWS] = 1  # row 0 is no event
        groups = limits.events_max + TYPES_ROOM
        slots = 1 << (4 * groups).bit_length()
        self._known = kernel.Known(
            cursor=cursor,
            keys=np.zeros(_SLOTS_AT_START, dtype=np.uint64),
            numbers=np.zeros(_SLOTS_AT_START, dtype=np.int32),
            counts=np.zeros(_SLOTS_AT_START // 2, dtype=kernel.COUNT),
            group_keys=np.zeros(slots, dtype=np.uint64),
            group_numbers=np.zeros(slots, dtype=np.int32),
            group_rows=np.zeros(groups, dtype=np.int64),
            per_place=np.zeros(kernel.PARTS * groups, dtype=np.int64),
            new=np.zeros(NEW_MAX, dtype=kernel.NEW),
            spans=np.zeros(2 * DEPTH_MAX * NEW_MAX, dtype=np.int64),
            stack=np.zeros(DEPTH_MAX + 1, dtype=np.uint64),
            path=np.zeros(2 * (DEPTH_MAX + 1), dtype=np.int64),
        )
        self._groups: list[tuple[str, str | None]] = []
        self._described: list[pa.Table] = [_table([])]
        self._numbers: dict[str, int] = {}
        self._unlisted: list[int] = []
        self._again: list[int] = []
        self._firsts: list[bytes] = []
        self._shown = 1
        self._shapes_shown = 0

    @property
    def count(self) -> int:
        """How many shapes there are."""
        return len(self._numbers)

    @property
    def unlisted_events(self) -> int:
        """In how many events something is not listed, counted per row that says so."""
        return int(self._counts()["events"][self._unlisted].sum())

    @property
    def full(self) -> bool:
        """Whether a limit is reached: what else is sent may not be listed, and so matters in which order."""
        cursor, limits = self._known.cursor, self.limits
        return bool(
            cursor[kernel.SHAPES] >= limits.shapes_max
            or cursor[kernel.GROUPS] >= limits.events_max
            or self._known.per_place.max() >= limits.shapes_per_part_max
        )

    @property
    def groups(self) -> list[tuple[str, str | None]]:
        """Types and names of events, each with at least one event."""
        return self._groups

    def observe(self, events: pa.Table) -> None:
        """Count the shapes of events, which have the columns `COLUMNS`; with `position` too, `located` knows it."""
        located = POSITION in events.column_names
        for batch in events.select([*COLUMNS, POSITION] if located else COLUMNS).to_batches():
            types, names, *parts = [_texts(batch.column(name)) for name in COLUMNS[1:]]
            context, properties, traits = parts
            times = read_only(batch.column("received_at").view(pa.int64()).to_numpy(), np.int64)
            row = 0
            while row < batch.num_rows:
                self._make_room()
                row = kernel.observe(self._known, types, names, context, properties, traits, times, row)
                self._describe(batch, parts)
            self._known.cursor[kernel.ROWS] += batch.num_rows

    def load(self, rows: pa.Table) -> None:
        """Go on from the rows of the table; nothing may have been observed before."""
        shown = list(zip(*(rows.column(name).to_pylist() for name in _KEY), strict=True))
        self._load_groups(list(dict.fromkeys((type, event) for type, event, *_ in shown)))
        number = {group: place for place, group in enumerate(self._groups)}
        self._make_room(rows.num_rows)
        keys, places, kinds, depths = [], [], [], []
        for at, (type, event, part, path, json_type) in enumerate(shown):
            listed = path != UNLISTED
            keys.append(b"".join([_raw(key) + _KEY_END for key in split_path(path)]) if listed else b"")
            places.append(kernel.PARTS * number[type, event] + PARTS.index(part))
            kinds.append(JSON_TYPES.index(json_type))
            depths.append(int(listed))
            if not listed or event == UNLISTED:
                self._unlisted.append(at)
        kernel.enter_shapes(
            self._known,
            _texts(pa.array(keys, pa.binary())),
            *(np.array(numbers, dtype=np.int64) for numbers in (places, kinds, depths)),
        )
        counts = self._counts()
        counts["events"] = rows.column("events").to_numpy()
        counts["first"] = rows.column("first_seen_at").cast(pa.int64()).to_numpy()
        counts["last"] = rows.column("last_seen_at").cast(pa.int64()).to_numpy()
        self._described = [rows.select(_DESCRIBED)]
        self._numbers = {id: at for at, id in enumerate(rows.column("schema_id").to_pylist())}
        self._shapes_shown = rows.num_rows

    def changed(self) -> tuple[int, int]:
        """Return how many shapes are new, and how many have other counts, since `mark_shown`."""
        changed = len(self._changed())
        new = int(self._known.cursor[kernel.SHAPES]) - self._shapes_shown
        return new, changed - new

    def changes(self, sequence: int) -> pa.Table:
        """Return what has changed since `mark_shown` as changes of the table."""
        rows = self._rows(self._changed())
        return change_rows(SCHEMA, sequence, [column.combine_chunks() for column in rows.columns])

    def mark_shown(self) -> None:
        """Say that the table shows all there is."""
        self._shown = int(self._known.cursor[kernel.ROWS])
        self._shapes_shown = int(self._known.cursor[kernel.SHAPES])

    def rows(self) -> pa.Table:
        """Return the whole table."""
        numbers = np.arange(self._known.cursor[kernel.SHAPES])
        return self._rows(np.setdiff1d(numbers, self._again))

    def located(self) -> pa.Table:
        """Return the whole table, with the `position` of the first event of each shape, as `LOCATED`.

        All events came with positions, in their order.
        """
        numbers = np.setdiff1d(np.arange(self._known.cursor[kernel.SHAPES]), self._again)
        firsts = pa.array(self._firsts, pa.binary()).take(pa.array(numbers))
        return self._rows(numbers).append_column(LOCATED.field(POSITION), firsts)

    def _counts(self) -> npt.NDArray[Any]:
        return self._known.counts[: self._known.cursor[kernel.SHAPES]]

    def _changed(self) -> _Numbers:
        return np.flatnonzero(self._counts()["row"] >= self._shown)

    def _rows(self, numbers: _Numbers) -> pa.Table:
        if len(self._described) > 1:
            self._described = [pa.concat_tables(self._described).combine_chunks()]
        shown = self._described[0].take(pa.array(numbers))
        counts = self._counts()[numbers]
        made = {
            "first_seen_at": pa.array(counts["first"]).cast(TIME),
            "last_seen_at": pa.array(counts["last"]).cast(TIME),
            "events": pa.array(counts["events"]),
        }
        names = SCHEMA.schema().names
        return pa.table([made[n] if n in made else shown.column(n) for n in names], schema=SCHEMA.schema())

    def _make_room(self, more: int = NEW_MAX) -> None:
        """See that the table takes so many new shapes without being more than half full."""
        known, wanted = self._known, int(self._known.cursor[kernel.SHAPES]) + more
        if wanted > len(known.counts):
            counts = np.zeros(max(wanted, 2 * len(known.counts)), dtype=kernel.COUNT)
            counts[: len(known.counts)] = known.counts
            slots = 1 << (2 * len(counts) - 1).bit_length()
            keys, numbers = np.zeros(slots, dtype=np.uint64), np.zeros(slots, dtype=np.int32)
            kernel.move(known.keys, known.numbers, keys, numbers)
            self._known = known._replace(counts=counts, keys=keys, numbers=numbers)

    def _load_groups(self, groups: list[tuple[str, str | None]]) -> None:
        known, more = self._known, len(groups) + TYPES_ROOM
        if more > len(known.group_rows):
            # A program with a higher limit has listed them.
            slots = 1 << (4 * more).bit_length()
            self._known = known._replace(
                group_keys=np.zeros(slots, dtype=np.uint64),
                group_numbers=np.zeros(slots, dtype=np.int32),
                group_rows=np.zeros(more, dtype=np.int64),
                per_place=np.zeros(kernel.PARTS * more, dtype=np.int64),
            )
        types, names = zip(*groups, strict=True) if groups else ((), ())
        unlisted = [name == UNLISTED for name in names]
        kernel.enter_groups(
            self._known,
            _texts(pa.array(types, pa.string())),
            _texts(pa.array(names, pa.string())),
            np.array(unlisted, dtype=np.bool_),
        )
        self._groups = groups

    # ---- new shapes ------------------------------------------------------------------------

    def _describe(self, batch: pa.RecordBatch, parts: Sequence[kernel.Texts]) -> None:
        """Say in words what the kernel has found to be new."""
        known = self._known
        for row in known.group_rows[len(self._groups) : known.cursor[kernel.GROUPS]].tolist():
            listed = row >= 0
            row = row if listed else -1 - row
            name = batch.column("event")[row].as_py() or None
            self._groups.append((batch.column("type")[row].as_py(), name if listed else UNLISTED))
        new = int(known.cursor[kernel.FRESH])
        if not new:
            return
        known.cursor[kernel.FRESH] = 0
        first = int(known.cursor[kernel.SHAPES]) - new
        spans = known.spans.reshape(-1, DEPTH_MAX, 2)[:new].tolist()
        found = []
        for number, (shape, keys) in enumerate(zip(known.new[:new].tolist(), spans, strict=True), first):
            at, place, kind, start, stop, depth = shape
            group, part = divmod(place, kernel.PARTS)
            type, event = self._groups[group]
            text = parts[part].data
            path = join_path([_key(text[begin:end]) for begin, end in keys[:depth]]) if depth else UNLISTED
            value = _decoded(text[start:stop]) if depth else ""
            row = _described(type, event, PARTS[part], path, JSON_TYPES[kind], value)
            found.append(row)
            if POSITION in batch.schema.names:
                self._firsts.append(batch.column(POSITION)[at].as_py())
            self._number(row[0], number)
            if UNLISTED in (path, event):
                self._unlisted.append(number)
        self._described.append(_table(found))

    def _number(self, id: str, number: int) -> None:
        """Note the number of a shape; one that has a number already was written in another way."""
        known = self._numbers.setdefault(id, number)
        if known == number:
            return
        kernel.rename(self._known, number, known)
        counts = self._known.counts
        counts[known]["events"] += counts[number]["events"]
        for name, choose in (("first", min), ("last", max), ("row", max)):
            counts[known][name] = choose(counts[known][name], counts[number][name])
        counts[number]["row"] = 0
        self._again.append(number)


def warm() -> None:
    """Compile the walk, or load it from numba's cache, before events wait for it."""
    shapes = Shapes(0)
    row = {name: [""] for name in COLUMNS[1:]}
    shapes.observe(pa.table({"received_at": pa.array([0]).cast(TIME)} | row))
    shapes.load(shapes.rows())
    keys, numbers = np.zeros(2, dtype=np.uint64), np.zeros(2, dtype=np.int32)
    kernel.move(keys, numbers, keys, numbers)


def _described(
    type: str, event: str | None, part: ShapePart, path: str, json_type: JsonType, value: str
) -> tuple[Any, ...]:
    identity = msgspec.json.encode((type, event, part, path, json_type))
    id = hashlib.blake2b(identity, digest_size=16).hexdigest()
    shown = example(part, path, json_type, value) if value else None
    column = None if path == UNLISTED else column_name(part, path) or None
    return id, type, event, part, path, json_type, shown, column, int(id[:4], 16)


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    schema = pa.schema([SCHEMA.schema().field(name) for name in _DESCRIBED])
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def _texts(column: pa.Array) -> kernel.Texts:
    """Return a column of text for the kernel; null is empty there."""
    _, offsets, data = column.buffers()
    if not len(column):
        return kernel.Texts(_NO_BYTES, _NO_TEXT)
    places = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else _NO_BYTES
    return kernel.Texts(read_only(text, np.uint8), read_only(places, np.int32))


def _decoded(raw: npt.NDArray[np.uint8]) -> str:
    return raw.tobytes().decode("utf-8", "replace")


def _key(raw: npt.NDArray[np.uint8]) -> str:
    text = _decoded(raw)
    try:
        return str(json_text.value(f'"{text}"'))
    except json_text.NotJson:
        return text  # no sender can bring this about, and it must not stop what others send


def _raw(key: str) -> bytes:
    return json_text.dump(key)[1:-1].encode()
