import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.identity import problem
from profilelake.kernels import siphash
from profilelake.semantics.identifiers import ident_prefix
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults

KEY = bytes(range(16))

# Where engines differ: line ends, Unicode classes and case, repeats, an empty text.
PATTERNS = [
    r"^[0-]*$",
    r"^\d+$",
    r"(?i)^k$",
    r"a{0,2}b",
    r"\pL",
    r"x$",
    r"^test|bot",
    r"\Bz",
    r"[a:]$",
    r"\w\s\w",
    r".\z",
]
TEXTS = [
    "000-0",
    "000\n",
    "\n",
    "",
    "٣",
    "K",
    "K",
    "k",
    "x\n",
    "x",
    "aab",
    "a{,2}b",
    "robot",
    "z",
    "az",
    "a\xa0b",
]


@given(
    st.lists(st.sampled_from(PATTERNS), max_size=4, unique=True),
    st.lists(st.sampled_from(TEXTS), max_size=2),
    st.lists(st.one_of(st.sampled_from(TEXTS), st.text(max_size=6)), max_size=8),
    st.booleans(),
)
@settings(max_examples=200)
def test_blocks_whole_columns_as_the_rule_blocks_values(
    patterns: list[str], exact: list[str], values: list[str], encoded: bool
) -> None:
    rule = TypeRule("email", 1, blocked_exact=frozenset(exact), blocked_patterns=tuple(patterns))
    rules = IdentityRules(version=1, types=(rule,))
    column = pa.array(values, pa.string())
    types = pa.array(["email"] * len(values), pa.string())
    if encoded:
        column, types = column.dictionary_encode(), types.dictionary_encode()
    cleaned = problem.clean(types, pa.chunked_array([column], column.type), rules)
    assert cleaned.blocked.tolist() == [rule.blocks(value) for value in values]


def test_type_codes_follow_strength() -> None:
    rules = segment_defaults()
    types = pa.array(["email", "group_id", "user_id", "unheard_of", "android.id"])
    cleaned = problem.clean(types, pa.array(["e", "g", "-1", "x", "d"]), rules)
    assert cleaned.type_code.tolist() == [1, -1, 0, -1, 2]
    assert cleaned.links.tolist() == [True, False, False, False, True]
    accounts = problem.clean(types, pa.array(["e", "g", "-1", "x", "d"]), rules, "accounts")
    assert accounts.type_code.tolist() == [-1, 0, -1, -1, -1]


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["email", "user_id", "ios.id", "unheard_of"]), st.text(max_size=3)),
            max_size=5,
        ),
        max_size=6,
    )
)
@settings(max_examples=100)
def test_members_are_ordered_by_strength_then_value(sets: list[list[tuple[str, str]]]) -> None:
    rules = segment_defaults()
    rows = [row for one in sets for row in one]
    types, values = [type for type, _ in rows], [value for _, value in rows]
    names = sorted(set(types))
    columns = problem.SetColumns(
        offsets=np.cumsum([0, *map(len, sets)], dtype=np.int64),
        types=pa.array(types, pa.string()),
        values=pa.array(values, pa.string()),
        ident_ids=siphash.hash_typed(
            KEY,
            [ident_prefix("users", name) for name in names],
            np.array([names.index(type) for type in types], dtype=np.int32),
            pa.array(values, pa.string()),
        ),
        received_at=np.arange(len(sets), dtype=np.int64),
    )
    translated = problem.problem_of(columns, rules)
    found = translated.problem
    for number, one in enumerate(sets):
        members = found.set_idents[found.set_offsets[number] : found.set_offsets[number + 1]]
        expected = []
        for type, value in one:
            rule = rules.rule("users", type)
            if rule is not None and not rule.blocks(value):
                expected.append((rule.priority, type, value))
        assert [rows[translated.ident_row[ident]] for ident in members] == [
            (type, value) for _, type, value in sorted(expected)
        ]
