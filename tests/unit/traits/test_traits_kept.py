"""Places of events among those of many subjects."""

import numpy as np
import pytest

from profilelake.traits.kept import number_before

NOW = 1_790_000_000_000_000


@pytest.mark.parametrize("asking", [0, 3, 99_999])
def test_events_of_many_subjects_over_many_years_are_found_whoever_asks(asking: int) -> None:
    owners = np.arange(100_000)
    times = np.full(len(owners), NOW)
    times[5] = 0  # a clock that was never set
    of, limits = np.array([asking]), np.array([NOW])
    assert number_before(owners, times, of, limits, side="left").tolist() == [asking]
    assert number_before(owners, times, of, limits, side="right").tolist() == [asking + 1]
