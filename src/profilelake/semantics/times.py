"""Times as clients write them, and what they mean by the server's clock."""

import re
from datetime import date
from typing import Final

MICROSECONDS: Final = 1_000_000
_EPOCH: Final = date(1970, 1, 1).toordinal()
TIME_MIN: Final = (date(1, 1, 1).toordinal() - _EPOCH) * 86_400 * MICROSECONDS
TIME_MAX: Final = (date(9999, 12, 31).toordinal() - _EPOCH + 1) * 86_400 * MICROSECONDS - 1

_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)? ?(?:[Zz]|UTC|GMT|([+-])(\d\d)(?::?(\d\d))?)?)?",
    re.ASCII,
)


def parse_time(text: str) -> int | None:
    """Return the microseconds since 1970 UTC of an ISO-8601 time, None where it is not one.

    Any offset is taken; none means UTC, a bare date midnight. Digits beyond the microsecond are
    cut. The years are 1 to 9999, so every engine can show what is stored.
    """
    match = _TIME.fullmatch(text.strip(" \t\r\n"))
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, ahead_hours, ahead_minutes = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
    clock = (int(hour or 0), int(minute or 0), int(second or 0))
    ahead = (int(ahead_hours or 0), int(ahead_minutes or 0))
    # A leap second is the first moment of the next minute, as in every clock that cannot show it.
    if clock > (23, 59, 60) or clock[1] > 59 or clock[2] > 60 or ahead > (23, 59) or ahead[1] > 59:
        return None
    seconds = days * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2]
    offset = ahead[0] * 3600 + ahead[1] * 60
    seconds += offset if sign == "-" else -offset
    micros = seconds * MICROSECONDS + int((fraction or "")[:6].ljust(6, "0"))
    return micros if is_time(micros) else None


def is_time(micros: int) -> bool:
    """Tell whether every engine can show a time: its year is one of 1 to 9999."""
    return TIME_MIN <= micros <= TIME_MAX


def format_time(micros: int) -> str:
    """Return a time as `parse_time` reads it back, to the microsecond."""
    seconds, fraction = divmod(micros, MICROSECONDS)
    days, clock = divmod(seconds, 86_400)
    day = date.fromordinal(days + _EPOCH).isoformat()
    return f"{day}T{clock // 3600:02}:{clock // 60 % 60:02}:{clock % 60:02}.{fraction:06}Z"


def happened_at(received_at: int, original: int | None, sent: int | None) -> int:
    """Return when an event happened by the server's clock.

    The device's clock is off by as much as `sent` is off from `received_at`, and is corrected by
    that. Without `sent` the client's time is taken as it is, without any client time the event
    happened when it was received. The future is cut off at `received_at`: nothing has happened yet.
    """
    if original is None:
        return received_at
    corrected = original if sent is None else received_at - (sent - original)
    if corrected < TIME_MIN:
        # Two clocks that lie thousands of years apart correct nothing.
        corrected = original
    return min(corrected, received_at)
