"""The typed tree of a definition. Text, YAML and every engine meet here.

A definition is a condition (an audience) or a value (a computed trait). Durations and times are microseconds.
Two nodes are equal where they mean the same; where they stood in the text (`span`) does not count.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Path: TypeAlias = tuple[str, ...]
"""Keys from the outside in. At an array the walk goes on into every element."""
Span: TypeAlias = tuple[int, int]
"""Where a node stands in the text: first character, and the one after the last."""
Scope: TypeAlias = Literal["event", "parent", "item"]
"""Whose properties are meant: those of the event at hand (or the row of an entity), of the event that it
follows in a funnel, or of the element of an array."""
How: TypeAlias = Literal["count", "sum", "avg", "min", "max", "mode", "first", "last", "unique"]
As: TypeAlias = Literal["number", "string", "array"]
Comparison: TypeAlias = Literal[
    "equals",
    "differs",
    "greater_than",
    "at_least",
    "less_than",
    "at_most",
    "exists",
    "absent",
    "contains",
    "omits",
    "starts_with",
    "ends_with",
    "one_of",
    "none_of",
    "before_date",
    "after_date",
    "within_last",
    "within_next",
    "before_last",
    "after_next",
]
RELATIVE: Final[frozenset[Comparison]] = frozenset(
    {"within_last", "within_next", "before_last", "after_next"}
)
"""Comparisons with a duration, whose answer changes with time alone."""
Target: TypeAlias = Literal["users", "accounts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What every node has."""

    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """A text, number or truth value as it was written."""

    value: str | int | float | bool

    # Python holds that true is 1, but `= true` and `= 1` do not mean the same and must not share a step. Numbers
    # are doubles, however they are written.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self._told() == other._told()

    def __hash__(self) -> int:
        return hash(self._told())

    def _told(self) -> tuple[bool, str | float]:
        truth = isinstance(self.value, bool)
        return truth, self.value if isinstance(self.value, str) else float(self.value)


@dataclass(frozen=True, slots=True)
class Instant(Node):
    """A moment that moments are compared with: a date (the start of that day in UTC), or a time with its zone."""

    at: int
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Duration(Node):
    """An amount of time; `text` is how it was written, such as `7 days`."""

    micros: int
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Trait(Node):
    """A trait of the profile, a computed one, or whether it is in an audience (true or false)."""

    path: Path


@dataclass(frozen=True, slots=True)
class Property(Node):
    """A property of an event, or a column of an entity's row; of an element the path `$` is the element itself."""

    path: Path
    scope: Scope = "event"


@dataclass(frozen=True, slots=True)
class Context(Node):
    """A value of the `context` object of the event."""

    path: Path


@dataclass(frozen=True, slots=True)
class Within(Node):
    """Events from `micros` ago (included) until now; with `parent` from the parent event until `micros` after it."""

    micros: int
    parent: bool = False


@dataclass(frozen=True, slots=True)
class Between(Node):
    """Events from `far` ago until `near` ago, both included: `.between(near, far)`."""

    near: int
    far: int


@dataclass(frozen=True, slots=True)
class Session(Node):
    """Events of the present session: it ends when `micros` have passed without one of them."""

    micros: int


Window: TypeAlias = Within | Between | Session


@dataclass(frozen=True, slots=True)
class Events(Node):
    """Events of a name. `Page Viewed` and `Screen Viewed` are also those of page and screen calls."""

    name: str
    where: "Condition | None" = None
    excluded: tuple[str, ...] = ()
    """Ids of sources whose events do not count, sorted."""
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Entities(Node):
    """Rows of a linked entity."""

    slug: str
    where: "Condition | None" = None


@dataclass(frozen=True, slots=True)
class Reduce(Node):
    """One value from many events or rows.

    `value` is what is reduced (None for `count`); `least` how often the mode occurs at least; `counted` asks
    for the number of unique values instead of their list.
    """

    of: Events | Entities
    how: How
    value: Property | None = None
    as_type: As | None = None
    least: int = 1
    counted: bool = False


Value: TypeAlias = Constant | Instant | Trait | Property | Context | Reduce
Operand: TypeAlias = Constant | Instant | Duration | Trait | Property | Context | Reduce


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """A comparison; it has no operand (`exists`), one, or several (`contains`, `omits`, `one_of`, `none_of`)."""

    value: Value
    how: Comparison
    operands: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Items(Node):
    """Whether any element of an array meets a condition, or (`every`) all do and there is one.

    A profilelake extension of the language: `property('products').any( property('price') > 100 )`.
    """

    value: Property | Context | Trait
    of: "Condition"
    every: bool = False


@dataclass(frozen=True, slots=True)
class Not(Node):
    of: "Condition"


@dataclass(frozen=True, slots=True)
class And(Node):
    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Or(Node):
    parts: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Users(Node):
    """Of an account: whether any of its linked users meets a condition, or (`every`) all do and there is one."""

    of: "Condition"
    every: bool = False


Condition: TypeAlias = Compare | Items | Not | And | Or | Users
Root: TypeAlias = Condition | Reduce
"""What a definition says: a condition makes an audience, a reduction a computed trait."""
