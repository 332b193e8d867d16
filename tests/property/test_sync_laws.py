"""Folding the identity journals of Profiles Sync gives what is, whatever happened and in whatever order.

More examples of the same laws run in `test_sync_laws_slow.py`.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

import sync_laws as laws
from pipeline_arrivals import histories
from profilelake.eventlog import Record


@given(histories(), st.data())
@settings(max_examples=10)
def test_the_journals_of_events_in_order(records: list[Record], data: st.DataObject) -> None:
    laws.events_in_order(records, data)


@given(histories(), st.data())
@settings(max_examples=10)
def test_the_journals_of_late_events_and_decisions(records: list[Record], data: st.DataObject) -> None:
    laws.late_events_and_decisions(records, data)


@given(histories(), st.data())
@settings(max_examples=1)
def test_the_journals_go_on_after_restarts_and_rebuilds(records: list[Record], data: st.DataObject) -> None:
    laws.restarts_and_rebuilds(records, data)
