"""Laws of the past: a few examples; many are in `test_as_of_laws_slow.py`."""

from hypothesis import given, settings
from hypothesis import strategies as st

from as_of_laws import every_event_is_told_once, then_is_what_was_known_then
from pipeline_arrivals import histories
from pipeline_decisions import stories
from profilelake.eventlog import Record


@given(st.one_of(stories(calls=8), stories(calls=8, windows=True), histories(size=8)), st.data())
@settings(max_examples=3)
def test_as_of_is_what_was_known_then(records: list[Record], data: st.DataObject) -> None:
    then_is_what_was_known_then(records, data)


@given(st.one_of(stories(calls=8), histories(size=8)), st.data())
@settings(max_examples=3)
def test_every_event_is_told_once(records: list[Record], data: st.DataObject) -> None:
    every_event_is_told_once(records, data)
