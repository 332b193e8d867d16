"""Partials in the state: what is kept, read again, and dropped."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from condition_worlds import Call, events_table, set_id
from partials_read import rows_of, worth
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.conditions.tree import Reduce
from profilelake.state.store import Db, State, Tx
from profilelake.traits import stored
from profilelake.traits.fold import fold
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import DAY_MICROS, nodes, step_of

WORKSPACE = "default"
TODAY = 20_500
NOW = TODAY * DAY_MICROS + DAY_MICROS // 2
COUNT = "event('Order').count() > 0"
RECENT = "event('Order').within(2 days).count() > 0"
SUM = "event('Order').within(2 days).sum( property('a') )"
LAST = "event('Order').last( property('a') )"
VISIT = "event('Order').expires_after(1 day).count() > 0"


def numbered(number: int, text: str) -> Numbered:
    reduce = next(node for node in nodes(parse(text)) if isinstance(node, Reduce))
    return Numbered(number, step_of(reduce, b""))


def order(set: int, at: int, value: object = 1, number: int = 1) -> Call:
    return Call(set, "track", "Order", at, number, properties={"a": value})  # type: ignore[dict-item]


@pytest.fixture
def tx(tmp_path: Path) -> Iterator[Tx]:
    state = State.open(tmp_path / "state", writable=True)
    state.ensure([WORKSPACE])
    with state.write() as open_tx:
        yield open_tx
    state.close()


def add(tx: Tx, steps: list[Numbered], *calls: Call) -> None:
    stored.add(tx, WORKSPACE, fold(events_table(calls), steps), steps)


def read(tx: Tx, steps: list[Numbered], at: int = NOW) -> Partials:
    return stored.read(tx, WORKSPACE, [set_id(1), set_id(2)], at, steps)


def test_what_is_added_in_parts_is_read_as_a_whole(tx: Tx) -> None:
    steps = [numbered(7, COUNT), numbered(8, SUM), numbered(9, LAST), numbered(10, VISIT)]
    add(tx, steps, order(1, NOW - 9, 1), order(2, NOW - 8, 5))
    add(tx, steps, order(1, NOW - DAY_MICROS, 2.5))
    partials = read(tx, steps)
    said = [worth(partials, step, step.step.reduce, set_id(1), NOW) for step in steps]
    assert said == [2, 3.5, 1, 2]
    assert worth(partials, steps[1], steps[1].step.reduce, set_id(2), NOW) == 5


def test_only_days_at_the_edges_of_windows_are_read_event_by_event(tx: Tx) -> None:
    steps = [numbered(7, RECENT)]
    add(tx, steps, *(order(1, NOW - day * DAY_MICROS) for day in range(4)))
    partials = read(tx, steps)
    assert [row["bucket"] for row in rows_of(partials.counts, set_id(1), 7)] == [TODAY - 2, TODAY - 1, TODAY]
    assert [row["at"] for row in rows_of(partials.entries, set_id(1), 7)] == [NOW - 2 * DAY_MICROS, NOW]


def test_events_of_a_busy_day_are_not_all_written_again_with_each(
    tx: Tx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LEVELS", (256, 2048))
    steps = [numbered(7, RECENT), numbered(8, SUM)]
    written = []
    put_many = Tx.put_many

    def watched(self: Tx, workspace: str, db: Db, items: Iterable[tuple[bytes, bytes]]) -> None:
        items = list(items)
        written.extend(len(value) for _, value in items if db is Db.STEP_ENTRY)
        put_many(self, workspace, db, items)

    monkeypatch.setattr(Tx, "put_many", watched)
    for second in range(300):
        add(tx, steps, order(1, NOW + second, second))
    kept = sum(len(value) for _, value in tx.items(WORKSPACE, Db.STEP_ENTRY))
    assert sum(written) < 20 * kept  # 150 times, were all of them written each time
    assert tx.count(WORKSPACE, Db.STEP_ENTRY) <= 3
    partials = read(tx, steps, NOW + 300)
    said = [worth(partials, step, step.step.reduce, set_id(1), NOW + 300) for step in steps]
    assert said == [300, sum(range(300))]


def test_events_of_any_size_of_day_go_when_no_window_asks_for_them(
    tx: Tx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LEVELS", (256, 2048))
    steps = [numbered(7, RECENT), numbered(8, COUNT)]
    for second in range(100):
        add(tx, steps, order(1, NOW + second))
    add(tx, steps, order(1, NOW + 9 * DAY_MICROS))
    days = {key[16:20] for key in tx.keys(WORKSPACE, Db.STEP_ENTRY)}
    assert len(days) == 1
    assert worth(read(tx, steps), steps[1], steps[1].step.reduce, set_id(1), NOW) == 101


def test_of_the_present_day_no_single_events_are_read_where_nothing_is_newer(tx: Tx) -> None:
    steps = [numbered(7, RECENT), numbered(8, "event('Order').within(2 hours).count() > 0")]
    add(tx, [steps[0]], *(order(1, NOW - day * DAY_MICROS) for day in range(4)))
    sets = [set_id(1)]
    partials = stored.read(tx, WORKSPACE, sets, NOW, [steps[0]], newest=True)
    assert [row["at"] for row in rows_of(partials.entries, set_id(1), 7)] == [NOW - 2 * DAY_MICROS]
    add(tx, steps, order(2, NOW))
    shorter = stored.read(tx, WORKSPACE, [set_id(2)], NOW, steps, newest=True)
    assert [row["at"] for row in rows_of(shorter.entries, set_id(2), 8)] == [NOW]


def test_days_behind_every_window_go_when_a_set_is_written_again(tx: Tx) -> None:
    steps = [numbered(7, RECENT), numbered(8, COUNT)]
    add(tx, steps, order(1, NOW - 5 * DAY_MICROS), order(2, NOW - 5 * DAY_MICROS))
    add(tx, steps, order(1, NOW))
    assert {key[:16] for key in tx.keys(WORKSPACE, Db.STEP_ENTRY)} == {set_id(1), set_id(2)}
    assert tx.count(WORKSPACE, Db.STEP_ENTRY) == 2
    early = read(tx, steps, NOW - 5 * DAY_MICROS)
    assert [row["bucket"] for row in rows_of(early.counts, set_id(1), 7)] == [TODAY]
    assert [row["bucket"] for row in rows_of(early.counts, set_id(2), 7)] == [TODAY - 5]
    assert worth(early, steps[1], steps[1].step.reduce, set_id(1), NOW) == 2


def test_an_event_that_comes_too_late_for_every_window_leaves_nothing_behind(tx: Tx) -> None:
    steps = [numbered(7, RECENT)]
    add(tx, steps, order(1, NOW), order(2, NOW - 9 * DAY_MICROS))
    assert [key[:16] for key in tx.keys(WORKSPACE, Db.STEP_ENTRY)] == [set_id(1)]
    assert list(tx.keys(WORKSPACE, Db.STEP_ROWS)) == [set_id(1)]


def test_rows_of_steps_that_are_no_more_go_when_a_set_is_written_again(tx: Tx) -> None:
    old, new = [numbered(7, RECENT), numbered(8, LAST), numbered(9, VISIT)], [numbered(10, COUNT)]
    add(tx, old, order(1, NOW))
    add(tx, new, order(1, NOW))
    assert rows_of(read(tx, old).counts, set_id(1), 7) == []
    assert worth(read(tx, new), new[0], new[0].step.reduce, set_id(1), NOW) == 1
    assert tx.count(WORKSPACE, Db.STEP_ENTRY) == 0


def test_steps_are_read_apart(tx: Tx) -> None:
    steps = [numbered(7, COUNT), numbered(8, SUM), numbered(9, LAST), numbered(10, VISIT)]
    add(tx, steps, order(1, NOW))
    for step in steps:
        partials = read(tx, [step])
        rows = [*partials.counts.rows, *partials.numbers.rows, *partials.values.rows, *partials.entries.rows]
        assert {int(row["step"]) for row in rows} | {number for _, number in partials.events} == {step.number}


def test_of_a_first_or_last_value_no_other_is_kept(tx: Tx) -> None:
    steps = [numbered(7, LAST)]
    for second in range(50):
        add(tx, steps, order(1, NOW + second, f"value {second}"))
    (row,) = rows_of(read(tx, steps).values, set_id(1), 7)
    assert row["last"] == NOW + 49
    assert list(read(tx, steps).texts.values()) == ['"value 49"']


def test_kept_events_go_when_no_step_may_ask_for_them_any_more(tx: Tx) -> None:
    funnel = (
        "event('Order').within(2 days).where( event('Order').within(parent: 1 day).count() = 0 ).count() > 0"
    )
    steps = [numbered(7, funnel)]
    add(tx, steps, order(1, NOW - 8 * DAY_MICROS))
    add(tx, steps, order(1, NOW))
    assert [[event.at for event in kept] for kept in read(tx, steps).events.values()] == [[NOW]]
    assert tx.count(WORKSPACE, Db.STEP_EVENT) == 2
