"""What is asked of the table of shapes, and what is answered; reading it is left to `listing`."""

import re
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from profilelake.errors import Invalid
from profilelake.semantics.shapes import PARTS
from profilelake.semantics.times import MICROSECONDS, parse_time

AtOdds: TypeAlias = Literal["types", "case", "column"]
AT_ODDS: Final[tuple[AtOdds, ...]] = get_args(AtOdds)
"""A path with several types of values; paths that differ in their case only; paths with one column name."""

_AGO: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class SchemaAsked(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which shapes are wanted: `path` is one path and what lies below it, `new_since` in microseconds."""

    event: str | None = None
    type: str | None = None
    part: str | None = None
    path: str | None = None
    new_since: int | None = None
    at_odds: Literal["types", "case", "column", "any"] | None = None
    after: str = ""
    rows: int = 100


class ShapeSeen(msgspec.Struct, frozen=True):
    """One path with one type of value, and what it is at odds with. Without an event it is of calls with no name."""

    id: str
    type: str
    event: str | None
    part: str
    path: str
    json_type: str
    first_seen_at: str
    last_seen_at: str
    events: int
    example: str | None
    column_name: str | None
    at_odds: list[AtOdds]

    def place(self) -> str:
        """Return what tells where the list goes on behind this row."""
        return msgspec.json.encode(
            (self.type, self.event or "", self.part, self.path, self.json_type)
        ).decode()


def schema_asked(
    *,
    event: str | None = None,
    type: str | None = None,
    part: str | None = None,
    path: str | None = None,
    new_since: str | None = None,
    at_odds: str | None = None,
    after: str = "",
    rows: int,
    now: int,
) -> SchemaAsked:
    """Return a question as people write it; `new_since` is a time, or a while such as `90m`.

    Raises:
        Invalid: a word is none of those that are known.
    """
    if part is not None and part not in PARTS:
        raise Invalid(f"part={part[:40]!r}: it is one of {', '.join(PARTS)}")
    if at_odds is not None and at_odds not in (*AT_ODDS, "any"):
        raise Invalid(f"at_odds={at_odds[:40]!r}: it is one of {', '.join(AT_ODDS)}, any")
    since = None if new_since is None else _since(new_since, now)
    if after:
        place_of(after)
    return msgspec.convert(
        {
            "event": event,
            "type": type,
            "part": part,
            "path": path,
            "new_since": since,
            "at_odds": at_odds,
            "after": after,
            "rows": rows,
        },
        SchemaAsked,
    )


def _since(text: str, now: int) -> int:
    ago = _AGO.fullmatch(text)
    time = parse_time(text) if ago is None else now - int(ago[1]) * _SECONDS[ago[2]] * MICROSECONDS
    if time is None:
        raise Invalid(f"new_since={text[:40]!r}: write a while as 90m, 24h or 7d, or a time in ISO 8601")
    return time


def place_of(after: str) -> list[str]:
    """Return what `ShapeSeen.place` has joined.

    Raises:
        Invalid: it was not made there.
    """
    try:
        place = msgspec.json.decode(after, type=list[str])
    except (msgspec.DecodeError, UnicodeError):
        place = []
    if len(place) != len(("type", "event", "part", "path", "json_type")):
        raise Invalid("the cursor is not one of ours: take it from `pagination.next` of the page before")
    return place
