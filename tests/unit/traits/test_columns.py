"""Columns of values, and what is known of how long they stand."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.semantics.conditions.values import canonical
from profilelake.traits.columns import NEVER, Coded, Subjects, Truth, all_of, any_of, number_texts

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite | finite.map(lambda value: round(value % 1e6, 2)) | st.integers(-(2**60), 2**60)))
def test_numbers_are_written_as_the_reference_writes_them(values: list[float]) -> None:
    column = np.array(values, dtype=np.float64)
    assert number_texts(column).to_pylist() == [canonical(value) for value in column.tolist()]


def test_what_fails_longest_decides_how_long_an_and_fails() -> None:
    holds = Truth(np.array([True, False, False]), np.array([5, 5, 5]))
    other = Truth(np.array([True, True, False]), np.array([9, 3, 9]))
    both = all_of([holds, other])
    assert both.holds.tolist() == [True, False, False]
    assert both.changes.tolist() == [5, 5, 9]
    either = any_of([holds, other])
    assert either.holds.tolist() == [True, True, False]
    assert either.changes.tolist() == [9, 3, 5]


truths = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=4)


@given(truths, st.lists(st.booleans(), min_size=4, max_size=4), st.integers(1, 9))
def test_the_answer_of_parts_stands_as_long_as_it_is_said_to(
    parts: list[tuple[bool, int]], turned: list[bool], later: int
) -> None:
    told = [Truth(np.array([holds]), np.array([changes])) for holds, changes in parts]
    # A part may be anything once its time has come.
    after = [
        holds if later < changes else turn for (holds, changes), turn in zip(parts, turned, strict=False)
    ]
    both, either = all_of(told), any_of(told)
    if later < both.changes[0]:
        assert all(after) == both.holds[0]
    if later < either.changes[0]:
        assert any(after) == either.holds[0]


def test_null_is_missing() -> None:
    column = Coded.of(pa.array(["null", "1", None], pa.string()))
    assert column.codes.tolist()[0] == column.codes.tolist()[2] == -1
    assert column.json().to_pylist() == [None, "1", None]


def test_a_path_leads_into_objects_and_through_arrays() -> None:
    column = Coded.of(pa.array([json.dumps({"a": [{"b": 1}, {"b": [2]}]}), '{"a":{}}', "3"]))
    assert column.at(("a", "b")).json().to_pylist() == ["[1,2]", None, None]


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (0, 2), (1, 3), (1, 1)])
def test_a_part_of_accounts_has_the_users_of_these(start: int, stop: int) -> None:
    words = np.arange(8, dtype=np.uint64).reshape(-1, 2)
    people = Subjects(
        count=4,
        set_keys=words,
        set_owner=np.arange(4),
        traits={"t": pa.array(["0", "1", "2", "3"])},
    )
    pairs = np.array([[0, 3], [1, 1], [1, 3], [2, 0]])
    whole = Subjects(
        count=3, set_keys=words[:0], set_owner=np.zeros(0, dtype=np.int64), users=people, user_accounts=pairs
    )
    part = whole.part(start, stop)
    assert part.users is not None
    traits = part.users.traits["t"].to_pylist()
    found = {(start + account, traits[user]) for account, user in part.user_accounts.tolist()}
    assert found == {(account, str(user)) for account, user in pairs.tolist() if start <= account < stop}
    assert len(part.users.set_keys) == part.users.count == len(traits)
    assert np.iinfo(np.int64).max == NEVER
