"""Laws of the pipeline: what comes out depends on the facts alone, not on how they arrived.

More examples of the same laws run in `test_pipeline_laws_slow.py`.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline_laws as laws
from pipeline_arrivals import histories
from profilelake.eventlog import Record


@given(histories(), st.data())
@settings(max_examples=25)
def test_live_identity_and_traits_are_those_of_the_reference(
    records: list[Record], data: st.DataObject
) -> None:
    laws.live_equals_the_reference(records, data)


@given(histories(), st.data())
@settings(max_examples=25)
def test_late_arrival_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    laws.late_arrival_changes_nothing(records, data)


@given(histories(conflicts=True), st.data())
@settings(max_examples=2)
def test_any_cut_into_micro_batches_gives_the_same_tables(records: list[Record], data: st.DataObject) -> None:
    laws.any_cut_gives_the_same_tables(records, data)


@given(histories(), st.data())
@settings(max_examples=3)
def test_publications_restarts_and_rebuilds_change_nothing(
    records: list[Record], data: st.DataObject
) -> None:
    laws.a_whole_life(records, data)


@given(histories(conflicts=True), st.data())
@settings(max_examples=3)
def test_repeats_change_only_their_count(records: list[Record], data: st.DataObject) -> None:
    laws.repeats_change_only_their_count(records, data)
