"""What tasks read of tables comes in pieces that memory, and a column of Arrow, can hold."""

from pathlib import Path

import pyarrow as pa
import pytest

from lake_examples import VISITS, open_lake, upto, visits
from profilelake.lake.pinned import PinnedTable
from profilelake.plans import facts
from profilelake.plans.facts import Read, read_share


def test_wide_rows_come_in_small_pieces_and_narrow_ones_in_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS).append(visits(0, 40_000), upto(1))
    pinned = PinnedTable.of(lake, "w", VISITS.name)
    (share,) = pinned.shares(1 << 40)
    read = Read("rows", "SELECT visit_id, email FROM visits")

    def pieces() -> list[pa.Table]:
        return list(read_share(lake.storage, {VISITS.name: pinned.shape}, share, read))

    assert [piece.num_rows for piece in pieces()] == [40_000]
    monkeypatch.setattr(facts, "READ_BYTES", 1 << 10)
    small = pieces()
    assert sum(piece.num_rows for piece in small) == 40_000
    assert max(piece.num_rows for piece in small) <= facts.FETCHED_ROWS
    assert all(piece.column("email").num_chunks == 1 for piece in small)
