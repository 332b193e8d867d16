"""What a source may send, on a clock of our own."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.collect.answers import Refused
from profilelake.collect.limits import CollectLimits
from profilelake.collect.quota import Quotas
from profilelake.workspaces import Source


def source(events_per_second: int, name: str = "shop") -> Source:
    return Source(name, "default", name, True, False, ("wk",), events_per_second)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def taken(quotas: Quotas, of: Source, events: int) -> int | None:
    """Return None if the events are taken, else the seconds that are asked for."""
    try:
        quotas.take(of, events)
    except Refused as refusal:
        return refusal.retry_after
    return None


def test_the_refusal_says_that_it_may_pass() -> None:
    quotas = Quotas(processes=1, monotonic=Clock())
    quotas.take(source(5), 5)
    with pytest.raises(Refused, match=r"source shop may send 5 events per second") as refused:
        quotas.take(source(5), 1)
    assert (refused.value.status, refused.value.reason) == (429, "quota_exceeded")


@pytest.mark.parametrize("rate", [1, 7, 100, 50_000])
def test_the_largest_batch_passes_whatever_the_limit(rate: int) -> None:
    largest = CollectLimits().batch_events_max
    assert taken(Quotas(processes=4, monotonic=Clock()), source(rate), largest) is None


@given(
    rate=st.integers(1, 1_000_000),
    processes=st.integers(1, 64),
    events=st.integers(1, 10_000),
    at=st.floats(0, 1e6),
)
def test_whoever_waits_as_told_is_taken_and_a_second_less_is_too_little(
    rate: int, processes: int, events: int, at: float
) -> None:
    clock = Clock()
    clock.seconds = at
    quotas = Quotas(processes=processes, monotonic=clock)
    limited = source(rate)
    assert taken(quotas, limited, rate // processes + events) is None
    wait = taken(quotas, limited, events)
    assert wait is None or wait >= 1
    if wait is None:  # a fraction of an event was left
        wait = taken(quotas, limited, 1)
        assert wait is not None
    if wait > 2:
        clock.seconds = at + wait - 1.001
        assert taken(quotas, limited, 1) is not None
    clock.seconds = at + wait + 0.001  # the clock itself is rounded
    assert taken(quotas, limited, 1) is None


@pytest.mark.parametrize("seed", range(5))
def test_in_no_stretch_of_time_is_more_taken_than_promised(seed: int) -> None:
    rng = random.Random(seed)
    clock = Clock()
    quotas = Quotas(processes=2, monotonic=clock)
    limited = source(100)
    passed: list[tuple[float, int]] = []
    for _ in range(3_000):
        clock.seconds += rng.expovariate(20)
        events = rng.choice([1, 1, 1, 20, 500])
        if taken(quotas, limited, events) is None:
            passed.append((clock.seconds, events))
    for start, (began, _) in enumerate(passed):
        total = 0
        for at, events in passed[start : start + 200]:
            assert total <= 50 * (at - began + 1) + 1e-6  # and what is taken now is the one request more
            total += events
    share = sum(events for _, events in passed) / (clock.seconds * 50)
    assert 0.9 < share < 1.1


def test_sources_do_not_share() -> None:
    quotas = Quotas(processes=1, monotonic=Clock())
    assert taken(quotas, source(1, "one"), 1_000) is None
    assert taken(quotas, source(1, "one"), 1) is not None
    assert taken(quotas, source(1, "other"), 1) is None


def test_a_changed_limit_counts_from_now_on() -> None:
    clock = Clock()
    quotas = Quotas(processes=1, monotonic=clock)
    assert taken(quotas, source(10), 110) is None
    assert taken(quotas, source(10), 1) == 11
    assert taken(quotas, source(1_000), 1) == 1
    clock.seconds = 0.2
    assert taken(quotas, source(1_000), 1) is None
    clock.seconds = 10.0
    assert taken(quotas, source(2), 3) is None
    assert taken(quotas, source(2), 1) == 1


def test_what_is_given_back_may_be_taken_again() -> None:
    quotas = Quotas(processes=1, monotonic=Clock())
    for _ in range(10):
        assert taken(quotas, source(5), 500) is None
        quotas.give_back(source(5), 500)
