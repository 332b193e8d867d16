import pyarrow as pa

from profilelake.audiences.effects import Effect, effect, effects_of_rows
from profilelake.plans.definitions import VALUES


def _values(**values: str) -> pa.Table:
    return pa.table({"profile_id": list(values), "value": list(values.values())}, schema=VALUES)


def test_an_effect_is_who_enters_leaves_changes_and_stays() -> None:
    before = _values(a="1", b="2", c="3")
    after = _values(c="3", b="5", d="1", e="1")
    assert effect(before, after) == Effect(enter=2, leave=1, change=1, stay=1)


def test_nothing_before_or_after_is_no_effect_on_others() -> None:
    some = _values(a="true")
    assert effect(_values(), some) == Effect(1, 0, 0, 0)
    assert effect(some, _values()) == Effect(0, 1, 0, 0)
    assert effect(_values(), _values()) == Effect(0, 0, 0, 0)


def test_rows_of_the_same_profiles_are_compared_in_place() -> None:
    before, after = pa.array(["1", None, "3", None, "5"]), pa.array(["1", "2", None, None, "6"])
    enter, leave, change = effects_of_rows(before, after)
    assert (enter.tolist(), leave.tolist(), change.tolist()) == ([1], [2], [4])
