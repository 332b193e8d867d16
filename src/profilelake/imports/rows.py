"""Rows of a table to lines of JSON, one message each."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any, Final

import msgspec

from profilelake.imports.mapping import OWN, Place

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?", re.ASCII)
"""What looks like a number: not `007`, not a long card number, not `+49…`."""
_TRAITS_OF: Final = ("identify", "group")
_MICROSECONDS: Final = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that is no text: its row becomes a line that fails."""

    raw: bytes


class RowWriter:
    """Writes rows as messages, by the places their columns have."""

    def __init__(
        self, places: Mapping[str, Place], constants: Mapping[str, str], default_type: str | None
    ) -> None:
        self._default_type = default_type
        self._constants = [(tuple(path.split(".")), value) for path, value in constants.items()]
        paths = {place.path for place in places.values()} | {path for path, _ in self._constants}
        self._columns: list[tuple[str, tuple[str, ...], Callable[[Any], Any]]] = []
        # The type first: the place of other columns may depend on it.
        for name, place in sorted(places.items(), key=lambda pair: pair[1].path != ("type",)):
            shared = _is_shared(place.path, paths)
            self._columns.append((name, place.path, _reader(place, shared=shared)))

    def lines(self, columns: Mapping[str, Sequence[Any]], rows: int) -> Iterator[bytes]:
        """Yield each row as one line without its end."""
        read = [(path, list(map(reader, columns[name]))) for name, path, reader in self._columns]
        for row in range(rows):
            message: dict[str, Any] = {}
            try:
                for path, value in self._constants:
                    _put(message, path, value)
                for path, values in read:
                    value = values[row]
                    if value is not None:
                        if path[0] == OWN:
                            path = (self._own(message), *path[1:])
                        _put(message, path, value)
                yield _ENCODER.encode(message)
            except (_NotWritable, TypeError, ValueError, msgspec.MsgspecError):
                # The line fails at landing, where it can be looked at; the rows around it do not.
                yield b"row: " + " ".join(repr(columns[name][row]) for name in columns).encode(
                    "utf-8", "backslashreplace"
                ).replace(b"\n", b" ")

    def _own(self, message: Mapping[str, Any]) -> str:
        type = message.get("type") or self._default_type
        return "traits" if type in _TRAITS_OF else "properties"


class _NotWritable(Exception):
    pass


def _is_shared(path: tuple[str, ...], paths: set[tuple[str, ...]]) -> bool:
    """Tell whether other columns put something below the same place."""
    if path[0] in ("properties", "traits") and any(other[0] == OWN for other in paths):
        return True
    return any(other != path and other[: len(path)] == path for other in paths)


def _put(message: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    place = message
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise _NotWritable
    if isinstance(value, Unreadable):
        raise _NotWritable
    if isinstance(value, dict) and isinstance(place.get(path[-1]), dict):
        place[path[-1]] = value | place[path[-1]]
    else:
        place[path[-1]] = value


# ---- values ----------------------------------------------------------------------------------


def _reader(place: Place, *, shared: bool) -> Callable[[Any], Any]:
    if place.is_json:
        return _decoded_json if shared else _json
    if place.type in _MICROSECONDS:
        unit = _MICROSECONDS[place.type]
        return lambda value: _epoch(value, unit)
    if place.type == "number":
        return _number
    if place.type == "boolean":
        return _boolean
    return _text if place.is_text else _auto


def _text(value: Any) -> Any:
    """Return a value as text; numbers stay as they are, since landing takes their digits."""
    return _plain(value)


def _auto(value: Any) -> Any:
    if isinstance(value, str):
        if value in ("true", "false"):
            return value == "true"
        return msgspec.Raw(value.encode()) if _NUMBER.fullmatch(value) else value
    return _plain(value)


def _number(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip()
        return msgspec.Raw(text.encode()) if _NUMBER.fullmatch(text) else value
    return _plain(value)


def _boolean(value: Any) -> Any:
    if isinstance(value, str):
        known = {
            "true": True,
            "t": True,
            "1": True,
            "yes": True,
            "false": False,
            "f": False,
            "0": False,
            "no": False,
        }
        return known.get(value.strip().lower(), value)
    return bool(value) if isinstance(value, int) else _plain(value)


def _json(value: Any) -> Any:
    """Return JSON text as it is, so that no digit changes; text that is none stays text, and fails."""
    if not isinstance(value, str):
        return _plain(value)
    if not value.strip():
        return None
    try:
        msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return value
    return msgspec.Raw(value.replace("\n", " ").replace("\r", " ").encode())


def _decoded_json(value: Any) -> Any:
    if not isinstance(value, str):
        return _plain(value)
    if not value.strip():
        return None
    try:
        return msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return value


def _epoch(value: Any, unit: int) -> Any:
    if isinstance(value, (datetime, date, Unreadable)):
        return _plain(value)
    try:
        moment = _1970 + timedelta(microseconds=int(Decimal(value) * unit))
    except (ArithmeticError, ValueError, TypeError):
        return value
    return _plain(moment)


def _plain(value: Any) -> Any:
    """Return a value of a column as JSON has it."""
    if isinstance(value, datetime):
        return (
            (value if value.tzinfo else value.replace(tzinfo=UTC))
            .astimezone(UTC)
            .isoformat()
            .replace("+00:00", "Z")
        )
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
