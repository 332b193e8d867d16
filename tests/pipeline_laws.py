"""The laws themselves, run with few examples in the fast suite and with many in the slow one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import event, note
from hypothesis import strategies as st

from pipeline_arrivals import ACCOUNTED, UNTRUSTED, Arrival, deliver, in_order, journal, late, reference, said
from pipeline_driver import SECOND, WORKSPACE, Desk, LogBuilder, Rows, small_limits
from profilelake.eventlog import Record
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP
from profilelake.profiles.tables import PROFILES
from profilelake.state.store import Db

CURRENT = (SET_MAP.name, IDENTIFIERS.name, IDENTITY_MAP.name, IDENTITY_REFUSALS.name, PROFILES.name)
LAST_SEEN = PROFILES.schema().get_field_index("last_seen_at")


@contextmanager
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        small_limits(patch.setattr)
        made = Desk(Path(folder), untrusted=UNTRUSTED)
        try:
            yield made
        finally:
            made.close()


def live_equals_the_reference(records: list[Record], data: st.DataObject) -> None:
    """Identity and traits are those of the plain definitions, and the journal folds to the owners."""
    with desk() as live:
        deliver(live, data.draw(in_order(records)))
        tables = live.state_tables()
        assert said(tables) == reference(records)
        assert journal(live) == said(tables)["owners"]
        event(f"refusals: {bool(tables[IDENTITY_REFUSALS.name])}")


def late_arrival_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    """Records that were held back, and then came, leave what they would have left in order."""
    with desk() as prompt, desk() as tardy:
        deliver(prompt, Arrival([records]))
        deliver(tardy, data.draw(late(records)))
        assert _differing(_timeless(tardy.state_tables()), _timeless(prompt.state_tables())) == {}
        assert said(tardy.state_tables()) == reference(records)
        assert journal(tardy) == said(tardy.state_tables())["owners"]
        assert _accounted(tardy) == _accounted(prompt)


def a_whole_life(records: list[Record], data: st.DataObject) -> None:
    """Late records, publications, maintenance, restarts and rebuilds in any order: the tables stay right."""
    arrival = data.draw(late(records))
    with desk() as prompt, desk() as lived:
        deliver(prompt, Arrival([records]))
        for batch in arrival.batches:
            lived.apply(batch)
            for step in data.draw(st.lists(st.sampled_from(sorted(STEPS)), max_size=3)):
                note(step)
                STEPS[step](lived)
        assert lived.verify() == []
        assert _differing(lived.lake_tables(*CURRENT), lived.state_tables()) == {}
        assert _differing(_timeless(lived.state_tables()), _timeless(prompt.state_tables())) == {}
        assert _accounted(lived) == _accounted(prompt)
        _nothing_waits(lived)


def any_cut_gives_the_same_tables(records: list[Record], data: st.DataObject) -> None:
    """The same records in other micro-batches give equal tables, rows of facts included."""
    facts = ("events", "failed_events", "event_copies")
    with desk() as one, desk() as many:
        deliver(one, Arrival([records]))
        for batch in data.draw(in_order(records)).batches:
            many.apply(batch)
            many.publish(whole=False)
        for made in (one, many):
            assert made.verify() == []
            _nothing_waits(made)
        assert _differing(many.lake_tables(*CURRENT, *facts), one.lake_tables(*CURRENT, *facts)) == {}
        assert _accounted(many) == _accounted(one)


def repeats_change_only_their_count(records: list[Record], data: st.DataObject) -> None:
    """All records again, after any of the ways in which the index of message ids may lie on disk."""
    with desk() as live:
        deliver(live, data.draw(in_order(records)))
        live.publish()
        before, counted = live.state_tables(), _accounted(live)
        data.draw(st.sampled_from([_nothing, Desk.restart, Desk.rebuild, Desk.tend]))(live)
        other = LogBuilder("00000000000000cc")
        later = records[-1].received_at + SECOND
        live.apply(
            [
                other.record(later + number, (), body=record.body, events=record.events)
                for number, record in enumerate(records)
            ]
        )
        after = _accounted(live)
        assert live.verify() == []
        assert _differing(_timeless(live.state_tables()), _timeless(before)) == {}
        assert after["in_lake"] == counted["in_lake"]
        assert sum(after.values()) == 2 * sum(counted.values())


def _nothing(_desk: Desk) -> None:
    return None


def _publish_some(lived: Desk) -> None:
    lived.publish(whole=False)


def _publish_all(lived: Desk) -> None:
    lived.publish()


def _merge(lived: Desk) -> None:
    lived.publisher.merge()


def _tend(lived: Desk) -> None:
    lived.publisher.tend_runs()


def _verify(lived: Desk) -> None:
    assert lived.verify() == []


STEPS = {
    "publish some": _publish_some,
    "publish all": _publish_all,
    "merge": _merge,
    "tend": _tend,
    "restart": Desk.restart,
    "rebuild": Desk.rebuild,
    "rebuild by plan": Desk.rebuild_by_plan,
    "verify": _verify,
}


def _timeless(tables: dict[str, Rows]) -> dict[str, Rows]:
    """Leave out when profiles were last seen: of two copies of one event the row of either may be kept."""
    shown = dict(tables)
    shown[PROFILES.name] = [(*row[:LAST_SEEN], *row[LAST_SEEN + 1 :]) for row in tables[PROFILES.name]]
    return shown


def _differing(found: dict[str, Rows], wanted: dict[str, Rows]) -> dict[str, tuple[Rows, Rows]]:
    """Return the rows that only one side has, by table."""
    return {
        name: (
            [row for row in found[name] if row not in wanted[name]],
            [row for row in wanted[name] if row not in found[name]],
        )
        for name in found
        if found[name] != wanted[name]
    }


def _accounted(lived: Desk) -> dict[str, int]:
    totals = lived.applied().totals
    return {name: totals.get(name, 0) for name in ACCOUNTED}


def _nothing_waits(lived: Desk) -> None:
    with lived.state.read(WORKSPACE) as tx:
        assert tx.count(WORKSPACE, Db.OUTBOX) == 0
        assert tx.count(WORKSPACE, Db.DIRTY) == 0
