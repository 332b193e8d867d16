"""What a request says: its path, its query, its token. Whatever cannot be read is refused, never guessed."""

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from profilelake.semantics.times import parse_time
from profilelake.serve._answer import Refused, invalid

TARGET_BYTES_MAX: Final = 8_192
"""Bytes of path and query together."""
PARAMETERS_MAX: Final = 64

_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NO_NAMES: Final[frozenset[str]] = frozenset()
_COLLECTION_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_-]")


class Route(NamedTuple):
    """A path taken apart. `profile` is the id as the client wrote it, "" for the collection itself.

    `/traits/{name}/history` is the resource `traits/history` with the name in `trait`, `/explain/{key}` is
    `explain` with the key of the definition there.
    """

    space: str
    collection: str
    profile: str
    resource: str
    trait: str = ""


def decode(raw: bytes, parameter: str) -> str:
    """Return percent-encoded bytes as text.

    Raises:
        Refused: an escape is broken, or the bytes are not UTF-8.
    """
    if b"%" in raw:
        if _BAD_ESCAPE.search(raw):
            raise invalid(f"The parameter `{parameter}` has a broken percent escape; write `%` as `%25`.")
        raw = unquote_to_bytes(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise invalid(f"The parameter `{parameter}` is not UTF-8.") from None


def route(raw_path: bytes) -> Route:
    """Take a path apart. The parts are split before they are decoded, so an id may hold any character.

    Raises:
        Refused: no resource has such a path, or a part of it cannot be decoded.
    """
    parts = raw_path.split(b"/")
    trait = b""
    if len(parts) == 11 and parts[8] == b"traits" and parts[10] == b"history":
        trait = parts[9]
        parts[8:] = [b"traits/history"]
    elif len(parts) == 10 and parts[8] == b"explain":
        trait = parts[9]
        parts[8:] = [b"explain"]
    if (
        not 7 <= len(parts) <= 9
        or parts[0]
        or parts[1] != b"v1"
        or parts[2] not in (b"spaces", b"namespaces")
    ):
        raise Refused(404, "not_found", "There is nothing at this path.")
    if parts[4] != b"collections" or parts[6] != b"profiles":
        raise Refused(404, "not_found", "There is nothing at this path.")
    return Route(
        decode(parts[3], "space"),
        decode(parts[5], "collection"),
        decode(parts[7], "id") if len(parts) > 7 else "",
        decode(parts[8], "resource") if len(parts) > 8 else "",
        decode(trait, "trait"),
    )


def check_collection(name: str) -> None:
    """Refuse what is not a collection, naming the characters that cannot be part of a name."""
    if name in ("users", "accounts"):
        return
    strange = "".join(dict.fromkeys(_COLLECTION_CHARACTERS.sub("", name)))
    if strange:
        raise invalid(f"The parameter `collection` has invalid character(s) `{strange}`")
    raise invalid("The parameter `collection` must be `users` or `accounts`.")


def secret(authorization: bytes | None) -> str | None:
    """Return the token of an `Authorization` header: Bearer, or Basic with the token as user name."""
    scheme, _, rest = (authorization or b"").partition(b" ")
    kind = scheme.lower()
    if kind == b"bearer":
        return rest.strip().decode("utf-8", "surrogateescape") or None
    if kind != b"basic":
        return None
    try:
        user = base64.b64decode(rest.strip() + b"==").partition(b":")[0]
    except binascii.Error:
        return None
    return user.decode("utf-8", "surrogateescape") or None


class Query:
    """The parameters of one request, each checked where it is asked for. Unknown ones are ignored."""

    def __init__(self, raw: bytes = b"") -> None:
        self._values: dict[str, list[str]] = {}
        if not raw:
            return
        parts = raw.split(b"&")
        if len(parts) > PARAMETERS_MAX:
            raise invalid(f"The query has {len(parts)} parameters, more than {PARAMETERS_MAX}.")
        for part in parts:
            name, _, value = part.replace(b"+", b" ").partition(b"=")
            if name:
                text = decode(name, "query")
                self._values.setdefault(text, []).append(decode(value, text))

    def text(self, name: str) -> str:
        """Return the last value given, "" where there is none."""
        values = self._values.get(name)
        return values[-1] if values else ""

    def limit(self, default: int, maximum: int) -> int:
        """Return how many rows a page may have."""
        text = self.text("limit")
        if not text:
            return default
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0
        if not 1 <= number <= maximum:
            raise invalid(f"The parameter `limit` must be a whole number from 1 to {maximum}.")
        return number

    def flag(self, name: str) -> bool:
        """Return a switch, off where it is not given."""
        text = self.text(name).lower()
        if text in ("true", "1"):
            return True
        if text in ("", "false", "0"):
            return False
        raise invalid(f"The parameter `{name}` must be `true` or `false`.")

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """Return one of the allowed values, "" where none is given."""
        text = self.text(name)
        if text and text not in allowed:
            raise invalid(f"The parameter `{name}` must be one of: {', '.join(allowed)}.")
        return text

    def names(self, name: str) -> frozenset[str]:
        """Return the entries of a comma list; the parameter may be repeated."""
        values = self._values.get(name)
        if not values:
            return _NO_NAMES
        return frozenset(entry for value in values for entry in value.split(",") if entry)

    def has(self, name: str) -> bool:
        """Tell whether a parameter was given, be it empty."""
        return name in self._values

    def beginning(self, prefix: str) -> list[tuple[str, str]]:
        """Return the parameters whose names begin like that, without the beginning, each with its value."""
        return [
            (name.removeprefix(prefix), value)
            for name, values in self._values.items()
            if name.startswith(prefix)
            for value in values
        ]

    def time(self, name: str, default: int) -> int:
        """Return a time in microseconds."""
        text = self.text(name)
        if not text:
            return default
        micros = parse_time(text)
        if micros is None:
            raise invalid(f"The parameter `{name}` must be an ISO 8601 time, such as 2026-01-31T12:00:00Z.")
        return micros

    def onward(self, start: str, limit: int) -> str:
        """Return this query for the next page."""
        pairs = [(n, v) for n, values in self._values.items() if n not in ("next", "limit") for v in values]
        pairs += [("limit", str(limit)), ("next", start)]
        return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)


NO_QUERY: Final = Query()
