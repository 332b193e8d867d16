"""The views of Profiles Sync and of the warehouse say what is, whatever happened and in whatever order.

More examples of the same laws run in `test_view_laws_slow.py`.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

import view_laws as laws
from pipeline_arrivals import histories
from profilelake.eventlog import Record


@given(histories(), st.data())
@settings(max_examples=3)
def test_views_of_any_history(records: list[Record], data: st.DataObject) -> None:
    laws.histories_with_decisions(records, data)


@given(histories(size=8), st.data())
@settings(max_examples=1)
def test_views_after_restarts_and_rebuilds(records: list[Record], data: st.DataObject) -> None:
    laws.restarts_and_rebuilds(records, data)
