"""What of a definition can be computed event by event, so that it is shared and never computed twice.

A *step* is one reduction of the events of one name. Its partials hang on identifier sets, like trait writes, so
merges and decisions about identity move nothing. A step is named by what it says: two definitions that say the
same share one, and a new version that only moves a threshold goes on with the partials there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from profilelake.semantics.conditions.tree import Path, Reduce, Root
from profilelake.semantics.definitions import Held

DAY_MICROS: Final = 86_400_000_000
FOREVER: Final = 0
"""Bucket of partials that no window ages."""


class Family(Enum):
    """How the partials of a step are kept."""

    COUNT = "count"
    """number of events"""
    NUMBER = "number"
    """exact sum, number of numbers, least and greatest"""
    VALUE = "value"
    """per distinct value how often, first and last"""
    EVENTS = "events"
    """the events themselves, cut down to what is asked of them: funnels, sessions, comparisons with traits"""


@dataclass(frozen=True, slots=True)
class Step:
    """One reduction of events of one name, without the time it is asked at.

    `reduce` is the node of the tree it stands for (a window in it says which events count at a time). `since` is
    the position behind which events count, empty for all. `horizon` is how far back it may ever look, in
    microseconds, None where events of any age count. `paths` are the properties and `context_paths` the context
    values that have to be read of an event.
    """

    digest: bytes
    """16 bytes that name it; equal for equal steps."""
    family: Family
    name: str
    reduce: Reduce
    since: bytes
    horizon: int | None
    paths: tuple[Path, ...]
    context_paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """One definition as it is computed: its tree, and the step of each reduction of events in it.

    `steps` is keyed by the node's place in the tree (nodes compare by meaning, so equal ones share a step).
    `reads` are the first keys of the traits it asks for, which may be audiences or other computed traits.
    """

    held: Held
    root: Root
    steps: Mapping[Reduce, Step]
    reads: frozenset[str]


Plan: TypeAlias = tuple[Planned, ...]
"""Definitions in an order in which each comes after those it reads."""
