"""How many parts there are, and which one a row goes to."""

import pytest

from profilelake.engines.keys import power_of_two


@pytest.mark.parametrize(
    ("wanted", "least", "parts"),
    [
        (0.0, 1, 1),
        (0.3, 3, 4),
        (5.0, 3, 8),
        (1.0, 12, 16),
        (8.0, 8, 8),
        (1e9, 1, 65_536),
        (1.0, 1 << 20, 65_536),
    ],
)
def test_the_number_of_parts_is_a_power_of_two_whatever_is_asked(
    wanted: float, least: int, parts: int
) -> None:
    assert power_of_two(wanted, least=least) == parts
