"""Amounts of time and moments as the language writes them: `7 days`, `2026-01-31`, `2026-01-31T12:00:00Z`."""

import re
from typing import Final

from profilelake.semantics.times import parse_time

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

_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)


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


def instant(text: str) -> int | None:
    """Return a moment in microseconds: the start of a day in UTC, or a time with its zone; None for all else.

    A time without a zone is no moment: nobody can know which one was meant.
    """
    return parse_time(text) if _INSTANT.fullmatch(text) else None
