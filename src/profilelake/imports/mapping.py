"""Which column of a table becomes which field of a message."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from profilelake.errors import Invalid
from profilelake.semantics.events import EVENT_TYPES, OBJECT_FIELDS, TEXT_FIELDS

ValueType: TypeAlias = Literal["auto", "text", "number", "boolean", "json", "epoch_s", "epoch_ms", "epoch_us"]
VALUE_TYPES: Final[tuple[ValueType, ...]] = get_args(ValueType)
"""How a column is read. `auto`: identifiers, names and times as text, everything else as what it looks like."""
COLUMNS_MAX: Final = 10_000
OWN: Final = "own"
"""In place of the first part of a path: the traits of an identify or group event, the properties of others."""

_TIMES: Final = ("timestamp", "originalTimestamp", "receivedAt", "sentAt")
_FIELDS: Final = ("type", *TEXT_FIELDS, *_TIMES, "category", *OBJECT_FIELDS)
_SNAKE: Final = {re.sub(r"([A-Z])", r"_\1", field).lower(): field for field in _FIELDS}
_DERIVED_BY_US: Final = frozenset(
    {
        "position",
        "set_id",
        "account_set_id",
        "anchor",
        "slot",
        "received_at",
        "source_id",
        "library",
        "consent",
        "region",
    }
)
"""Columns of a lake's own `events` table that landing makes anew."""
_WAREHOUSE_MARKS: Final = frozenset({"uuid", "uuid_ts", "loaded_at"})
_CONTEXT_PARTS: Final = {
    "app", "campaign", "device", "library", "location", "network", "os", "page", "referrer", "screen", "traits",
}  # fmt: skip
"""Objects inside a context, which a warehouse column `context_page_url` has flattened."""
_TEXT_PLACES: Final = frozenset({"type", *TEXT_FIELDS, *_TIMES})


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a message a column goes, and how its values are read."""

    path: tuple[str, ...]
    type: ValueType = "auto"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `properties.revenue` or `timestamp:epoch_ms`.

        Raises:
            Invalid: no field of a message, or no such type.
        """
        path, colon, type = text.rpartition(":")
        if not colon:
            path, type = text, "auto"
        if type not in VALUE_TYPES:
            raise Invalid(f"mapping to {text!r}: type {type!r} is none of {', '.join(VALUE_TYPES)}")
        parts = tuple(path.split("."))
        if parts[0] not in _FIELDS or "" in parts:
            raise Invalid(
                f"mapping to {text!r}: a message has no field {parts[0]!r}; it has {', '.join(_FIELDS)}"
            )
        if len(parts) > 1 and parts[0] not in OBJECT_FIELDS:
            raise Invalid(f"mapping to {text!r}: {parts[0]} is one value and has no parts")
        return cls(parts, type)

    @property
    def is_text(self) -> bool:
        """Whether the values are text, whatever they look like."""
        return self.type == "text" or (self.type == "auto" and self.path[0] in _TEXT_PLACES)

    @property
    def is_json(self) -> bool:
        return self.type == "json" or (
            self.type == "auto" and len(self.path) == 1 and self.path[0] in OBJECT_FIELDS
        )


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """What the user says of the columns. Without `columns`, names are taken for what they say."""

    columns: Mapping[str, Place] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.columns or self.constants)

    @classmethod
    def load(cls, path: Path | None, options: Sequence[str], constants: Sequence[str]) -> Self:
        """Read a mapping file, `column=path` options and `path=value` constants; options win.

        Raises:
            Invalid: something in them is no mapping.
        """
        document = _document(path) if path is not None else {}
        columns = _texts(document, "columns", path) | dict(map(_pair, options))
        fixed = _texts(document, "constants", path) | dict(map(_pair, constants))
        for name in fixed:
            Place.parse(name)
        return cls({name: Place.parse(text) for name, text in columns.items()}, fixed)

    def places(self, names: Sequence[str], default_type: str | None) -> dict[str, Place]:
        """Return the place of each column that has one.

        Raises:
            Invalid: a mapped column is missing, two go to one place, or nothing says what type the events have.
        """
        _check_names(names)
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise Invalid(f"mapping column {missing[0]!r}: there is none; there are {', '.join(names[:50])}")
        places = dict(self.columns) if self.columns else _automatic(names)
        _check_places(places)
        has_type = (
            default_type or "type" in self.constants or any(p.path == ("type",) for p in places.values())
        )
        if not has_type:
            raise Invalid(
                "reading a table: no column says what type its events have; "
                f"give --type {'|'.join(EVENT_TYPES)}, or map a column to type"
            )
        return places


def _automatic(names: Sequence[str]) -> dict[str, Place]:
    ours = {"message_id", "position", "set_id"} <= set(names)
    places = {}
    for name in names:
        if name in _WAREHOUSE_MARKS or (ours and name in _DERIVED_BY_US):
            continue
        places[name] = _place_of(name, names)
    if "event_text" in names:
        # A warehouse keeps the name as it was sent beside the name of its table.
        places.pop("event", None)
    return places


def _place_of(name: str, names: Sequence[str]) -> Place:
    head, _, rest = name.partition(".")
    if name in _FIELDS or (head in OBJECT_FIELDS and rest):
        return Place.parse(name)
    if name in _SNAKE:
        return Place((_SNAKE[name],))
    if name == "event_text":
        return Place(("event",))
    if name == "id" and "messageId" not in names and "message_id" not in names:
        return Place(("messageId",))
    if name.startswith("context_"):
        return Place(("context", *_context_path(name.removeprefix("context_"))))
    return Place((OWN, name))


def _context_path(name: str) -> tuple[str, ...]:
    if name == "user_agent":
        return ("userAgent",)
    part, _, rest = name.partition("_")
    return (part, rest) if part in _CONTEXT_PARTS and rest else (name,)


def _check_names(names: Sequence[str]) -> None:
    if len(names) > COLUMNS_MAX:
        raise Invalid(f"reading a table: {len(names)} columns are more than {COLUMNS_MAX}")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise Invalid(f"reading a table: there are several columns {twice[0]!r}; name them differently")


def _check_places(places: Mapping[str, Place]) -> None:
    taken: dict[tuple[str, ...], str] = {}
    for name, place in places.items():
        if place.path in taken:
            raise Invalid(
                f"mapping columns {taken[place.path]!r} and {name!r}: both go to {'.'.join(place.path)}; map one"
            )
        taken[place.path] = name


def _pair(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals or not name or not value:
        raise Invalid(f"mapping {option!r}: write column=field, such as email=traits.email")
    return name, value


def _document(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"reading mapping {path}: {error}") from error
    unknown = document.keys() - {"columns", "constants"}
    if unknown:
        raise Invalid(
            f"reading mapping {path}: no section [{min(unknown)}]; there are [columns] and [constants]"
        )
    return document


def _texts(document: Mapping[str, Any], section: str, path: Path | None) -> dict[str, str]:
    found = document.get(section, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in _values(found)):
        raise Invalid(f'reading mapping {path}: [{section}] has lines of the form "column" = "field"')
    return dict(found)


def _values(found: Any) -> Iterable[object]:
    return found.values() if isinstance(found, dict) else ()
