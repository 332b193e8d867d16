"""Names of events come together by name, wherever their units put them."""

from profilelake.plans.shapes import parts_by_name


def test_each_name_is_in_one_part_and_no_part_has_them_all() -> None:
    groups: list[tuple[str, str | None]] = [("track", f"event {number}") for number in range(200)]
    groups += [("page", None), ("identify", None), ("track", "")]
    parts = parts_by_name(groups, 16)
    assert parts_by_name(groups[::-1], 16).tolist() == parts.tolist()[::-1]
    assert set(parts.tolist()) == set(range(16))
    assert set(parts_by_name(groups, 1).tolist()) == {0}
    assert parts_by_name([], 4).tolist() == []
