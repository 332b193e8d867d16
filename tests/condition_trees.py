"""Random trees of the language, as the parser would give them: every construct, few names, awkward texts."""

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
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(tuple)
_KINDS = ("items", "not", "and", "or", "users")
_ONE: tuple[Comparison, ...] = (
    "equals", "differs", "greater_than", "at_least", "less_than", "at_most", "starts_with", "ends_with",
)  # fmt: skip
_NONE: tuple[Comparison, ...] = ("exists", "absent")
_DATES: tuple[Comparison, ...] = ("before_date", "after_date")
_SEVERAL: tuple[Comparison, ...] = ("contains", "omits", "one_of", "none_of")
DURATIONS = st.one_of(
    st.sampled_from([0, 3_600_000_000, 86_400_000_000, 7 * 86_400_000_000, 1_000_000]),
    st.integers(0, DURATION_MAX),
)
NUMBERS = st.one_of(
    st.integers(-5, 5), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)
)
CONSTANTS = st.builds(Constant, st.one_of(NUMBERS, st.booleans(), TEXTS))
WINDOWS: st.SearchStrategy[Window | None] = st.one_of(
    st.none(),
    st.builds(Within, DURATIONS, st.booleans()),
    st.builds(Between, DURATIONS, DURATIONS),
    st.builds(Session, DURATIONS),
)
INSTANTS = st.builds(Instant, st.integers(TIME_MIN, TIME_MAX), st.just(""))


def roots() -> st.SearchStrategy[Root]:
    """Return a strategy of whole definitions."""
    return st.one_of(conditions("event", 3), reductions(3)).filter(lambda root: too_much(root) is None)


def conditions(scope: Scope, levels: int) -> st.SearchStrategy[Condition]:
    """Return a strategy of conditions whose properties are those of `scope`."""
    if levels == 0:
        return comparisons(scope, 0)
    below = st.deferred(lambda: conditions(scope, levels - 1))
    several = st.lists(below, min_size=2, max_size=3).map(tuple)
    items = st.builds(
        Items,
        st.one_of(properties(scope), st.builds(Context, PATHS), st.builds(Trait, PATHS)),
        st.deferred(lambda: conditions("item", levels - 1)),
        st.booleans(),
    )
    return st.one_of(
        comparisons(scope, levels - 1),
        items,
        st.builds(Not, below),
        st.builds(And, several),
        st.builds(Or, several),
        st.builds(Users, below, st.booleans()),
    )


def properties(scope: Scope) -> st.SearchStrategy[Property]:
    """Return a strategy of properties of the event at hand, or of its parent."""
    return st.builds(Property, PATHS, st.sampled_from((scope, scope, "parent")))


@st.composite
def values(draw: st.DrawFn, scope: Scope, levels: int) -> Value:
    """Return a value that can be compared."""
    match draw(st.sampled_from(("property", "trait", "context", "constant", "reduction"))):
        case "property":
            return draw(properties(scope))
        case "trait":
            return Trait(draw(PATHS))
        case "context":
            return Context(draw(PATHS))
        case "constant":
            return draw(CONSTANTS)
        case _:
            return draw(reductions(levels))


@st.composite
def comparisons(draw: st.DrawFn, scope: Scope, levels: int) -> Condition:
    """Return a comparison of any kind."""
    value = values(scope, levels)
    # In comparisons of moments a text that is one is read as one.
    dated = st.one_of(
        INSTANTS, value.filter(lambda found: not (isinstance(found, Constant) and _is_moment(found)))
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
            duration = Duration(draw(DURATIONS), "")
            return Compare(draw(dated), draw(st.sampled_from(sorted(RELATIVE))), (duration,))


def _is_moment(constant: Constant) -> bool:
    return isinstance(constant.value, str) and instant(constant.value) is not None


@st.composite
def reductions(draw: st.DrawFn, levels: int) -> Reduce:
    """Return a reduction, with a condition on what is reduced while levels are left."""
    where = draw(conditions("event", levels - 1)) if levels and draw(st.booleans()) else None
    of: Events | Entities
    if draw(st.booleans()):
        excluded = tuple(sorted(draw(st.sets(NAMES, max_size=2))))
        of = Events(draw(NAMES), where, excluded, draw(WINDOWS))
    else:
        of = Entities(draw(NAMES), where)
    how = draw(st.sampled_from(get_args(How)))
    if how == "count":
        return Reduce(of, "count")
    value = Property(draw(PATHS))
    if how in ("min", "max"):
        return Reduce(of, how, value, draw(st.sampled_from((None, "number", "string"))))
    if how == "mode":
        as_type = draw(st.sampled_from((None, "number", "string", "array")))
        return Reduce(of, how, value, as_type, draw(st.integers(0, 3)))
    return Reduce(of, how, value, counted=how == "unique" and draw(st.booleans()))
