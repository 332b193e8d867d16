"""The laws of what people decide, live, over many stories."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline_laws as laws
from pipeline_decisions import stories
from profilelake.eventlog import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@given(stories(calls=30), st.data())
@settings(max_examples=300)
def test_live_identity_is_that_of_the_reference(records: list[Record], data: st.DataObject) -> None:
    laws.live_equals_the_reference(records, data)


@given(stories(calls=30, windows=True), st.data())
@settings(max_examples=300)
def test_so_it_is_where_limits_count_by_the_day(records: list[Record], data: st.DataObject) -> None:
    laws.live_equals_the_reference(records, data)


@given(stories(calls=30, windows=True), st.data())
@settings(max_examples=300)
def test_late_arrival_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    laws.late_arrival_changes_nothing(records, data)


@given(stories(calls=30, windows=True), st.data())
@settings(max_examples=40)
def test_any_cut_into_micro_batches_gives_the_same_tables(records: list[Record], data: st.DataObject) -> None:
    laws.any_cut_gives_the_same_tables(records, data)


@given(stories(calls=30, windows=True), st.data())
@settings(max_examples=80)
def test_publications_restarts_and_rebuilds_change_nothing(
    records: list[Record], data: st.DataObject
) -> None:
    laws.a_whole_life(records, data)
