"""Partials of steps as columns: rows of many sets one after the other, each family for itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels.siphash import Words
from profilelake.state.computed import COUNTS, ENTRIES, NUMBERS, VALUES
from profilelake.traits.steps import Family, Plan, Step

LAYOUTS: Final = {Family.COUNT: COUNTS, Family.NUMBER: NUMBERS, Family.VALUE: VALUES}


Records: TypeAlias = npt.NDArray[np.void]
"""Rows of one layout."""


class Numbered(NamedTuple):
    """A step and the number it has in partials."""

    number: int
    step: Step


def numbered(plan: Plan) -> list[Numbered]:
    """Return the steps of definitions, each once, with numbers for one computation."""
    steps = {step.digest: step for planned in plan for step in planned.steps.values()}
    return [Numbered(number, step) for number, step in enumerate(steps.values(), 1)]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one layout with the set each hangs on, sorted by set, step, bucket (and value); no two alike in these."""

    sets: Words
    rows: Records

    @classmethod
    def none(cls, layout: np.dtype[np.void]) -> "Rows":
        """Return no rows."""
        return cls(np.zeros((0, 2), dtype=np.uint64), np.zeros(0, dtype=layout))

    def chosen(self, mask: npt.NDArray[np.bool_]) -> "Rows":
        """Return some of the rows."""
        return self if mask.all() else Rows(self.sets[mask], self.rows[mask])


class CutEvent(NamedTuple):
    """One event of a step of `Family.EVENTS`, cut down to what is asked of it.

    `properties` and `context` are JSON objects with the paths of the step alone.
    """

    at: int
    name: str
    source_id: str
    properties: str
    context: str


@dataclass(frozen=True, slots=True)
class Partials:
    """What events come to, by set.

    `entries` are single events of steps with a window, sorted by set and time. `events` are those of steps that
    keep whole events, by set and number of the step. `texts` spells out the values of `values` and `entries`.
    `until` says that nothing happened after that time: of the day it lies in all counts that does then.
    """

    counts: Rows = field(default_factory=lambda: Rows.none(COUNTS))
    numbers: Rows = field(default_factory=lambda: Rows.none(NUMBERS))
    values: Rows = field(default_factory=lambda: Rows.none(VALUES))
    entries: Rows = field(default_factory=lambda: Rows.none(ENTRIES))
    events: Mapping[tuple[bytes, int], list[CutEvent]] = field(default_factory=dict)
    texts: Mapping[bytes, str] = field(default_factory=dict)
    until: int | None = None
