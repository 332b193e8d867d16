"""What is asked of the reference itself, once per distinct combination of what it looks at.

That is everything that looks into values: elements of arrays, and rows of entities.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from profilelake.semantics.conditions import evaluate
from profilelake.semantics.conditions.times import next_moment
from profilelake.semantics.conditions.tree import Condition, Reduce, Root
from profilelake.semantics.conditions.values import canonical
from profilelake.semantics.definitions import Json
from profilelake.traits.columns import NEVER, Coded, Column, Int64s, Numbers, Truth, never
from profilelake.traits.compared import combined

_decode: Final = msgspec.json.Decoder().decode


def counts(reduce: Reduce) -> bool:
    """Tell whether a reduction is a number of something: then there always is one, and mostly it is 0."""
    return reduce.how == "count" or reduce.counted


def of_condition(condition: Condition, traits: Mapping[str, Coded], at: int, count: int) -> Truth:
    """Return where a condition on traits holds. They are given by first key."""
    combinations, places = combined(list(traits.values()), count)
    holds = np.zeros(len(combinations), dtype=np.bool_)
    turns = never(len(combinations))
    for row, values in enumerate(combinations):
        subject = evaluate.Subject(traits=dict(zip(traits, values, strict=True)))
        holds[row] = evaluate.holds(condition, subject, at)
        turns[row] = _next(condition, subject, at)
    return Truth(holds[places], _earliest(turns[places], traits))


def of_rows(
    reduce: Reduce, slug: str, linked: Coded, traits: Mapping[str, Coded], at: int, count: int
) -> Column:
    """Return a reduction of the linked rows of an entity: JSON arrays of objects."""
    combinations, places = combined([linked, *traits.values()], count)
    found: list[Json] = []
    turns = never(len(combinations))
    for row, (rows, *values) in enumerate(combinations):
        subject = evaluate.Subject(traits=dict(zip(traits, values, strict=True)), entities={slug: rows or ()})
        found.append(evaluate.value(reduce, subject, at))
        turns[row] = _next(reduce, subject, at)
    return _column(reduce, [found[place] for place in places.tolist()], _earliest(turns[places], traits))


def _next(root: Root, subject: evaluate.Subject, at: int) -> int:
    moment = next_moment(root, subject, at)
    return NEVER if moment is None else moment


def _earliest(turns: Int64s, traits: Mapping[str, Coded]) -> Int64s:
    for column in traits.values():
        turns = np.minimum(turns, column.changes)
    return turns


def _column(reduce: Reduce, values: Sequence[Json], changes: Int64s) -> Column:
    if counts(reduce):
        return Numbers(np.array(values, dtype=np.float64), np.ones(len(values), dtype=np.bool_), changes)
    texts = pa.array([None if value is None else canonical(value) for value in values], pa.string())
    return Coded.of(texts).until(changes)
