"""Partials that go from one task to another are the partials that were sent, in whatever order and parts they come."""

from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condition_subjects import plan_of
from condition_worlds import START, Call, Defined, World, definitions, events_table, histories, moments
from profilelake.errors import Internal
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.definitions import Definition
from profilelake.traits.fold import fold
from profilelake.traits.partials import Partials
from profilelake.traits.shipped import SHIPPED, shipped, unshipped


@settings(max_examples=50)
@given(histories(16), definitions(accounts=False), moments(), st.integers(0, 16), st.randoms())
def test_what_is_sent_arrives(world: World, made: list[Defined], at: int, cut: int, random: Random) -> None:
    _, steps = plan_of(made)
    events = events_table(world.calls)
    parts = [shipped(fold(part, steps, at=at)) for part in (events.slice(0, cut), events.slice(cut))]
    rows = pa.concat_tables(parts)
    assert rows.schema == SHIPPED
    order = list(range(rows.num_rows))
    random.shuffle(order)
    assert _told(unshipped(rows.take(pa.array(order, pa.int64())))) == _told(fold(events, steps, at=at))


def _told(partials: Partials) -> object:
    rows = [partials.counts, partials.numbers, partials.values]
    return (
        [(part.sets.tolist(), part.rows.tolist()) for part in rows],
        {key: sorted(events) for key, events in partials.events.items()},
        dict(partials.texts),
    )


def test_nothing_is_nothing() -> None:
    assert shipped(Partials()).num_rows == 0
    assert _told(unshipped(SHIPPED.empty_table())) == _told(Partials())


def test_single_events_of_windows_are_not_sent() -> None:
    query = "event('Order').within(1 day).count()"
    made = Defined(Definition("k", "trait", query), parse(query), bytes(32))
    _, steps = plan_of([made])
    events = events_table([Call(0, "track", "Order", START, 1)])
    with pytest.raises(Internal, match="folded for any time"):
        shipped(fold(events, steps))
