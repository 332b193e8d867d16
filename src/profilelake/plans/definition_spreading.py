"""How the events of definitions, and whose they are, are brought together: by profile, or by set before that."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.audiences.queried import GIVEN
from profilelake.audiences.reading import Wanted
from profilelake.engines.engine import Cut, PartNumbers
from profilelake.engines.kept import KeptFile, read_kept
from profilelake.engines.keys import parts_by_id
from profilelake.kernels import siphash
from profilelake.kernels.places import Places
from profilelake.kernels.slots import slots_of
from profilelake.lake.storage import Storage
from profilelake.plans.definition_inputs import (
    CUT_ROWS,
    NO_PROFILE,
    Unit,
    batches,
    opened,
    part_of_owner,
    part_of_profile,
)
from profilelake.traits.merging import ranked
from profilelake.traits.partials import Partials
from profilelake.traits.shipped import SHIPPED, shipped

BUSY_EVENTS: Final = 1 << 12
"""A set with more events among `CUT_ROWS` is folded before it is sent on, so that no part is much larger than another."""

SETS: Final = pa.schema([("set_id", pa.binary(16)), ("profile_id", pa.string())])
OWNED: Final = pa.schema([*SETS, ("part", pa.int32())])
OWNERS: Final = pa.schema([("set_id", pa.binary(16)), ("part", pa.int32())])
NOBODY: Final = -1
"""In place of a part, where it is not published yet whose a set is."""
PROFILES: Final = pa.schema(
    [("profile_id", pa.string()), ("identifiers", pa.string()), ("traits", pa.string())]
)
STRAYS: Final = pa.schema([("set_id", pa.binary(16))])
"""Sets with events of which it is not published yet whose they are."""
OF_PEOPLE: Final = {"shipped": SHIPPED, "sets": SETS, "profiles": PROFILES, "strays": STRAYS, "given": GIVEN}
"""What is brought together by person, events aside."""

Fold = Callable[[pa.Table], Partials]
"""Returns what events come to, however many they are: a value that can be pickled."""


def parts_of(rows: pa.Table) -> PartNumbers:
    """Return the parts that rows say they go to."""
    numbers: PartNumbers = rows.column("part").to_numpy()
    return numbers


@dataclass(frozen=True, slots=True)
class ByProfile:
    """Spreads everything by profile. `owners` tell whose events are, where they were not folded by set before."""

    storage: Storage
    wanted: Wanted
    fold: Fold
    owners: tuple[KeptFile, ...]
    parts: int

    def inputs(self) -> dict[str, pa.Schema]:
        """Return the columns of what is brought together by person."""
        return {"events": self.wanted.numbered_schema(), **OF_PEOPLE}

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        if unit.file is not None:
            for rows in read_kept(self.storage, unit.file, rows=CUT_ROWS):
                parts = parts_of(rows)
                if unit.input == "sets" and not (owned := parts != NO_PROFILE).all():
                    rows, parts = rows.filter(pa.array(owned)), parts[owned]
                yield Cut(unit.input, rows.drop_columns(["part"]), parts)
            return
        with opened(self.storage, self.wanted) as connection:
            if unit.input == "events":
                yield from self._events(batches(connection, unit.select))
            else:
                schema = SETS if unit.input == "sets" else PROFILES
                select = f"SELECT *, {part_of_profile(self.parts)} FROM ({unit.select})"  # noqa: S608 - made here
                for rows in batches(connection, select):
                    yield Cut(unit.input, rows.select(schema.names).cast(schema), parts_of(rows))

    def _events(self, read: Iterator[pa.Table]) -> Iterator[Cut]:
        """Yield the events of sets that have an owner."""
        owned = _read_owners(self.storage, self.owners)
        # A join in SQL costs ten times as much: each unit would build its table, and pass all columns through it.
        places = Places(_words(owned))
        part_of = np.append(owned.column("part").to_numpy(), np.int32(NOBODY))
        for rows in read:
            events = rows.cast(self.wanted.numbered_schema())
            parts = part_of[places.of(_words(events))]
            mine = parts >= 0
            if not mine.all():
                strays = events.select(["set_id"]).filter(pa.array(parts == NOBODY))
                strays = strays.group_by("set_id").aggregate([]).cast(STRAYS)
                yield Cut("strays", strays, parts_by_id(strays.column("set_id"), self.parts))
                events, parts = events.filter(pa.array(mine)), parts[mine]
            yield from _sent(events, parts, self.fold)


@dataclass(frozen=True, slots=True)
class BySet:
    """Spreads events and the owners of sets by set. An owner's row says to which part of profiles it goes."""

    storage: Storage
    wanted: Wanted
    fold: Fold
    parts: int
    parts_of_profiles: int

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        with opened(self.storage, self.wanted) as connection:
            if unit.input == "events":
                for rows in batches(connection, unit.select):
                    events = rows.cast(self.wanted.numbered_schema())
                    yield from _sent(events, parts_by_id(events.column("set_id"), self.parts), self.fold)
            else:
                part = part_of_owner(self.parts_of_profiles)
                select = f"SELECT *, {part} FROM ({unit.select})"  # noqa: S608 - made here
                for rows in batches(connection, select):
                    owned = rows.cast(OWNED)
                    yield Cut("sets", owned, parts_by_id(owned.column("set_id"), self.parts))


def _read_owners(storage: Storage, files: Sequence[KeptFile]) -> pa.Table:
    read = (rows for file in files for rows in read_kept(storage, file, OWNERS.names))
    return pa.concat_tables([OWNERS.empty_table(), *(rows.select(OWNERS.names) for rows in read)])


def _words(rows: pa.Table) -> siphash.Words:
    return siphash.from_arrow(rows.column("set_id"))


def _sent(events: pa.Table, parts: PartNumbers, fold: Fold) -> Iterator[Cut]:
    """Yield events as they are, but those of very busy sets as what they come to."""
    words = _words(events)
    slots = slots_of(words)
    # A set with many events makes its slot a large one; mostly none is, and then nothing else is looked at.
    if np.bincount(slots, minlength=1).max(initial=0) <= BUSY_EVENTS:
        yield Cut("events", events, parts)
        return
    _, places = ranked(words)
    busy = np.bincount(places)[places] > BUSY_EVENTS
    if not busy.all():
        yield Cut("events", events.filter(pa.array(~busy)), parts[~busy])
    if busy.any():
        folded = shipped(fold(events.filter(pa.array(busy))))
        sets = events.column("set_id").filter(pa.array(busy))
        part = parts[busy][pc.index_in(folded.column("set_id"), value_set=sets.combine_chunks()).to_numpy()]
        yield Cut("shipped", folded, part)
