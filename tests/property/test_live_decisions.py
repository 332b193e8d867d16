"""Laws of what people decide, live: state and tables are what the reference says of the same facts.

More examples of the same laws run in `test_live_decisions_slow.py`.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline_laws as laws
from pipeline_arrivals import LOGS, Arrival, deliver, identify, reference, said
from pipeline_decisions import HOUR, at_most_one_other, daily_limits, retractions, stories
from pipeline_driver import START, LogBuilder
from profilelake.eventlog import Record


@given(stories(), st.data())
@settings(max_examples=20)
def test_live_identity_is_that_of_the_reference(records: list[Record], data: st.DataObject) -> None:
    laws.live_equals_the_reference(records, data)


@given(stories(windows=True), st.data())
@settings(max_examples=20)
def test_so_it_is_where_limits_count_by_the_day(records: list[Record], data: st.DataObject) -> None:
    laws.live_equals_the_reference(records, data)


@given(stories(windows=True), st.data())
@settings(max_examples=20)
def test_late_arrival_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    laws.late_arrival_changes_nothing(records, data)


@given(stories(windows=True), st.data())
@settings(max_examples=2)
def test_any_cut_into_micro_batches_gives_the_same_tables(records: list[Record], data: st.DataObject) -> None:
    laws.any_cut_gives_the_same_tables(records, data)


@given(stories(windows=True), st.data())
@settings(max_examples=3)
def test_publications_restarts_and_rebuilds_change_nothing(
    records: list[Record], data: st.DataObject
) -> None:
    laws.a_whole_life(records, data)


@pytest.mark.parametrize("decisions", [["windows"], ["retract", "restore"], ["retract"]], ids="-".join)
def test_a_copy_that_came_late_is_known_before_it_is_published(decisions: list[str]) -> None:
    """Its place is the first of its event, and the tables do not have it yet."""
    here, there = LogBuilder(LOGS[0]), LogBuilder(LOGS[1])
    first = {**identify("u1", "a1", None, {}), "messageId": "m1", "timestamp": "2026-01-02T00:00:00Z"}
    second = {**identify("u1", None, "e1@x", {}), "messageId": "m2", "timestamp": "2026-01-01T00:00:00Z"}
    seen = there.record(START + HOUR, [first])
    copy = here.record(START, [first, second])
    facts = {
        "windows": [daily_limits()],
        "retract": retractions([copy, seen], "m1"),
        "restore": retractions([copy, seen], "m1", counts=True),
    }
    decided = [
        here.decision(START + 2 * HOUR + number, fact)
        for number, fact in enumerate(fact for name in decisions for fact in facts[name])
    ]
    with laws.desk() as live:
        deliver(live, Arrival([[seen], [copy, *decided]]))
        assert said(live.state_tables()) == reference([copy, seen, *decided])


def test_who_meets_too_many_is_quarantined_in_a_rebuild_too() -> None:
    log = LogBuilder(LOGS[0])
    calls = [
        {**identify(user, device, "e1@x", {}), "messageId": f"{user}-{device}"}
        for user, device in (("u1", "a1"), ("u2", "a2"), ("u2", "a3"))
    ]
    records = [log.decision(START, at_most_one_other()), log.record(START + HOUR, calls)]
    with laws.desk() as live:
        deliver(live, Arrival([records]))
        before = said(live.state_tables())
        assert before == reference(records)
        assert live.verify() == []
        live.rebuild()
        assert said(live.state_tables()) == before


def test_a_set_that_counts_again_says_anew_when_its_identifiers_were_first_seen() -> None:
    """Its only event was retracted; another one shows it, after one that shows its identifier with others."""
    log = LogBuilder(LOGS[0])
    first, second, third = (
        {**identify(None, "a1", email, {}), "messageId": f"m{number}"}
        for number, email in enumerate((None, "e1@x", None))
    )
    retracted = log.record(START, [first])
    records = [
        retracted,
        log.decision(START + 1, *retractions([retracted], "m0")),
        log.record(START + 2, [second]),
        log.record(START + 3, [third]),
    ]
    with laws.desk() as live:
        deliver(live, Arrival([records]))
        assert said(live.state_tables()) == reference(records)
        assert live.verify() == []
