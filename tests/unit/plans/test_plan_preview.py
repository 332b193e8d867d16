from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import world_lakes
from condition_worlds import HOUR, START, Account, Call, Person, World, position, set_id
from profilelake.audiences.tables import AUDIENCE_MEMBERS
from profilelake.errors import Invalid, ProfilelakeError, Unavailable
from profilelake.identity.tables import IDENTITY_FACTS
from profilelake.lake.catalog import Lake
from profilelake.lake.progress import Progress
from profilelake.plans import preview as previews
from profilelake.plans.preview import Size, estimated, preview
from profilelake.plans.queried import Results
from profilelake.profiles.tables import ACCOUNT_LINKS
from profilelake.semantics.definitions import Definition, Held
from world_ids import account_id, account_sets
from world_lakes import WORKSPACE, open_lake, profile_id, write
from world_lakes import replace as replace_rows
from world_rows import asking, entities

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
    with pytest.raises(Invalid, match="only audiences and computed traits of the language"):
        preview(lake, WORKSPACE, _asked("SELECT 1", "sql_audience"), {}, AT, directory=tmp_path)


# ---- accounts, and rows of entities --------------------------------------------------------------

FIRMS = 400
"""Firm n has the people 2n and 2n + 1; those that are multiples of three have ordered. Firm 0 has everybody else too."""


@pytest.fixture(scope="module")
def firms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lake, World]]:
    directory = tmp_path_factory.mktemp("firms")
    people = tuple(
        Person((_word(n),), {}, frozenset({"user_id"}), ({"a": "pen", "b": float(n)},)) for n in range(PEOPLE)
    )
    calls = tuple(
        Call(_word(n), "track", "Order" if n % 3 == 0 else "Cart", START + n, n + 1) for n in range(PEOPLE)
    )
    accounts = tuple(
        Account((2 * n, 2 * n + 1), {}, ({"a": "pen", "b": 1.0},) * (n % 2)) for n in range(1, FIRMS)
    )
    world = World(calls, people, (Account((0, 1, *range(2 * FIRMS, PEOPLE)), {}), *accounts))
    lake = open_lake(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_lakes, "write_members", partial(_plain_members, lake))
        write(lake, world)
    yield lake, world
    lake.close()


def _plain_members(lake: Lake, _: Lake, world: World) -> None:
    """Write who was seen with whom: nobody ever left."""
    rows = [
        {
            "set_id": set_id(world.people[who].sets[0]),
            "account_set_id": account_sets(number)[0],
            "position": position(1),
            "message_id": f"m{who}",
        }
        for number, account in enumerate(world.accounts)
        for who in account.users
    ]
    links = lake.table(WORKSPACE, ACCOUNT_LINKS)
    links.append(world_lakes.full(ACCOUNT_LINKS, rows), Progress("0", 1), always=True)
    lake.table(WORKSPACE, IDENTITY_FACTS)


def _of_firms(query: str, kind: str = "audience") -> Definition:
    return Definition("new", kind, query, "accounts")  # type: ignore[arg-type]


def test_accounts_are_counted_with_all_of_their_people(firms: tuple[Lake, World], tmp_path: Path) -> None:
    lake, _ = firms
    ordered = sum((2 * n) % 3 == 0 or (2 * n + 1) % 3 == 0 for n in range(FIRMS))
    found = preview(lake, WORKSPACE, _of_firms(f"ANY( {ORDERED} )"), {}, AT, directory=tmp_path)
    assert (found.how, found.profiles, found.sampled, found.events) == ("exact", FIRMS, FIRMS, PEOPLE // 3)
    assert found.size == Size(ordered, ordered, ordered)
    counts = preview(
        lake, WORKSPACE, _of_firms("event('Order').count()", "trait"), {}, AT, directory=tmp_path
    )
    others = len([who for who in (0, 1, *range(2 * FIRMS, PEOPLE)) if who % 3 == 0])
    assert counts.size.count == ordered
    many = preview(
        lake, WORKSPACE, _of_firms(f"event('Order').count() >= {others}"), {}, AT, directory=tmp_path
    )
    assert many.examples == ((account_id(0), "true"),)


def test_a_sample_of_accounts_says_so_and_comes_close(firms: tuple[Lake, World], tmp_path: Path) -> None:
    lake, _ = firms
    asked = _of_firms(f"ANY( {ORDERED} )")
    truth = sum((2 * n) % 3 == 0 or (2 * n + 1) % 3 == 0 for n in range(FIRMS))
    inside = 0
    for seed in range(8):
        found = preview(lake, WORKSPACE, asked, {}, AT, directory=tmp_path, seed=seed, sample_profiles=120)
        assert found.how == "estimate"
        assert 60 < found.sampled < 180
        inside += found.size.low <= truth <= found.size.high
    assert inside >= 6


def test_accounts_with_more_people_than_are_looked_at_are_not_guessed(
    firms: tuple[Lake, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, _ = firms
    monkeypatch.setattr(previews, "PEOPLE_MAX", PEOPLE - 1)
    found = preview(lake, WORKSPACE, _of_firms(ORDERED), {}, AT, directory=tmp_path)
    assert (found.how, found.size) == ("unknown", Size(0, 0, 0))
    assert f"the {FIRMS} accounts that are looked at have {PEOPLE:,} people" in found.failure
    assert "profilelake compute" in found.failure


@pytest.mark.parametrize("target", ["users", "accounts"])
def test_rows_of_entities_are_asked_for(
    firms: tuple[Lake, World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    lake, world = firms
    query = "entity('orders').where(property('b') >= 100).count() >= 1"
    wanted = PEOPLE - 100
    if target == "accounts":
        query, wanted = "entity('orders').count() >= 1", FIRMS // 2
    asked = Definition("new", "audience", query, target)  # type: ignore[arg-type]
    others = entities(target)  # type: ignore[arg-type]
    ask = asking(world, tmp_path)
    spill = tmp_path / "spill"
    found = preview(lake, WORKSPACE, asked, others, AT, directory=spill, ask=ask)
    assert (found.how, found.size.count) == ("exact", wanted)
    found = preview(lake, WORKSPACE, asked, others, AT, directory=spill, ask=ask, sample_profiles=100)
    assert (found.how, found.size.low <= wanted <= found.size.high) == ("estimate", True)
    monkeypatch.setattr(previews, "QUERIED_ROWS_MAX", 10)
    found = preview(lake, WORKSPACE, asked, others, AT, directory=spill, ask=ask)
    assert found.how == "unknown"
    assert "a preview looks at 10 at most" in found.failure
    failing = partial(_failing, Unavailable("there is no jail"))
    found = preview(lake, WORKSPACE, asked, others, AT, directory=spill, ask=failing)
    assert (found.how, found.failure) == ("unknown", "the query of orders gave nothing: there is no jail")
    with pytest.raises(Invalid, match="nothing here runs the query of orders"):
        preview(lake, WORKSPACE, asked, others, AT, directory=spill)


def _failing(
    error: ProfilelakeError, definitions: Iterable[Definition], _stopped: object
) -> tuple[Results, dict[str, ProfilelakeError]]:
    return Results(), {one.key: error for one in definitions}


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
