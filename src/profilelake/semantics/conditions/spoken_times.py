"""Amounts of time as the language writes them: `7 days`, `1 hour`."""

from typing import Final

DURATION_MAX: Final = 36_525 * 86_400_000_000
"""The longest amount of time: a hundred years, in microseconds."""

UNITS: Final = {
    "microsecond": 1,
    "millisecond": 1_000,
    "second": 1_000_000,
    "minute": 60_000_000,
    "hour": 3_600_000_000,
    "day": 86_400_000_000,
    "week": 604_800_000_000,
}
"""Microseconds of each unit; a trailing `s` and the case of letters do not matter."""
_WRITTEN: Final = ("day", "hour", "minute", "second", "millisecond", "microsecond")


def unit_micros(word: str) -> int | None:
    """Return the microseconds of a unit such as `days`, None where the word is no unit."""
    lower = word.lower()
    return UNITS.get(lower) or UNITS.get(lower.removesuffix("s"))


def written_duration(micros: int) -> str:
    """Return an amount of time in the greatest unit that gives a whole number of it."""
    for unit in _WRITTEN:
        number, rest = divmod(micros, UNITS[unit])
        if not rest:
            return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
    raise AssertionError("a microsecond divides every amount")
