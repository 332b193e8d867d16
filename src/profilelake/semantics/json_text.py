"""JSON as senders really write it, and the one way we write it down again.

Reading is tolerant where SDKs are sloppy: `NaN`, `Infinity` and numbers beyond a double become null, half a
surrogate pair becomes U+FFFD, a byte order mark is dropped, the last of two equal keys wins. Writing is
canonical: no whitespace, keys in their order, strings unescaped as far as JSON allows, numbers with the very
digits that were sent. So one value has one text, and no amount is ever rounded.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Final, TypeAlias

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_STRUCTURE: Final = re.compile(_STRING.pattern + r"|[\[\]{}]", re.DOTALL)
_SCALAR: Final = re.compile(r"[^\s,\]}]+")
_HALF_PAIR: Final = re.compile(r"[\ud800-\udfff]")


class NotJson(ValueError):
    """The text is not JSON; the message says where it breaks."""


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number, kept as the digits that were sent."""

    digits: str


Json: TypeAlias = "bool | str | Number | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Part:
    """Where one value lies in a text, and how many levels of brackets it opens."""

    start: int
    end: int
    depth: int


def decode_bytes(body: bytes) -> str:
    """Return the text of a body: UTF-8, with or without a byte order mark."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 at byte {error.start}") from error


def value(text: str) -> Json:
    """Return the JSON value of `text`, read tolerantly. The caller has checked the depth (`part_at`)."""
    try:
        decoded: Json = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at character {error.pos}") from error
    return _whole_characters(decoded) if "\\u" in text else decoded


def dump(value: Json) -> str:
    """Return the canonical text of a value."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Number):
        return value.digits
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(key)}:{dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dump, value)) + "]"
    return "null" if value is None else "true" if value else "false"


def whole(text: str) -> Part:
    """Return the one value a text holds, surrounding whitespace left out."""
    part = part_at(text, _past_space(text, 0))
    if _past_space(text, part.end) != len(text):
        raise NotJson(f"extra data at character {part.end}")
    return part


def part_at(text: str, start: int) -> Part:
    """Find the end and depth of the value that begins at `start`, without recursion.

    Only strings and brackets are looked at: what lies between is checked by `value`.
    """
    first = text[start : start + 1]
    if first not in ("{", "["):
        scalar = (_STRING if first == '"' else _SCALAR).match(text, start)
        if scalar is None:
            raise NotJson(f"expecting a value at character {start}")
        return Part(start, scalar.end(), 0)
    level = deepest = 0
    for token in _STRUCTURE.finditer(text, start):
        mark = token[0]
        if mark in ("{", "["):
            level += 1
            deepest = max(deepest, level)
        elif mark in ("}", "]"):
            level -= 1
            if level == 0:
                return Part(start, token.end(), deepest)
    raise NotJson(f"brackets opened at character {start} are not closed")


def items(text: str, array: Part) -> Iterator[Part]:
    """Walk over the items of an array."""
    at = _past_space(text, array.start + 1)
    if text[at : at + 1] == "]":
        return
    while True:
        item = part_at(text, at)
        yield item
        at = _past_space(text, item.end)
        if text[at : at + 1] == "]":
            return
        at = _past_space(text, _past(text, at, ","))


def members(text: str, mapping: Part) -> Iterator[tuple[str, Part]]:
    """Walk over the members of an object; equal keys come as often as they are written."""
    at = _past_space(text, mapping.start + 1)
    if text[at : at + 1] == "}":
        return
    while True:
        key = _STRING.match(text, at)
        if key is None:
            raise NotJson(f"expecting a key at character {at}")
        name = value(key[0])
        colon = _past_space(text, key.end())
        item = part_at(text, _past_space(text, _past(text, colon, ":")))
        yield str(name), item
        at = _past_space(text, item.end)
        if text[at : at + 1] == "}":
            return
        at = _past_space(text, _past(text, at, ","))


def _past_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _past(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise NotJson(f"expecting {mark!r} at character {at}")
    return at + 1


def _finite(digits: str) -> Number | None:
    return Number(digits) if isfinite(float(digits)) else None


def _whole_characters(value: Json) -> Json:
    """Replace each half of a surrogate pair: it is no character, and no UTF-8 can hold it."""
    if isinstance(value, str):
        return _HALF_PAIR.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_HALF_PAIR.sub("\ufffd", key): _whole_characters(item) for key, item in value.items()}
    return value


_DECODER: Final = json.JSONDecoder(
    parse_float=_finite, parse_int=_finite, parse_constant=lambda _name: None, strict=False
)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)


def _quoted(text: str) -> str:
    return _ENCODER.encode(text)
