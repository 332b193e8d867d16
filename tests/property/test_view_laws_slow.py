"""The laws of views, with many examples."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import view_laws as laws
from pipeline_arrivals import histories
from profilelake.eventlog import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@given(histories(size=24), st.data())
@settings(max_examples=100)
def test_views_of_any_history(records: list[Record], data: st.DataObject) -> None:
    laws.histories_with_decisions(records, data)


@given(histories(), st.data())
@settings(max_examples=20)
def test_views_after_restarts_and_rebuilds(records: list[Record], data: st.DataObject) -> None:
    laws.restarts_and_rebuilds(records, data)
