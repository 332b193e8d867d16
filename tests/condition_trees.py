"""Random trees of the language, as the parser would give them: every construct, few names, awkward texts."""

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
_ONE: tuple[Comparison, ...] = (
    "equals", "differs", "greater_than", "at_least", "less_than", "at_most", "starts_with", "ends_with",
)  # fmt: skip
_SEVERAL: tuple[Comparison, ...] = ("contains", "omits", "one_of", "none_of")
DURATIONS = st.one_of(
    st.sampled_from([0, 3_600_000_000, 86_400_000_000, 7 * 86_400_000_000, 1_000_000]),
    st.integers(0, DURATION_MAX),
)
NUMBERS = st.one_of(
    st.integers(-5, 5), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)
)
CONSTANTS = st.builds(Constant, st.one_of(NUMBERS, st.booleans(), TEXTS))
INSTANTS = st.builds(Instant, st.integers(TIME_MIN, TIME_MAX), st.just(""))


def roots() -> st.SearchStrategy[Root]:
    """Return a strategy of whole definitions."""
    return st.one_of(conditions("event", 3), reductions("event", 3)).filter(
        lambda root: too_much(root) is None
    )


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


def values(scope: Scope, levels: int) -> st.SearchStrategy[Value]:
    """Return a strategy of values that can be compared."""
    return st.one_of(
        properties(scope),
        st.builds(Trait, PATHS),
        st.builds(Context, PATHS),
        CONSTANTS,
        reductions(scope, levels),
    )


def comparisons(scope: Scope, levels: int) -> st.SearchStrategy[Condition]:
    """Return a strategy of comparisons of every kind."""
    value = values(scope, levels)
    # In comparisons of moments a text that is one is read as one.
    dated = st.one_of(
        INSTANTS, value.filter(lambda found: not (isinstance(found, Constant) and _is_moment(found)))
    )
    durations = st.builds(Duration, DURATIONS, st.just(""))
    return st.one_of(
        _compare(value, _ONE, st.tuples(value)),
        _compare(value, _SEVERAL, st.lists(value, min_size=1, max_size=3).map(tuple)),
        _compare(value, ("exists", "absent"), st.just(())),
        _compare(dated, ("before_date", "after_date"), st.tuples(dated)),
        _compare(dated, tuple(sorted(RELATIVE)), st.tuples(durations)),
    )


def _compare(
    value: st.SearchStrategy[Value],
    how: tuple[Comparison, ...],
    operands: st.SearchStrategy[tuple[Operand, ...]],
) -> st.SearchStrategy[Condition]:
    return st.builds(Compare, value, st.sampled_from(how), operands)


def _is_moment(constant: Constant) -> bool:
    return isinstance(constant.value, str) and instant(constant.value) is not None


def reductions(scope: Scope, levels: int) -> st.SearchStrategy[Reduce]:
    """Return a strategy of reductions, with conditions on what is reduced while levels are left."""
    where = st.none() if levels == 0 else st.one_of(st.none(), conditions("event", levels - 1))
    excluded = st.sets(NAMES, max_size=2).map(lambda found: tuple(sorted(found)))
    windows: st.SearchStrategy[Window | None] = st.one_of(
        st.none(),
        st.builds(Within, DURATIONS, st.booleans()),
        st.builds(Between, DURATIONS, DURATIONS),
        st.builds(Session, DURATIONS),
    )
    of = st.one_of(st.builds(Events, NAMES, where, excluded, windows), st.builds(Entities, NAMES, where))
    value = st.builds(Property, PATHS, st.just("event"))
    return st.one_of(
        st.builds(Reduce, of, st.just("count")),
        st.builds(Reduce, of, st.sampled_from(("sum", "avg", "first", "last", "unique")), value),
        st.builds(
            Reduce, of, st.sampled_from(("min", "max")), value, st.sampled_from((None, "number", "string"))
        ),
        st.builds(
            Reduce,
            of,
            st.just("mode"),
            value,
            st.sampled_from((None, "number", "string", "array")),
            st.integers(0, 3),
        ),
        st.builds(Reduce, of, st.just("unique"), value, counted=st.just(True)),
    )
