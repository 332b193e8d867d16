"""Laws of the past: many examples."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from as_of_laws import every_event_is_told_once, then_is_what_was_known_then
from pipeline_arrivals import histories
from pipeline_decisions import stories
from profilelake.eventlog import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@given(stories(), st.data())
@settings(max_examples=100)
def test_with_decisions_between(records: list[Record], data: st.DataObject) -> None:
    then_is_what_was_known_then(records, data)


@given(stories(windows=True), st.data())
@settings(max_examples=100)
def test_under_rules_that_count_by_the_day(records: list[Record], data: st.DataObject) -> None:
    then_is_what_was_known_then(records, data)


@given(histories(), st.data())
@settings(max_examples=100)
def test_with_events_that_were_sent_again(records: list[Record], data: st.DataObject) -> None:
    then_is_what_was_known_then(records, data)


@given(st.one_of(stories(), histories()), st.data())
@settings(max_examples=100)
def test_every_event_is_told_once(records: list[Record], data: st.DataObject) -> None:
    every_event_is_told_once(records, data)
