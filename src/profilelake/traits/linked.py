"""Reductions of the linked rows of entities: rows are folded as events are, all of one time.

What a reduction of rows is worth depends on no order and no time unless it asks for one. Where it does (the first or
last row, the usual value, a time near now) or compares rows with traits, the reference is asked (`traits.asked`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.kernels import siphash
from profilelake.semantics.conditions.pairing import static
from profilelake.semantics.conditions.tree import Entities, Events, Reduce
from profilelake.traits.columns import Column, Subjects
from profilelake.traits.fold import fold
from profilelake.traits.happened import COLUMNS
from profilelake.traits.joined import Counting, Joined
from profilelake.traits.ownership import Kept, Ownership
from profilelake.traits.partials import Numbered
from profilelake.traits.reduced import counted, of_numbers, of_values
from profilelake.traits.steps import Family, reduced_as, step_of

_NAME: Final = "row"
"""What the event is called that a row is folded as."""
_STEP: Final = 1
_IN_ANY_ORDER: Final = frozenset({"count", "sum", "avg", "min", "max", "unique"})
_KEPT: Final[Mapping[Family, Kept]] = {
    Family.COUNT: "counts",
    Family.NUMBER: "numbers",
    Family.VALUE: "values",
}
_AT: Final = pa.timestamp("us", tz="UTC")
_rows: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def foldable(reduce: Reduce, of: Entities) -> bool:
    """Tell whether a reduction of rows is worked out here."""
    return reduce.how in _IN_ANY_ORDER and (of.where is None or static(of.where))


@dataclass(frozen=True, slots=True)
class LinkedRows:
    """The rows of an entity that some subjects are linked with."""

    subjects: Subjects
    events: pa.Table

    @classmethod
    def of(cls, linked: pa.Array) -> "LinkedRows":
        """Return rows from JSON text of an array of objects per subject, null for none."""
        count = len(linked)
        found = [() if text is None else _rows(text) for text in linked.to_pylist()]
        keys = np.column_stack([np.arange(count, dtype=np.uint64)] * 2)
        owners = np.repeat(np.arange(count), np.fromiter(map(len, found), np.int64, count=count))
        texts = pa.array([bytes(row) for rows in found for row in rows], pa.binary()).cast(pa.string())
        given = {
            "set_id": siphash.to_arrow(keys[owners]),
            "type": pa.repeat("track", len(owners)),
            "event": pa.repeat(_NAME, len(owners)),
            "timestamp": pa.array(np.zeros(len(owners), dtype=np.int64)).cast(_AT),
            "source_id": pa.repeat("", len(owners)),
            "position": pa.repeat(pa.scalar(bytes(32), pa.binary(32)), len(owners)),
            "properties": texts,
        }
        columns = {name: given.get(name, pa.nulls(len(owners), pa.string())) for name in COLUMNS}
        subjects = Subjects(count=count, set_keys=keys, set_owner=np.arange(count, dtype=np.int64))
        return cls(subjects, pa.table(columns))

    def worth(self, reduce: Reduce, of: Entities, at: int) -> Column:
        """Return what a reduction that is `foldable` is worth for each subject."""
        asked = Reduce(
            of=Events(name=_NAME, where=of.where),
            how=reduce.how,
            value=reduce.value,
            as_type=reduce.as_type,
            least=reduce.least,
            counted=reduce.counted,
        )
        step = step_of(asked, b"")
        partials = fold(self.events, [Numbered(_STEP, step)], at=at)
        count = self.subjects.count
        joined = Joined(Ownership(partials, self.subjects), np.array([_STEP], dtype=np.int64), 0, count)
        counting: Counting = joined.counting(_KEPT[step.family], _STEP, None, at)
        match reduced_as(asked):
            case Family.COUNT:
                return counted(counting, count)
            case Family.NUMBER:
                return of_numbers(asked, counting, count)
            case _:
                return of_values(asked, counting, partials.texts, count)
