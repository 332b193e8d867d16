"""Who belongs to accounts, from the tables alone: every case about memberships."""

from pathlib import Path

import pytest

from account_laws import ASKED, the_tables_say_who_belongs_to_accounts
from condition_worlds import Account, Person, World
from profile_cases import cases
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.errors import Invalid
from profilelake.plans import account_members
from world_lakes import computed, open_lake, write

PEOPLE = tuple(Person((number,), {}, frozenset({"user_id"})) for number in range(3))


def test_every_case(tmp_path: Path) -> None:
    the_tables_say_who_belongs_to_accounts(cases("memberships"), tmp_path)


def test_more_decisions_to_leave_than_tasks_can_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_members, "LEFT_MAX", 1)
    lake = open_lake(tmp_path)
    write(lake, World((), PEOPLE, (Account((0,), {}),)))
    with pytest.raises(Invalid, match=r"2 decisions hold that somebody left, at most 1"):
        computed(lake, ASKED, 0, EmbeddedEngine(tmp_path / "engine"))
    lake.close()


def test_nobody_was_ever_seen_with_an_account(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    write(lake, World((), PEOPLE))
    assert computed(lake, ASKED, 0)["asked"].num_rows == 0
    lake.close()
