"""What one micro-batch does at most: the latency that is promised leaves no room for more."""

from profilelake.audiences import live

EVALUATION_MICROS = 100
"""Processor time of one profile with 50 definitions that all change, as `benchmarks/computed_live.py` has them."""
HELD_UP_MICROS = 2_000_000


def test_a_micro_batch_and_what_follows_it_leave_time_for_others() -> None:
    # Timers fire within the micro-batch and again behind it, where a sweep goes on too.
    profiles = live.EVALUATED_MAX + 2 * live.TIMERS_MAX + live.SWEEP_PROFILES
    assert profiles * EVALUATION_MICROS <= HELD_UP_MICROS
