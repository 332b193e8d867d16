"""Comparisons of columns: as numbers on whole arrays, in all other ways once per distinct value.

What a comparison means is said in `semantics.conditions.comparing` and asked there for every distinct value (or
pair of values) that is not plainly a number.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.semantics.conditions.comparing import CONTRARY, compares
from profilelake.semantics.conditions.tree import RELATIVE, Comparison, Constant, Duration, Instant
from profilelake.semantics.conditions.values import instant, is_number, items, number, text
from profilelake.traits.beside import beside
from profilelake.traits.columns import (
    NEVER,
    Bools,
    Coded,
    Float64s,
    Int32s,
    Int64s,
    Numbers,
    Truth,
    as_coded,
    never,
)

Side: TypeAlias = "Numbers | Coded | Constant | Instant | Duration"

_ORDERS: Final[dict[Comparison, Callable[[Any, Any], Any]]] = {
    "equals": np.equal,
    "differs": np.not_equal,
    "greater_than": np.greater,
    "at_least": np.greater_equal,
    "less_than": np.less,
    "at_most": np.less_equal,
}
_WORDED: Final[dict[Comparison, Callable[[pa.Array, str | None], pa.Array]]] = {
    "equals": pc.equal,
    "differs": pc.equal,
    "one_of": pc.equal,
    "none_of": pc.equal,
    "contains": pc.match_substring,
    "omits": pc.match_substring,
    "starts_with": pc.starts_with,
    "ends_with": pc.ends_with,
}


def compared(how: Comparison, value: Side, operands: Sequence[Side], at: int, count: int) -> Truth:
    """Return where a comparison holds, and until when."""
    columns = [side for side in (value, *operands) if isinstance(side, Numbers | Coded)]
    changes = np.minimum.reduce([never(count), *(column.changes for column in columns)])
    if how in ("exists", "absent"):
        exists = _exists(value, count)
        return Truth(exists if how == "exists" else ~exists, changes)
    if how in RELATIVE:
        return _relative(how, value, operands, at, changes)
    constants = [operand for operand in operands if isinstance(operand, Constant)]
    holds: Bools | None = None
    if how in _WORDED and isinstance(value, Coded) and len(constants) == len(operands):
        holds = _as_texts(how, value, constants, at)
    elif len(columns) > 1 and len(operands) > 1:
        holds = _with_any(how, value, operands, at, count)
    elif how in _ORDERS and len(operands) == 1:
        holds = _as_numbers(how, value, operands[0], at)
    if holds is None and len(columns) > 1:
        holds = beside(how, *map(as_coded, columns))
    if holds is None:
        holds = _one_by_one(how, value, operands, at, count)
    return Truth(holds, changes)


def _exists(value: Side, count: int) -> Bools:
    if isinstance(value, Numbers):
        return value.valid
    if isinstance(value, Coded):
        return value.codes >= 0
    return np.ones(count, dtype=np.bool_)


def _with_any(how: Comparison, value: Side, operands: Sequence[Side], at: int, count: int) -> Bools:
    """Compare with operands one after the other: a value holds with any, or for the contrary with none there is."""
    positive = CONTRARY.get(how, how)
    holds = np.zeros(count, dtype=np.bool_)
    there = np.zeros(count, dtype=np.bool_)
    for operand in operands:
        holds |= compared(positive, value, [operand], at, count).holds
        there |= _exists(operand, count)
    return holds if positive == how else _exists(value, count) & there & ~holds


# ---- numbers -------------------------------------------------------------------------------------


def _as_numbers(how: Comparison, value: Side, operand: Side, at: int) -> Bools | None:
    """Compare as numbers, or return None where the values have to be looked at as what they are."""
    if isinstance(value, Numbers) and isinstance(operand, Numbers):
        holds: Bools = value.valid & operand.valid & _ORDERS[how](value.values, operand.values)
        return holds
    if isinstance(value, Numbers) and isinstance(operand, Constant):
        return value.valid & _with_constant(how, value.values, operand)
    if isinstance(value, Coded) and isinstance(operand, Constant):
        return _spread(value, _with_constant(how, value.numbers, operand), how, [operand], at)
    if isinstance(value, Coded) and isinstance(operand, Numbers):
        return _mixed(how, value, operand, swapped=False)
    if isinstance(value, Numbers) and isinstance(operand, Coded):
        return _mixed(how, operand, value, swapped=True)
    return None


def _with_constant(how: Comparison, values: Float64s, operand: Constant) -> Bools:
    """Compare numbers (NaN: none) with a constant; what is no number differs from all."""
    threshold = number(operand.value)
    if threshold is None:
        return np.full(len(values), how == "differs")
    holds: Bools = _ORDERS[how](values, threshold)
    return holds


def _spread(column: Coded, by_code: Bools, how: Comparison, operands: Sequence[Constant], at: int) -> Bools:
    """Return for subjects what was found by code; arrays and objects are looked at one by one."""
    asked = [operand.value for operand in operands]
    for code in np.flatnonzero(column.nested).tolist():
        by_code[code] = compares(how, column.values[code], asked, at)
    return column.spread(by_code)


def _mixed(how: Comparison, column: Coded, numbers: Numbers, *, swapped: bool) -> Bools | None:
    """Compare a column of JSON with one of numbers; swapped, the numbers are on the left. None where arrays are."""
    rows = np.flatnonzero(numbers.valid & (column.codes >= 0))
    codes = column.codes[rows]
    if column.nested[codes].any():
        return None
    theirs, ours = column.numbers[codes], numbers.values[rows]
    holds = np.zeros(len(column.codes), dtype=np.bool_)
    holds[rows] = _ORDERS[how](ours, theirs) if swapped else _ORDERS[how](theirs, ours)
    return holds


# ---- texts ---------------------------------------------------------------------------------------


def _as_texts(how: Comparison, column: Coded, operands: Sequence[Constant], at: int) -> Bools:
    """Compare texts with constants: a value holds with any of them, or for the contrary with none."""
    positive = CONTRARY.get(how, how)
    found = np.zeros(len(column.texts), dtype=np.bool_)
    for operand in operands:
        found |= _says(positive, column, operand)
    return _spread(column, found if positive == how else ~found, how, operands, at)


def _says(how: Comparison, column: Coded, operand: Constant) -> Bools:
    """Return which values compare with a constant. Numbers are equal to texts that read as they do."""
    holds: Bools = pc.fill_null(_WORDED[how](column.words, text(operand.value)), False).to_numpy(
        zero_copy_only=False
    )
    if how not in ("equals", "one_of"):
        return holds
    wanted = number(operand.value)
    same = column.numbers == (np.nan if wanted is None else wanted)
    return same if is_number(operand.value) else np.where(column.are_numbers, same, holds)


# ---- moments -------------------------------------------------------------------------------------


def _relative(how: Comparison, value: Side, operands: Sequence[Side], at: int, changes: Int64s) -> Truth:
    """Compare moments with now. A moment that is far off comes into reach, or falls behind, by time alone."""
    spans = [operand.micros for operand in operands if isinstance(operand, Duration)]
    none = np.zeros(len(changes), dtype=np.bool_)
    if len(spans) != 1 or isinstance(value, Numbers | Duration):
        return Truth(none, changes)
    if isinstance(value, Constant | Instant):
        moment = value.at if isinstance(value, Instant) else instant(value.value)
        if moment is None:
            return Truth(none, changes)
        one = np.array([moment], dtype=np.int64)
        turn = _turns(how, one, spans[0], at)[0]
        return Truth(none | _reached(how, one, spans[0], at)[0], np.minimum(changes, turn))
    moments, valid = value.instants
    by_code = valid & _reached(how, moments, spans[0], at)
    turning = np.where(valid, _turns(how, moments, spans[0], at), NEVER)
    for code in np.flatnonzero(value.nested).tolist():
        within = [moment for item in items(value.values[code]) if (moment := instant(item)) is not None]
        if within:
            several = np.array(within, dtype=np.int64)
            by_code[code] = _reached(how, several, spans[0], at).any()
            turning[code] = _turns(how, several, spans[0], at).min()
    return Truth(value.spread(by_code), np.minimum(changes, value.spread(turning, NEVER)))


def _reached(how: Comparison, moments: Int64s, span: int, at: int) -> Bools:
    held: dict[str, Callable[[], Bools]] = {
        "within_last": lambda: (moments >= at - span) & (moments <= at),
        "within_next": lambda: (moments >= at) & (moments <= at + span),
        "before_last": lambda: moments < at - span,
        "after_next": lambda: moments > at + span,
    }
    return held[how]()


def _turns(how: Comparison, moments: Int64s, span: int, at: int) -> Int64s:
    """Return the next time at which a comparison of each moment with now turns."""
    both = {
        "within_last": (moments, moments + span + 1),
        "within_next": (moments - span, moments + 1),
        "before_last": (moments + span + 1,),
        "after_next": (moments - span,),
    }[how]
    next_one: Int64s = np.minimum.reduce([np.where(turn > at, turn, NEVER) for turn in both])
    return next_one


# ---- all others ----------------------------------------------------------------------------------


def _one_by_one(how: Comparison, value: Side, operands: Sequence[Side], at: int, count: int) -> Bools:
    sides = [value, *operands]
    columns = [as_coded(side) for side in sides if isinstance(side, Numbers | Coded)]

    def holds(values: Sequence[Any]) -> bool:
        left = iter(values)
        raw = [_raw(side) if not isinstance(side, Numbers | Coded) else next(left) for side in sides]
        return compares(how, raw[0], raw[1:], at)

    return per_combination(columns, holds, count)


def _raw(side: Constant | Instant | Duration) -> Any:
    return side.value if isinstance(side, Constant) else side


def per_combination(columns: Sequence[Coded], test: Callable[[Sequence[Any]], bool], count: int) -> Bools:
    """Return a test of the values of columns, asked once for each combination there is. None is missing."""
    combinations, places = combined(columns, count)
    found = [test(values) for values in combinations]
    return np.array(found, dtype=np.bool_)[places] if count else np.zeros(0, dtype=np.bool_)


def combined(columns: Sequence[Coded], count: int) -> tuple[list[list[Any]], npt.NDArray[np.intp]]:
    """Return the combinations of values there are, and the place of each subject's among them."""
    if not columns:
        return [[]] if count else [], np.zeros(count, dtype=np.intp)
    if len(columns) == 1:
        distinct, places = np.unique(columns[0].codes, return_inverse=True)
        rows = distinct.reshape(-1, 1)
    else:
        rows, places = _distinct([column.codes for column in columns])
    values = [
        [None if code < 0 else column.values[code] for column, code in zip(columns, row, strict=True)]
        for row in rows.tolist()
    ]
    return values, places.reshape(-1)


def _distinct(codes: Sequence[Int32s]) -> tuple[Int32s, npt.NDArray[np.intp]]:
    """Return the combinations of codes there are, and the place of each row's among them."""
    rows, places = np.unique(codes[0], return_inverse=True)
    rows = rows.reshape(-1, 1)
    for column in codes[1:]:
        # Numbers sort many times faster than rows. Combinations are no more than rows, so they fit into one.
        width = int(column.max(initial=0)) + 2
        both, places = np.unique(places.astype(np.int64) * width + column + 1, return_inverse=True)
        rows = np.column_stack([rows[both // width], both % width - 1])
    return rows, places
