"""Times as almost all clients write them; any other spelling is left to the reference."""

from typing import Final

from profilelake.kernels.json_tape import ESCAPED, STRING, Bytes, Tape, borrowing

NO_TIME: Final = -(1 << 63)
ODD_TIME: Final = NO_TIME + 1
"""A time that only `semantics.times` can judge."""
_MICROSECONDS: Final = 1_000_000
_SECONDS_BYTES: Final = 19


@borrowing
def first_time(tape: Tape, text: Bytes, first: int, second: int) -> int:
    """Return the first of two fields that is a time."""
    time = time_at(tape, text, first)
    return time_at(tape, text, second) if time == NO_TIME else time


@borrowing
def time_at(tape: Tape, text: Bytes, entry: int) -> int:
    """Return a time in its usual spelling, `NO_TIME` where absent, `ODD_TIME` for the reference to judge."""
    if entry < 0 or (tape[entry].kind != STRING and tape[entry].kind != ESCAPED):
        return NO_TIME
    at, end = tape[entry].start + 1, tape[entry].stop - 1
    if at == end:
        return NO_TIME
    seconds = _seconds(text, at, end)
    if seconds == ODD_TIME:
        return ODD_TIME
    at += _SECONDS_BYTES
    micros = 0
    if at < end and text[at] == 46:
        at += 1
        unit = 100_000
        first = at
        while at < end and 48 <= text[at] <= 57:
            micros += (int(text[at]) - 48) * unit
            unit //= 10
            at += 1
        if at == first:
            return ODD_TIME
    offset = _offset(text, at, end)
    return ODD_TIME if offset == ODD_TIME else (seconds - offset) * _MICROSECONDS + micros


@borrowing
def _seconds(text: Bytes, at: int, end: int) -> int:
    """Return the seconds of `2026-03-01T10:00:00` since 1970."""
    if end - at < _SECONDS_BYTES or text[at + 4] != 45 or text[at + 7] != 45:
        return ODD_TIME
    if (text[at + 10] != 84 and text[at + 10] != 32) or text[at + 13] != 58 or text[at + 16] != 58:
        return ODD_TIME
    year = _two(text, at) * 100 + _two(text, at + 2)
    month, day = _two(text, at + 5), _two(text, at + 8)
    hour, minute, second = _two(text, at + 11), _two(text, at + 14), _two(text, at + 17)
    # What is no digit counts as -10,000 and falls out here, as do the years next to the limits.
    if not (2 <= year <= 9998 and 1 <= month <= 12 and 1 <= day <= _month_days(year, month)):
        return ODD_TIME
    if not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return ODD_TIME
    return _days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second


@borrowing
def _offset(text: Bytes, at: int, end: int) -> int:
    """Return the seconds that a zone is ahead of UTC; none means UTC."""
    if at == end or (text[at] == 90 and at + 1 == end):
        return 0
    if end - at != 6 or (text[at] != 43 and text[at] != 45) or text[at + 3] != 58:
        return ODD_TIME
    hours, minutes = _two(text, at + 1), _two(text, at + 4)
    if not (0 <= hours <= 23 and 0 <= minutes <= 59):
        return ODD_TIME
    ahead = hours * 3600 + minutes * 60
    return -ahead if text[at] == 45 else ahead


@borrowing
def _two(text: Bytes, at: int) -> int:
    """Return two digits as a number, far below zero where they are none."""
    tens, ones = int(text[at]) - 48, int(text[at + 1]) - 48
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return -10_000
    return tens * 10 + ones


@borrowing
def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@borrowing
def _days(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01, counting years from March so that leap days come last."""
    if month <= 2:
        year -= 1
        month += 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719_469
