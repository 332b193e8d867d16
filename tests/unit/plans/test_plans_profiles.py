"""A lake with people, accounts, consent and decisions, its profiles made part by part."""

from pathlib import Path

import duckdb
import pytest

from pipeline_arrivals import UNTRUSTED
from pipeline_driver import WORKSPACE, Desk, LogBuilder
from pipeline_history import batches, history
from profile_parts import check_state, check_tables, state_rows, table_files, written_in_parts
from profilelake.errors import Internal
from profilelake.lake.reading import attach
from profilelake.lake.storage import LocalStorage
from profilelake.pipeline.rebuild import Fold, fold, standing_of
from profilelake.plans.written import write_part
from profilelake.profiles.tables import PROFILES
from profilelake.state.store import Db


@pytest.fixture
def folds(tmp_path: Path) -> list[Fold]:
    desk = Desk(tmp_path, untrusted=UNTRUSTED)
    log = LogBuilder("00000000000000aa")
    story = [message for _, message in history(7, 60)]
    for number, batch in enumerate(batches(1, story)):
        desk.apply([log.record(1_772_359_210_000_000 + number * 1_000_000, batch)])
    desk.publish()
    with duckdb.connect() as connection:
        attach(connection, desk.lake, WORKSPACE)
        found = fold(connection, standing_of(connection, desk.setup.rules), UNTRUSTED)
    assert all(len(one.facts.set_ids) for one in found)
    desk.close()
    return found


def test_a_lake_with_accounts_is_the_same_in_parts(folds: list[Fold], tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    written = written_in_parts(folds, table_files(desk.lake), tmp_path, (4, 8, 2), 1)
    desk.close()
    check_tables(written, folds)
    rows = state_rows(LocalStorage(str(tmp_path / "warehouse")), written.state)
    check_state(rows, folds)
    assert rows[Db.MEMBERS]
    assert written.profiles == len(rows[Db.PROFILE])
    assert written.identifiers == len(rows[Db.IDENT])
    assert written.sets == len(rows[Db.SET])


def test_a_key_that_is_there_twice_is_refused(folds: list[Fold], tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    files = table_files(desk.lake)[PROFILES.name]
    desk.publish()
    rows = desk.lake.current_table(WORKSPACE, PROFILES).scan()
    desk.close()
    assert sum(file.rows for file in write_part(files, rows)) == rows.num_rows
    with pytest.raises(Internal, match="two rows have the same profile_id"):
        write_part(files, rows.take([0, 1, 0]))
