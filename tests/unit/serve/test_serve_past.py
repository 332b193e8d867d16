"""Where questions about the past leave rows for a while."""

from pathlib import Path

import pytest

from profilelake.lake.catalog import Lake
from profilelake.serve._past import Past


def no_lake() -> Lake:
    raise AssertionError("nothing is asked of the lake")


@pytest.mark.parametrize("left", [True, False])
def test_what_a_killed_process_spilled_is_gone_and_nobody_else_can_look(tmp_path: Path, left: bool) -> None:
    spill = tmp_path / "run" / "spill"
    if left:
        spill.mkdir(parents=True, mode=0o755)
        (spill / "duckdb_temp_storage.tmp").write_bytes(b"ann@example.com")
    past = Past(no_lake, lambda _: tmp_path, spill)
    past.start()
    assert list(spill.iterdir()) == []
    assert spill.stat().st_mode & 0o777 == 0o700
    past.close()
