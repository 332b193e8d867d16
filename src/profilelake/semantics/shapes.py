"""What a part of an event looks like: which paths it has, and of which type their values are.

This is the reference; `kernels.json_shapes` walks whole columns.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from profilelake.semantics import json_text

JsonType: TypeAlias = Literal["string", "integer", "number", "boolean", "object", "array"]
ShapePart: TypeAlias = Literal["context", "properties", "traits"]
JSON_TYPES: Final[tuple[JsonType, ...]] = get_args(JsonType)
PARTS: Final[tuple[ShapePart, ...]] = get_args(ShapePart)

UNLISTED: Final = "…"
"""Stands for the paths, or the names of events, that are too many, too long or too deep to be listed."""
DEPTH_MAX: Final = 8
"""Keys of a path; objects that lie deeper are stored, but not looked into."""
PATH_BYTES_MAX: Final = 512
"""Keys of a path together, as they stand in canonical JSON."""
_INTEGER_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class _Object:
    members: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class _Digits:
    text: str


def shapes_of(text: str) -> set[tuple[str, JsonType]]:
    """Return path and type of every value of a JSON object; null has no type, and items of arrays no path."""
    return set(_members(_DECODER.decode(text), (), 0))


def _members(value: object, keys: tuple[str, ...], size: int) -> Iterator[tuple[str, JsonType]]:
    if not isinstance(value, _Object):
        return
    for key, member in value.members:
        type = _type_of(member)
        if type is None:
            continue
        total = size + len(json_text.dump(_whole(key)).encode()) - 2
        path = (*keys, key)
        if total > PATH_BYTES_MAX:
            yield UNLISTED, type
            continue
        yield join_path(path), type
        if len(path) < DEPTH_MAX:
            yield from _members(member, path, total)
        elif isinstance(member, _Object) and member.members:
            yield UNLISTED, "object"


def _type_of(value: object) -> JsonType | None:
    if isinstance(value, _Digits):
        whole = not set(value.text) & set(".eE")
        return "integer" if whole and -_INTEGER_MAX - 1 <= int(value.text) <= _INTEGER_MAX else "number"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object" if isinstance(value, _Object) else None


def join_path(keys: Sequence[str]) -> str:
    r"""Return the path of keys: joined by `.`, with a backslash before a dot or backslash inside a key.

    A key that is `…` alone has one too, so that it is no path of its own that stands for others.
    """
    path = ".".join([_whole(key).replace("\\", "\\\\").replace(".", "\\.") for key in keys])
    return f"\\{path}" if path == UNLISTED else path


def split_path(path: str) -> list[str]:
    """Return the keys that `join_path` has joined."""
    keys, key, escaped = [], "", False
    for character in path:
        if escaped or character not in "\\.":
            key, escaped = key + character, False
        elif character == "\\":
            escaped = True
        else:
            keys.append(key)
            key = ""
    return [*keys, key]


def _whole(key: str) -> str:
    """Return a key without halves of surrogate pairs, which no table can hold."""
    return key.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_DECODER: Final = json.JSONDecoder(
    parse_float=_Digits, parse_int=_Digits, object_pairs_hook=_Object, strict=False
)
