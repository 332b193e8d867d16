"""Rows between steps come back as they were, in both forms, whole or some columns of them."""

from pathlib import Path

import pyarrow as pa
import pytest

from profilelake.engines import kept
from profilelake.lake.storage import LocalStorage, storage_of

ROWS = pa.table({"id": ["a", "b", "c"], "one": ["1", None, "3"], "other": pa.array([None] * 3, pa.string())})


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    found = storage_of(f"file://{tmp_path}")
    assert isinstance(found, LocalStorage)
    return found


def test_some_columns_come_back_in_the_order_they_are_asked_for(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "ROW_GROUP_ROWS", 2)
    folder = f"{storage.root}/step"
    for files, read in (
        (kept.keep(storage, folder, ROWS, 3), kept.read_kept),
        (kept.keep_wide(storage, folder, ROWS, 3), kept.read_wide),
    ):
        (file,) = files
        assert (file.rows, file.part) == (3, 3)
        assert file.bytes > 0
        assert pa.concat_tables(read(storage, file, ["id", "one", "other"])) == ROWS
    assert pa.concat_tables(kept.read_wide(storage, file, ["other", "id"])) == ROWS.select(["other", "id"])
    assert [rows.num_rows for rows in kept.read_wide(storage, file, ["id"])] == [2, 1]


def test_no_rows_leave_no_file(storage: LocalStorage) -> None:
    folder = f"{storage.root}/step"
    assert kept.keep(storage, folder, ROWS.slice(0, 0)) == []
    assert kept.keep_wide(storage, folder, ROWS.slice(0, 0)) == []
    assert list(storage.list(folder)) == []
