"""Parts of a lake, each folded by a task that has no other, say together what one fold of everything says."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fold_cases import Case, cases, folds
from profile_parts import check_state, check_tables, state_rows, table_files, written_in_parts
from profilelake.lake.catalog import Lake
from profilelake.lake.handover import TableFiles
from profilelake.lake.storage import LocalStorage
from profilelake.pipeline.publish import ensure_tables

powers = st.sampled_from([1, 2, 16, 64])


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TableFiles]]:
    folder = tmp_path_factory.mktemp("lake")
    lake = Lake.open(f"sqlite:///{folder / 'catalog.sqlite'}", folder / "warehouse")
    ensure_tables(lake, "default")
    yield table_files(lake)
    lake.close()


@given(case=cases(), parts=st.tuples(powers, powers, powers), seed=st.integers(0, 1 << 30))
@settings(max_examples=15)
def test_parts_of_profiles_make_the_tables_and_the_state_of_the_whole(
    tables: dict[str, TableFiles], case: Case, parts: tuple[int, int, int], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = folds(case)
        written = written_in_parts(whole, tables, Path(folder), parts, seed)
        check_tables(written, whole)
        check_state(state_rows(LocalStorage(f"{folder}/warehouse"), written.state), whole)
