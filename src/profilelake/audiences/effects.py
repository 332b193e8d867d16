"""What an edit of a definition does: who comes in, who goes, whose value becomes another."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.kernels.dense import Int64s

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Effect:
    """How many profiles an edit concerns: those with a value only after it, only before it, or another one."""

    enter: int
    leave: int
    change: int
    stay: int


def effect(before: pa.Table, after: pa.Table) -> Effect:
    """Return what lies between two results of a definition (`profile_id`, `value`), each profile once in each."""
    place = pc.index_in(after.column("profile_id"), value_set=before.column("profile_id").combine_chunks())
    known = place.is_valid()
    old = before.column("value").take(place.filter(known))
    same: int = pc.sum(pc.equal(old, after.column("value").filter(known))).as_py() or 0
    both = len(old)
    return Effect(after.num_rows - both, before.num_rows - both, both - same, same)


def effects_of_rows(before: pa.Array, after: pa.Array) -> tuple[Int64s, Int64s, Int64s]:
    """Return the rows that enter, leave and change between two columns of the same profiles; null is no value."""
    had, has = _valid(before), _valid(after)
    differs = np.asarray(pc.fill_null(pc.not_equal(before, after), False))
    return np.flatnonzero(has & ~had), np.flatnonzero(had & ~has), np.flatnonzero(differs)


def _valid(column: pa.Array) -> Bools:
    valid: Bools = np.asarray(column.is_valid())
    return valid
