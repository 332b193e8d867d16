"""Step of a rebuild: the table of shapes, counted by tasks.

Each unit counts its events in the order of their positions; counts of a shape add up, and what is shown of it
is of its first event. Only where a limit of what is listed is reached does the order of all events decide
what is: then they are counted by one process, in memory that does not grow.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.engines.engine import Cut, Engine, PartNumbers
from profilelake.engines.jobs import Job
from profilelake.engines.keys import parts_by_slot, power_of_two
from profilelake.lake.pinned import Shape, Share
from profilelake.lake.storage import Storage
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.observing import seed_of
from profilelake.plans._answers import kept_answer, together, whole
from profilelake.plans.facts import FactFiles, Read, read_share
from profilelake.plans.sizes import Sizes
from profilelake.semantics.shapes import UNLISTED
from profilelake.shapes.observed import COLUMNS, LOCATED, POSITION, ShapeLimits, Shapes
from profilelake.shapes.tables import SCHEMA

UNITS_PER_PART: Final = 32
"""Units whose shapes come together in one part: of a unit up to `ShapeLimits.shapes_max`, as a rule a thousand."""

_SHAPES, _GROUPS, _FULL = "shapes", "groups", "full"
_GROUP: Final = pa.schema([("type", pa.string()), ("event", pa.string())])
"""Types and names of events."""
_FULL_UNIT: Final = pa.schema([("share", pa.int32())])
"""A row for each unit in which a limit is reached."""
_INPUTS: Final = {_SHAPES: LOCATED, _GROUPS: _GROUP, _FULL: _FULL_UNIT}
_ADDED: Final = {"events": "sum", "first_seen_at": "min", "last_seen_at": "max"}


def count_shapes(
    engine: Engine,
    job: Job,
    files: FactFiles,
    key: bytes,
    sizes: Sizes,
    limits: ShapeLimits,
) -> pa.Table | None:
    """Return the table of shapes of all events by their order in it, None where a limit is reached.

    `key` is the workspace's; tasks get a seed made from it. A step that the job remembers is not run again.
    """
    events = files.tables[EVENTS.name]
    units = events.shares(sizes.share_bytes)
    parts = power_of_two(len(units) / UNITS_PER_PART)
    answers = job.step(
        "shapes",
        lambda: engine.spread(
            "shapes",
            units,
            _CutShapes(job.storage, events.shape, seed_of(key), limits, parts),
            _INPUTS,
            parts,
            _GatherShapes(job.storage, job.folder("shapes")),
        ),
    )
    found = together(answers)
    counts = found.counts
    if counts.get(_FULL) or counts.get(_SHAPES, 0) > limits.shapes_max:
        return None
    rows = whole(job.storage, found.files.get(_SHAPES, ()), SCHEMA.schema())
    groups = whole(job.storage, found.files.get(_GROUPS, ()), _GROUP)
    return rows.sort_by("schema_id") if within(rows, groups, limits) else None


def within(rows: pa.Table, groups: pa.Table, limits: ShapeLimits) -> bool:
    """Tell whether no limit is reached by these shapes and these types and names of events."""
    # A name may be the one that those beyond the limit go by: such a group may be two of its type.
    named = groups.group_by(groups.column_names).aggregate([])
    if named.num_rows + len(pc.unique(named.column("type"))) > limits.events_max:
        return False
    listed = rows.filter(pc.not_equal(rows.column("path"), UNLISTED))
    places = listed.group_by(["type", "event", "part"]).aggregate([([], "count_all")]).column("count_all")
    return rows.num_rows <= limits.shapes_max and (pc.max(places).as_py() or 0) <= limits.shapes_per_part_max


@dataclass(frozen=True)
class _CutShapes:
    """Counts the shapes of a share of events, and cuts them by their id."""

    storage: Storage
    shape: Shape
    seed: int
    limits: ShapeLimits
    parts: int

    def __call__(self, share: Share) -> Iterator[Cut]:
        """Yield the shapes, the names of events, and a row where a limit is reached."""
        columns = ", ".join([*COLUMNS, POSITION])
        read = Read(_SHAPES, f"SELECT {columns} FROM events ORDER BY position")  # noqa: S608 - columns of ours
        shapes = Shapes(self.seed, self.limits)
        for events in read_share(self.storage, {EVENTS.name: self.shape}, share, read):
            shapes.observe(events)
        # What is counted here may be for nothing: then it is not sent.
        found = _FULL_UNIT.empty_table()
        if shapes.full:
            found = pa.table([[0]], schema=_FULL_UNIT)
        else:
            rows = shapes.located()
            yield Cut(_SHAPES, rows, parts_by_slot(rows.column("slot").to_numpy(), self.parts))
            types, names = zip(*shapes.groups, strict=True) if shapes.groups else ((), ())
            groups = pa.table([types, names], schema=_GROUP)
            yield Cut(_GROUPS, groups, parts_by_name(shapes.groups, self.parts))
        yield Cut(_FULL, found, np.zeros(found.num_rows, dtype=np.int32))


def parts_by_name(groups: Sequence[tuple[str, str | None]], parts: int) -> PartNumbers:
    """Return the part of each type and name of events: the same in every unit, so that no part has those of all."""
    numbers = [zlib.crc32(f"{type}\0{name or ''}".encode()) % parts for type, name in groups]
    return np.array(numbers, dtype=np.int32)


@dataclass(frozen=True)
class _GatherShapes:
    """Adds up what units have counted of the shapes of a part."""

    storage: Storage
    folder: str

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        """Return where the rows are, and how many shapes there are, and units in which a limit is reached."""
        found = {_SHAPES: added(rows[_SHAPES]), _GROUPS: rows[_GROUPS].group_by(_GROUP.names).aggregate([])}
        counts = {_SHAPES: found[_SHAPES].num_rows, _FULL: rows[_FULL].num_rows}
        return kept_answer(self.storage, self.folder, found, part, **counts)


def added(rows: pa.Table) -> pa.Table:
    """Return rows of the same shapes, as `LOCATED`, as one row each: counts added up, the rest of the first event."""
    if not rows.num_rows:
        return SCHEMA.schema().empty_table()
    order = rows.sort_by([("schema_id", "ascending"), (POSITION, "ascending")]).combine_chunks()
    ids = order.column("schema_id").combine_chunks()
    starts = np.ones(len(ids), dtype=np.bool_)
    starts[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    first = order.filter(pa.array(starts)).drop_columns(list(_ADDED)).drop_columns([POSITION])
    sums = order.group_by("schema_id").aggregate(list(_ADDED.items())).sort_by("schema_id")
    for name, how in _ADDED.items():
        first = first.append_column(name, sums.column(f"{name}_{how}"))
    return first.select(SCHEMA.schema().names).cast(SCHEMA.schema())
