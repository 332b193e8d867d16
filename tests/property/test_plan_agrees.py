"""The batch plan of identity says what one process says of the same tables, however finely it is cut."""

import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fold_cases import WEB, Case, cases, fact_tables
from planned_identity import Cutting, Rows, fact_files, in_memory, planned
from profilelake.pipeline.fold_state import records
from profilelake.pipeline.rebuild import fold, standing_of
from profilelake.plans.components import Limits
from profilelake.plans.sizes import Sizes

cuttings = st.builds(
    Cutting,
    st.builds(
        Sizes,
        share_bytes=st.sampled_from([1, 64 << 20]),
        part_bytes=st.sampled_from([2_000, 10_000, 48 << 20]),
        part_members=st.sampled_from([1, 4, 1 << 22]),
        sets_per_part=st.sampled_from([1, 2, 1 << 19]),
    ),
    st.builds(
        Limits,
        unit_sets=st.sampled_from([1, 1 << 23]),
        part_rows=st.sampled_from([1, 1 << 22]),
        finish_bytes=st.sampled_from([1, 1 << 31]),
    ),
)


@given(cases(groups=True), cuttings, st.integers(1, 3), st.integers(0, 3), st.data())
@settings(max_examples=15)
def test_plan_says_what_one_process_says(
    case: Case, cutting: Cutting, files: int, log: int, data: st.DataObject
) -> None:
    tables = fact_tables(case)
    rows = tables["identifiers"].num_rows
    lost = data.draw(st.sets(st.integers(0, rows - 1), max_size=2))
    tables["identifiers"] = tables["identifiers"].take(pa.array(sorted(set(range(rows)) - lost), pa.int64()))
    with duckdb.connect() as connection, tempfile.TemporaryDirectory() as folder:
        connection.execute("SET TimeZone='UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        held = standing_of(connection, case.rules)
        folds = fold(connection, held, frozenset({WEB}))
        facts = fact_files(Path(folder), tables, files, min(log, tables["identifiers"].num_rows))
        found = Rows(*planned(Path(folder), facts, held, frozenset({WEB}), cutting))
        found.check_parts()
        wanted = in_memory([records(folded) for folded in folds])
        said = found.records(held)
        for name, of_name in wanted.items():
            assert said[name] == of_name, name
