"""Random trees of the language, as the parser would give them: every construct, few names, awkward texts."""

from dataclasses import dataclass
from typing import get_args

from hypothesis import strategies as st

from profilelake.semantics.conditions.bounds import too_much
from profilelake.semantics.conditions.spoken_times import DURATION_MAX
from profilelake.semantics.conditions.tree import (
    RELATIVE,
    And,
    Between,
    Compare,
    Comparison,
    Condition,
    Constant,
    Context,
    Duration,
    Entities,
    Events,
    How,
    Instant,
    Items,
    Not,
    Operand,
    Or,
    Path,
    Property,
    Reduce,
    Root,
    Scope,
    Session,
    Trait,
    Users,
    Value,
    Window,
    Within,
)
from profilelake.semantics.conditions.values import instant
from profilelake.semantics.times import TIME_MAX, TIME_MIN

_CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
TEXTS = st.one_of(
    st.sampled_from(
        ["pro", "it's", 'say "so"', "a\\b", "\\'", "line\nbreak", "\t", "日本", "AND", "", "7 days"]
    ),
    st.text(_CHARACTERS, max_size=6),
)
NAMES = TEXTS.filter(lambda text: bool(text.strip()))
KEYS = st.one_of(
    st.sampled_from(["plan", "a.b", "...", "revenue", "It's"]),
    st.text(_CHARACTERS, min_size=1, max_size=6),
).filter(
    # What a path cannot say: a backslash before a dot, and Segment's sign for every element.
    lambda key: key.strip() != "" and not key.endswith("\\") and "\\." not in key and key != "$"
)
_KINDS = ("items", "not", "and", "or", "users")
_ONE: tuple[Comparison, ...] = (
    "equals", "differs", "greater_than", "at_least", "less_than", "at_most", "starts_with", "ends_with",
)  # fmt: skip
_NONE: tuple[Comparison, ...] = ("exists", "absent")
_DATES: tuple[Comparison, ...] = ("before_date", "after_date")
_SEVERAL: tuple[Comparison, ...] = ("contains", "omits", "one_of", "none_of")


@dataclass(frozen=True)
class Alphabet:
    """What trees are made of: few things, so that they meet, or all that can be written."""

    names: st.SearchStrategy[str]
    paths: st.SearchStrategy[Path]
    durations: st.SearchStrategy[int]
    constants: st.SearchStrategy[str | float | bool]
    instants: st.SearchStrategy[int]
    entities: bool = True

    @property
    def windows(self) -> st.SearchStrategy[Window | None]:
        """Windows of every kind."""
        return st.one_of(
            st.none(),
            st.builds(Within, self.durations, st.booleans()),
            st.builds(Between, self.durations, self.durations),
            st.builds(Session, self.durations),
        )


EVERYTHING = Alphabet(
    names=NAMES,
    paths=st.lists(KEYS, min_size=1, max_size=3).map(tuple),
    durations=st.one_of(
        st.sampled_from([0, 3_600_000_000, 86_400_000_000, 7 * 86_400_000_000, 1_000_000]),
        st.integers(0, DURATION_MAX),
    ),
    constants=st.one_of(
        st.integers(-5, 5),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        TEXTS,
    ),
    instants=st.integers(TIME_MIN, TIME_MAX),
)


def roots(of: Alphabet = EVERYTHING) -> st.SearchStrategy[Root]:
    """Return a strategy of whole definitions."""
    return st.one_of(conditions(of, "event", 3), reductions(of, 3)).filter(
        lambda root: too_much(root) is None
    )


@st.composite
def conditions(draw: st.DrawFn, of: Alphabet, scope: Scope, levels: int) -> Condition:
    """Return a condition whose properties are those of `scope`."""
    kind = "compare" if levels == 0 else draw(st.sampled_from(("compare", "compare", *_KINDS)))
    if kind == "compare":
        return draw(comparisons(of, scope, max(0, levels - 1)))
    if kind == "items":
        value = st.one_of(properties(of, scope), st.builds(Context, of.paths), st.builds(Trait, of.paths))
        return Items(draw(value), draw(conditions(of, "item", levels - 1)), draw(st.booleans()))
    below = conditions(of, scope, levels - 1)
    if kind == "not":
        return Not(draw(below))
    if kind == "users":
        return Users(draw(below), draw(st.booleans()))
    parts = tuple(draw(st.lists(below, min_size=2, max_size=3)))
    return And(parts) if kind == "and" else Or(parts)


def properties(of: Alphabet, scope: Scope) -> st.SearchStrategy[Property]:
    """Return a strategy of properties of the event at hand, or of its parent."""
    return st.builds(Property, of.paths, st.sampled_from((scope, scope, "parent")))


@st.composite
def values(draw: st.DrawFn, of: Alphabet, scope: Scope, levels: int) -> Value:
    """Return a value that can be compared."""
    match draw(st.sampled_from(("property", "trait", "context", "constant", "reduction"))):
        case "property":
            return draw(properties(of, scope))
        case "trait":
            return Trait(draw(of.paths))
        case "context":
            return Context(draw(of.paths))
        case "constant":
            return Constant(draw(of.constants))
        case _:
            return draw(reductions(of, levels))


@st.composite
def comparisons(draw: st.DrawFn, of: Alphabet, scope: Scope, levels: int) -> Condition:
    """Return a comparison of any kind."""
    value = values(of, scope, levels)
    # In comparisons of moments a text that is one is read as one.
    dated = st.one_of(
        st.builds(Instant, of.instants, st.just("")),
        value.filter(lambda found: not (isinstance(found, Constant) and _is_moment(found))),
    )
    operands: st.SearchStrategy[tuple[Operand, ...]]
    match draw(st.sampled_from(("one", "several", "none", "date", "relative"))):
        case "one":
            return Compare(draw(value), draw(st.sampled_from(_ONE)), (draw(value),))
        case "several":
            operands = st.lists(value, min_size=1, max_size=3).map(tuple)
            return Compare(draw(value), draw(st.sampled_from(_SEVERAL)), draw(operands))
        case "none":
            return Compare(draw(value), draw(st.sampled_from(_NONE)))
        case "date":
            return Compare(draw(dated), draw(st.sampled_from(_DATES)), (draw(dated),))
        case _:
            duration = Duration(draw(of.durations), "")
            return Compare(draw(dated), draw(st.sampled_from(sorted(RELATIVE))), (duration,))


def _is_moment(constant: Constant) -> bool:
    return isinstance(constant.value, str) and instant(constant.value) is not None


@st.composite
def reductions(draw: st.DrawFn, of: Alphabet, levels: int) -> Reduce:
    """Return a reduction, with a condition on what is reduced while levels are left."""
    where = draw(conditions(of, "event", levels - 1)) if levels and draw(st.booleans()) else None
    stream: Events | Entities
    if of.entities and draw(st.booleans()):
        stream = Entities(draw(of.names), where)
    else:
        excluded = tuple(sorted(draw(st.sets(of.names, max_size=2))))
        stream = Events(draw(of.names), where, excluded, draw(of.windows))
    how = draw(st.sampled_from(get_args(How)))
    if how == "count":
        return Reduce(stream, "count")
    value = Property(draw(of.paths))
    if how in ("min", "max"):
        return Reduce(stream, how, value, draw(st.sampled_from((None, "number", "string"))))
    if how == "mode":
        as_type = draw(st.sampled_from((None, "number", "string", "array")))
        return Reduce(stream, how, value, as_type, draw(st.integers(0, 3)))
    return Reduce(stream, how, value, counted=how == "unique" and draw(st.booleans()))
