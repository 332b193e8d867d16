"""Which values events carry, and the columns that a view shows them in."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from profilelake.lake import sql
from profilelake.semantics.snake_case import snake_case

COLUMNS_MAX: Final = 1_000
"""Values of events that one view shows in columns: the most frequent ones. The others are in `_rest`."""
PATHS_AT_ONCE: Final = 16
"""Values read from a document in one go. Each go parses it again: one value alone costs half a
microsecond a row, sixteen together two, sixteen alone eight."""

REST: Final = "_rest"
"""The column of what has no column of its own."""

Part: TypeAlias = Literal["properties", "traits", "context"]
SqlType: TypeAlias = Literal["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN"]

NAME_BYTES_MAX: Final = 127
"""Length of a name that every warehouse takes. A value of a longer one is in `_rest`."""

_NO_WORD: Final = re.compile(r"\W+")


@dataclass(frozen=True, slots=True)
class Field:
    """A value inside a document: the keys that lead to it, JSON types it was seen with, how often.

    Without keys it stands for values that are not listed.
    """

    path: tuple[str, ...]
    kinds: frozenset[str]
    events: int = 0


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column, and the values it shows: of several spellings of one name the first that is there."""

    name: str
    fields: tuple[Field, ...]
    type: SqlType


@dataclass(frozen=True, slots=True)
class Columns:
    """How a view shows one document. `left_out` are values without a column, `covered` are keys whose
    column is made elsewhere."""

    document: str
    shown: tuple[ViewColumn, ...]
    left_out: tuple[Field, ...]
    covered: frozenset[str] = frozenset()

    def whole_keys(self) -> list[str]:
        """Return the keys of the document that columns show everything of."""
        partly = {field.path[0] for field in self.left_out if field.path}
        if any(not field.path for field in self.left_out):
            # Inside any object there may be values that nobody told of.
            partly.update(f.path[0] for column in self.shown for f in column.fields if len(f.path) > 1)
        partly.update(field.path[0] for column in self.shown for field in column.fields[1:])
        shown = {column.fields[0].path[0] for column in self.shown}
        return sorted((shown - partly) | self.covered)


def name_of(path: Sequence[str], prefix: str = "") -> str:
    """Return the column a value is shown in, "" for none.

    Snake case leaves nothing of a name without ASCII letters: such a one keeps its own letters.
    """
    text = "_".join(path)
    name = snake_case(text) or _NO_WORD.sub("_", text).strip("_").lower()
    if prefix and name:
        name = f"{prefix}_{name}"
    return name if len(name.encode()) <= NAME_BYTES_MAX else ""


def type_of(kinds: Collection[str]) -> SqlType:
    """Return the type of a column of values of these JSON types; a mixture is text."""
    kinds = frozenset(kinds)
    if kinds == {"integer"}:
        return "BIGINT"
    if kinds <= {"integer", "number"}:
        return "DOUBLE"
    return "BOOLEAN" if kinds == {"boolean"} else "VARCHAR"


def choose(
    document: str,
    fields: Iterable[Field],
    taken: Collection[str],
    *,
    prefix: str = "",
    room: int = COLUMNS_MAX,
    covered: frozenset[str] = frozenset(),
) -> Columns:
    """Give values of a document columns: not of a name that is `taken`, and at most `room`.

    Values under keys that are `covered` have theirs already.
    """
    named: dict[str, list[Field]] = {}
    left_out: list[Field] = []
    for field in sorted(fields, key=lambda field: (-field.events, field.path)):
        if field.path and field.path[0] in covered:
            continue
        name = name_of(field.path, prefix)
        if not name or name in taken or name == REST:
            left_out.append(field)
        elif name in named or len(named) < room:
            named.setdefault(name, []).append(field)
        else:
            left_out.append(field)
    shown = (
        ViewColumn(name, tuple(same), type_of(frozenset().union(*(field.kinds for field in same))))
        for name, same in sorted(named.items())
    )
    return Columns(document, tuple(shown), tuple(left_out), covered)


def read(columns: Columns, alias: str) -> list[str]:
    """Return what an inner SELECT must have for `show`: the values of the document, some at a time."""
    paths = [field.path for column in columns.shown for field in column.fields]
    return [
        f"json_extract_string({columns.document}, [{', '.join(map(_pointer, group))}]) AS {alias}{number}"
        for number, group in enumerate(_groups(paths))
    ]


def show(columns: Columns, alias: str) -> list[str]:
    """Return the columns, made from what `read` reads."""
    made, place = [], 0
    for column in columns.shown:
        values = []
        for _ in column.fields:
            values.append(f"{alias}{place // PATHS_AT_ONCE}[{place % PATHS_AT_ONCE + 1}]")
            place += 1
        value = values[0] if len(values) == 1 else f"coalesce({', '.join(values)})"
        if column.type != "VARCHAR":
            value = f"TRY_CAST({value} AS {column.type})"
        made.append(f"{value} AS {sql.identifier(column.name)}")
    return made


def rest(shown: Mapping[str, Columns]) -> str:
    """Return the column of what other columns do not show: for each document, by name, those of its keys.

    A key is there with everything in it where a part of it has no column; also one that nobody has
    told of yet. Null where nothing is left.
    """
    parts = ", ".join(
        f"'{json.dumps(name)}:' || {_rest_of(columns.document, columns.whole_keys())}"
        for name, columns in shown.items()
    )
    return f"nullif('{{' || concat_ws(',', {parts}) || '}}', '{{}}') AS {REST}"


def _rest_of(document: str, keys: Sequence[str]) -> str:
    listed = ", ".join(map(sql.text, keys))
    others = f"list_filter(json_keys({document}), lambda k: NOT list_contains([{listed}]::VARCHAR[], k))"
    values = (
        f"list_transform({others}, lambda k: (k, json_extract({document}, "
        "'/' || replace(replace(k, '~', '~0'), '/', '~1'))))"
    )
    return f"CASE WHEN len({others}) > 0 THEN CAST(to_json(map_from_entries({values})) AS VARCHAR) END"


def _groups(paths: Sequence[tuple[str, ...]]) -> list[Sequence[tuple[str, ...]]]:
    return [paths[start : start + PATHS_AT_ONCE] for start in range(0, len(paths), PATHS_AT_ONCE)]


def _pointer(path: Sequence[str]) -> str:
    return sql.text("".join("/" + key.replace("~", "~0").replace("/", "~1") for key in path))
