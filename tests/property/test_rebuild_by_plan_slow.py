"""Whatever happened and was decided, a rebuild cut into random parts leaves what one in memory does."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_arrivals import UNTRUSTED, in_order, late
from pipeline_decisions import stories
from pipeline_driver import Desk
from profilelake.eventlog import Record
from profilelake.plans.rebuild import Cutting
from profilelake.plans.sizes import Sizes
from profilelake.semantics.consent import POLICIES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CURRENT = ("set_map", "identifiers", "identity_map", "identity_refusals", "profiles", "schema")
bytes_each = st.sampled_from([2_000, 10_000, 1 << 26])
cuttings = st.builds(
    Cutting,
    st.builds(
        Sizes,
        share_bytes=bytes_each,
        part_bytes=bytes_each,
        part_members=st.sampled_from([4, 64, 1 << 22]),
        sets_per_part=st.sampled_from([1, 8, 1 << 19]),
    ),
    st.none(),
    st.sampled_from([None, 1, 4, 32]),
)


@given(stories(windows=True), st.sampled_from(POLICIES), cuttings, st.data())
@settings(max_examples=30)
def test_any_cutting_leaves_what_a_rebuild_in_memory_does(
    records: list[Record], policy: str, cutting: Cutting, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(
            Path(folder), untrusted=UNTRUSTED, consent_policy=next(p for p in POLICIES if p == policy)
        )
        for batch in data.draw(st.one_of(in_order(records), late(records))).batches:
            desk.apply(batch)
            desk.publish(whole=False)
        desk.publish()
        # Of two copies of one event a live table may show either, so the measure is another rebuild.
        desk.rebuild()
        tables, state = desk.lake_tables(*CURRENT), desk.state_tables()
        desk.rebuild_by_plan(cutting)
        assert desk.verify() == []
        assert desk.lake_tables(*CURRENT) == tables
        assert desk.state_tables() == state
        desk.close()
