"""Jobs that compute definitions over a lake: which of them are gone on with."""

from pathlib import Path
from typing import Any

import pytest

from account_laws import ASKED
from condition_worlds import HOUR, START, Account, Call, Person, World, events_table, set_id
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.identity.tables import SET_MAP
from profilelake.lake.catalog import Lake, PublishedTable
from profilelake.lake.progress import Progress
from profilelake.landing.tables import EVENTS
from profilelake.plans import definitions
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.definitions import Definition, Held
from profilelake.traits.steps import Plan, planned
from world_lakes import WORKSPACE, open_lake, profile_id, replace, write


def test_what_a_program_with_other_steps_has_kept_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    write(lake, World((), (Person((0,), {}, frozenset({"user_id"})),)))
    engine, asked = EmbeddedEngine(tmp_path / "engine"), definitions.Asked(ASKED, 0)
    ids = []
    for more in (0, 0, 1):
        monkeypatch.setattr(definitions, "FORMAT", definitions.FORMAT + more)
        job, _ = definitions.compute(engine, lake, WORKSPACE, asked)
        with job:
            ids.append(job.id)
    assert ids[0] == ids[1] != ids[2]
    lake.close()


NOBODY = frozenset({"user_id"})
PEOPLE = (Person((0, 1), {}, NOBODY), Person((2, 3), {}, NOBODY), Person((4,), {}, NOBODY))
CALLS = tuple(
    Call(place % 6, "track", "Order", START + HOUR * place, place + 1) for place in (0, 1, 2, 3, 5, 8, 9, 11)
)
"""Of sets 0, 1, 2 and 3, and 5, which is nobody's; nothing happened in 4."""
ORDERS = Definition("orders", "trait", "event('Order').count()")
FIRM_ORDERS = Definition("firm_orders", "trait", "event('Order').count()", "accounts")


def plan(*of: Definition) -> Plan:
    return planned({one.key: Held(one, 1, bytes(32), bytes(32)) for one in of})


def sets(*owned: tuple[int, int | None]) -> list[dict[str, Any]]:
    """Return rows of `set_map`: sets with the places of the people they belong to."""
    return [
        {"set_id": set_id(one), "profile_id": None if who is None else profile_id(PEOPLE[who])}
        for one, who in owned
    ]


ALL = ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2))


@pytest.mark.parametrize("joined_max", [definitions.SETS_JOINED_MAX, 0], ids=["by profile", "by set"])
@pytest.mark.parametrize(
    ("asked", "owned", "profiles", "unpublished"),
    [
        # Whoever has no profile by the rules is not waited for.
        ((ORDERS,), (*ALL, (5, None)), (0, 1, 2), 0),
        # It is not told yet whose set 5 is.
        ((ORDERS,), ALL, (0, 1, 2), 1),
        ((FIRM_ORDERS,), ALL, (0, 1, 2), 1),
        # Sets 2 and 3 have events, and their profile is not there.
        ((ORDERS,), (*ALL, (5, None)), (0, 2), 2),
        ((ORDERS, FIRM_ORDERS), (*ALL, (5, None)), (0, 2), 2),
        ((FIRM_ORDERS,), (*ALL, (5, None)), (0, 2), 2),
        # Nothing happened in set 4.
        ((ORDERS,), (*ALL, (5, None)), (0, 1), 0),
        ((ORDERS,), ((0, 0), (4, 2)), (2,), 5),
        ((ORDERS,), (), (), 5),
    ],
)
def test_who_is_in_no_published_profile_is_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    joined_max: int,
    asked: tuple[Definition, ...],
    owned: tuple[tuple[int, int | None], ...],
    profiles: tuple[int, ...],
    unpublished: int,
) -> None:
    monkeypatch.setattr(definitions, "SETS_JOINED_MAX", joined_max or -1)
    lake = open_lake(tmp_path)
    write(lake, World(CALLS, PEOPLE, (Account((0, 1), {}),)))
    replace(lake, SET_MAP, sets(*owned), 2)
    kept = [
        row for row in lake_rows(lake) if row["profile_id"] in {profile_id(PEOPLE[who]) for who in profiles}
    ]
    replace(lake, PROFILES, kept, 2)
    engine = EmbeddedEngine(tmp_path / "engine")
    job, found = definitions.compute(
        engine, lake, WORKSPACE, definitions.Asked(plan(*asked), START + 99 * HOUR)
    )
    with job:
        assert found.unpublished == unpublished
        if ORDERS in asked:
            values = dict(zip(*found.values()["orders"].to_pydict().values(), strict=True))
            counts = {0: 2, 1: 4}
            mine = {who for _, who in owned if who is not None} & set(profiles) & counts.keys()
            if len(owned) >= len(ALL):
                assert values == {profile_id(PEOPLE[who]): str(counts[who]) for who in mine}
    lake.close()


def lake_rows(lake: Lake) -> list[dict[str, Any]]:
    return list(lake.current_table(WORKSPACE, PROFILES).scan().to_pylist())


def test_all_tables_are_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publication in the midst of the first look would tell of a person's events and not of the person."""
    lake = open_lake(tmp_path)
    write(lake, World(CALLS[:3], PEOPLE))
    load, moved = Lake.load, False

    def moving(self: Lake, workspace: str, name: str) -> PublishedTable:
        nonlocal moved
        found = load(self, workspace, name)
        if name == EVENTS.name and not moved:
            moved = True
            replace(lake, SET_MAP, sets(*ALL), 2)
            table = lake.table(WORKSPACE, EVENTS)
            table.append(events_table(CALLS[3:]), Progress("0", 2), always=True)
        return found

    monkeypatch.setattr(Lake, "load", moving)
    asked = definitions.Asked(plan(ORDERS), START + 99 * HOUR)
    job, found = definitions.compute(EmbeddedEngine(tmp_path / "engine"), lake, WORKSPACE, asked)
    with job:
        assert moved
        assert found.events == len(CALLS)
        progress = found.moment.progress(EVENTS.name)
        assert progress is not None
        assert progress.sequence == 2
    lake.close()
