"""Tables of one moment are those of one, or it is said that there was none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moment_laws import BOTH, FIRST, commit, stand, tables_are_of_one_moment
from profilelake.errors import NotFound, Unavailable
from profilelake.lake import moment as moments
from profilelake.lake.catalog import Lake, PublishedTable
from profilelake.lake.moment import moment
from profilelake.lake.place import LakePlace

WORKSPACE = "default"


@pytest.fixture
def writing(tmp_path: Path) -> Lake:
    lake = Lake.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}", tmp_path / "lake")
    commit(lake, WORKSPACE, 1)
    return lake


@pytest.fixture
def reading(writing: Lake) -> Lake:
    return Lake.at(writing.place)


@pytest.fixture(params=["one read of the catalog", "one table after the other"])
def asked(request: pytest.FixtureRequest, reading: Lake, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ask as SQL catalogs are asked, and as REST catalogs are: of one that is open, so that it is opened as what it is."""
    reading.any_table()
    if request.param != "one read of the catalog":
        monkeypatch.setattr(LakePlace, "kind", property(lambda _: "rest"))
    return str(request.param)


def disturbed(reading: Lake, writing: Lake, monkeypatch: pytest.MonkeyPatch, times: int) -> Callable[[], int]:
    """Commit to both tables after each of the first looks at the first of them; return how often that was."""
    load, committed = reading.load, 1

    def disturbing(workspace: str, name: str) -> PublishedTable:
        nonlocal committed
        found = load(workspace, name)
        if name == FIRST.name and committed <= times:
            committed += 1
            commit(writing, WORKSPACE, committed)
        return found

    monkeypatch.setattr(reading, "load", disturbing)
    return lambda: committed - 1


@pytest.mark.usefixtures("asked")
class TestOneMoment:
    def test_it_looks_again_until_nothing_moves(
        self, reading: Lake, writing: Lake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moved = disturbed(reading, writing, monkeypatch, 3)
        assert stand(reading, WORKSPACE) == (4, 4)
        assert moved() == 3

    def test_where_there_is_none_it_says_so(
        self, reading: Lake, writing: Lake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(moments, "TRIES_MAX", 4)
        disturbed(reading, writing, monkeypatch, 100)
        with pytest.raises(
            Unavailable, match="at each of 4 looks one of firsts, seconds had been committed to"
        ):
            moment(reading, WORKSPACE, BOTH)

    def test_beside_a_committer(self, reading: Lake, writing: Lake) -> None:
        tables_are_of_one_moment(reading, writing, WORKSPACE, 10)


def test_it_stays_what_it_was(reading: Lake, writing: Lake) -> None:
    now = moment(reading, WORKSPACE, BOTH)
    commit(writing, WORKSPACE, 2)
    progress = now.progress(FIRST.name)
    assert progress is not None
    assert progress.sequence == 1
    assert len(now.load(WORKSPACE, FIRST.name).files) == 1


def test_other_tables_are_not_of_it(reading: Lake) -> None:
    now = moment(reading, WORKSPACE, [FIRST])
    with pytest.raises(NotFound):
        now.load(WORKSPACE, "seconds")
    with pytest.raises(NotFound):
        now.load("other", FIRST.name)
