from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from condition_worlds import HOUR, START, Call, Person, World, set_id
from profilelake.audiences import preview as previews
from profilelake.audiences.preview import Size, estimated, preview
from profilelake.audiences.tables import AUDIENCE_MEMBERS
from profilelake.errors import Invalid
from profilelake.lake.catalog import Lake
from profilelake.semantics.definitions import Definition, Held
from world_lakes import WORKSPACE, open_lake, profile_id, write
from world_lakes import replace as replace_rows

PEOPLE = 1_500
AT = START + 100 * HOUR
ORDERED = "event('Order').count() >= 1"
"""Every third person."""


def _word(number: int) -> int:
    """Return a number whose set id begins with bits that look drawn by lot."""
    return int(np.random.default_rng(number).integers(1 << 40))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    directory = tmp_path_factory.mktemp("lake")
    numbers = [_word(number) for number in range(PEOPLE)]
    people = tuple(
        Person((number,), {"t": place % 4}, frozenset({"user_id"})) for place, number in enumerate(numbers)
    )
    calls = tuple(
        Call(number, "track", "Order" if place % 3 == 0 else "Cart", START + place, place + 1)
        for place, number in enumerate(numbers)
    )
    lake = open_lake(directory)
    write(lake, World(calls, people))
    yield lake
    lake.close()


def _slot(number: int) -> int:
    return int.from_bytes(set_id(number)[:2], "big")


def _asked(query: str, kind: str = "audience") -> Definition:
    return Definition("new", kind, query)  # type: ignore[arg-type]


def test_few_profiles_are_counted_exactly(lake: Lake, tmp_path: Path) -> None:
    found = preview(lake, WORKSPACE, _asked(f"{ORDERED} AND trait('t') = 1"), {}, AT, directory=tmp_path)
    assert found.how == "exact"
    assert (found.profiles, found.sampled, found.events) == (PEOPLE, PEOPLE, PEOPLE // 3)
    assert found.size == Size(125, 125, 125)
    assert found.parts == ((ORDERED, Size(500, 500, 500)), ("trait('t') = 1", Size(375, 375, 375)))
    assert len(found.examples) == previews.MEMBERS_MAX
    assert found.change is None
    assert not list(tmp_path.iterdir())


def test_a_sample_says_so_and_comes_close(lake: Lake, tmp_path: Path) -> None:
    asked = _asked(ORDERED)
    inside, counts = 0, set()
    for seed in range(12):
        found = preview(
            lake,
            WORKSPACE,
            asked,
            {},
            AT,
            directory=tmp_path,
            seed=seed,
            sample_profiles=300,
            exact_events_max=10,
        )
        assert found.how == "estimate"
        assert 150 < found.sampled < 450
        inside += found.size.low <= PEOPLE // 3 <= found.size.high
        counts.add(found.size.count)
    # Of 100 samples five may be off; of twelve, more than three are so once in some ten thousand times.
    assert inside >= 9
    assert len(counts) > 3


def test_the_same_seed_gives_the_same_answer(lake: Lake, tmp_path: Path) -> None:
    once, again = (
        preview(lake, WORKSPACE, _asked(ORDERED), {}, AT, directory=tmp_path, seed=5, sample_profiles=200)
        for _ in range(2)
    )
    assert once == again
    assert once.how == "estimate"


def test_an_edit_says_who_comes_and_goes(lake: Lake, tmp_path: Path) -> None:
    held = Held(_asked("trait('t') = 0"), 1, bytes(32), bytes(32))
    found = preview(lake, WORKSPACE, _asked(ORDERED), {"new": held}, AT, directory=tmp_path)
    assert found.change is not None
    enter, leave, change = found.change.enter, found.change.leave, found.change.change
    assert (enter.count, leave.count, change.count) == (375, 250, 0)


def test_audiences_that_share_members_are_told(lake: Lake, tmp_path: Path) -> None:
    numbers = [_word(number) for number in range(PEOPLE)]
    members = [
        {
            "value_id": f"third/{number}",
            "definition": "third",
            "profile_id": profile_id(Person((number,), {}, frozenset())),
            "version": 1,
            "slot": _slot(number),
        }
        for place, number in enumerate(numbers)
        if place % 6 == 0
    ]
    replace_rows(lake, AUDIENCE_MEMBERS, members)
    found = preview(lake, WORKSPACE, _asked(ORDERED), {}, AT, directory=tmp_path)
    assert found.overlaps == (("third", Size(250, 250, 250)),)


def test_what_takes_too_long_is_not_guessed(lake: Lake, tmp_path: Path) -> None:
    found = preview(lake, WORKSPACE, _asked(ORDERED), {}, AT, directory=tmp_path, seconds_max=0.0)
    assert found.how == "unknown"
    assert found.size == Size(0, 0, 0)
    assert "longer than 0 seconds" in found.failure


def test_other_kinds_are_refused(lake: Lake, tmp_path: Path) -> None:
    for odd in (replace(_asked(ORDERED), target="accounts"), _asked("SELECT 1", "sql_audience")):
        with pytest.raises(Invalid, match="only audiences and computed traits of users"):
            preview(lake, WORKSPACE, odd, {}, AT, directory=tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("sampled", [50, 2_000, 9_900])
def test_the_interval_holds_the_truth_in_95_of_100_samples(share: float, sampled: int) -> None:
    everybody = 10_000
    truth = round(share * everybody)
    rng = np.random.default_rng((7, truth, sampled))
    hits = rng.hypergeometric(truth, everybody - truth, sampled, size=2_000) if truth else np.zeros(10, int)
    sizes = [estimated(int(hit), sampled, everybody) for hit in hits]
    inside = sum(size.low <= truth <= size.high for size in sizes) / len(sizes)
    assert inside >= 0.93
    assert all(size.low <= size.count <= size.high for size in sizes)


def test_what_was_counted_whole_is_certain() -> None:
    assert estimated(7, 10, 10) == Size(7, 7, 7)
    assert estimated(0, 0, 0) == Size(0, 0, 0)
    assert estimated(0, 0, 50) == Size(0, 0, 50)
