"""Whose turn it is to publish: nobody for ever, nobody twice, no more than its share of the time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.pipeline.cadence import Cadence


def test_nothing_is_due_before_its_age_unless_it_is_asked_for() -> None:
    cadence = Cadence(5.0, 0.5)
    assert cadence.next(0.0, asked=True) is None
    cadence.saw("w", 1, 0.0)
    assert cadence.next(4.9) is None
    assert cadence.next(4.9, asked=True) == "w"
    assert cadence.next(5.0) == "w"
    cadence.saw("w", 0, 5.0)
    assert cadence.next(100.0) is None


def test_after_a_publication_the_loop_rests_by_its_share() -> None:
    cadence = Cadence(0.0, 0.25)
    cadence.saw("w", 1, 0.0)
    cadence.published("w", 0.0, 1.0)
    cadence.saw("w", 1, 1.0)
    assert cadence.next(3.9) is None
    assert cadence.next(3.9, asked=True) == "w"
    assert cadence.next(4.0) == "w"


def test_a_wait_goes_on_when_more_comes() -> None:
    cadence = Cadence(5.0, 1.0)
    cadence.saw("w", 1, 0.0)
    cadence.saw("w", 100, 4.0)
    assert cadence.oldest(4.5) == 4.5
    assert cadence.next(5.0) == "w"


def test_many_events_go_before_few_that_wait_as_long() -> None:
    cadence = Cadence(1.0, 1.0)
    for name, events in (("small", 1), ("large", 1_000_000), ("middle", 1_000)):
        cadence.saw(name, events, 0.0)
    order = []
    for _ in range(3):
        chosen = cadence.next(2.0)
        assert chosen is not None
        order.append(chosen)
        cadence.published(chosen, 2.0, 2.0)
    assert order == ["large", "middle", "small"]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=20),
    st.floats(0.1, 1.0),
    st.floats(0.01, 2.0),
    st.integers(0, 20),
)
def test_everybody_publishes_within_a_bound_and_within_the_share(
    load: list[int], share: float, cost: float, age: int
) -> None:
    """All have new events all the time: the worst case for whoever has the fewest."""
    cadence, now, busy = Cadence(float(age), share), 0.0, 0.0
    names = [f"w{n}" for n in range(len(load))]
    last = dict.fromkeys(names, 0.0)
    # Somebody with the least weight is passed over at most while the others gain eight times its wait.
    bound = age + 9 * (len(load) + 1) * cost / share + 1
    while now < 3 * bound:
        for name, events in zip(names, load, strict=True):
            cadence.saw(name, events, now)
        chosen = cadence.next(now)
        if chosen is None:
            now += cost / 4
            continue
        ended = now + cost
        busy += cost
        cadence.published(chosen, now, ended)
        last[chosen] = ended
        now = ended
        assert busy <= share * now + cost
    for name, events in zip(names, load, strict=True):
        assert not events or last[name] > now - 2 * bound
        assert events or not last[name]
