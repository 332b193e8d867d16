"""From the bytes of a request body to what the answer depends on: is it JSON, how many events, which key.

Nothing of an event is kept or changed: the log stores the body as it came.
"""

import json
from typing import Any, Final, NamedTuple

import msgspec
from isal import igzip_lib, isal_zlib

from profilelake.collect.answers import Refused, invalid
from profilelake.collect.limits import CollectLimits
from profilelake.eventlog import Flags, Kind
from profilelake.semantics import json_text

_GZIP_WINDOW: Final = 31
"""Tells zlib to expect gzip, check its sum and nothing else."""
_GZIP_NAMES: Final = frozenset({b"gzip", b"x-gzip"})
_PLAIN_NAMES: Final = frozenset({b"", b"identity"})


class Checked(NamedTuple):
    """What collect knows of a body. `write_key` is None where the body names none.

    A named tuple, because one is made per request and a frozen dataclass costs several times as much.
    """

    events: int
    flags: Flags
    write_key: str | None


class _Message(msgspec.Struct):
    write_key: Any = msgspec.field(name="writeKey", default=None)


class _Batch(msgspec.Struct):
    batch: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    write_key: Any = msgspec.field(name="writeKey", default=None)


_decode_message: Final = msgspec.json.Decoder(_Message).decode
_decode_batch: Final = msgspec.json.Decoder(_Batch).decode

# It takes what `json_text.value` takes, and keeps the scanner's work in C: numbers of any length
# and size pass, since a float has no digits to lose here.
_tolerant: Final = json.JSONDecoder(parse_int=float, parse_constant=lambda _name: None, strict=False).decode


def check(kind: Kind, body: bytes, encoding: bytes, limits: CollectLimits) -> Checked:
    """Check a body as it came, `encoding` being its Content-Encoding.

    Raises:
        Refused: it cannot be read as what `kind` says.
    """
    flags = Flags.NONE
    if encoding not in _PLAIN_NAMES:
        encoding = encoding.strip().lower()
        if encoding in _GZIP_NAMES:
            body = inflate(body, limits)
            flags = Flags.GZIP
        elif encoding not in _PLAIN_NAMES:
            raise Refused(
                415,
                "invalid_request",
                "unsupported_encoding",
                "this Content-Encoding is not read: use gzip or none",
            )
    if not body:
        raise invalid("empty_body", "the body is empty: send a JSON object")
    if not body.isascii():
        # The fast parser does not look into the strings it skips.
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise invalid("invalid_utf8", f"malformed JSON: byte {error.start} is not UTF-8") from error
    try:
        return _strictly(kind, body, flags, limits)
    except msgspec.ValidationError as error:
        raise _wrong_shape(kind) from error
    except msgspec.DecodeError:
        return _tolerantly(kind, body, flags, limits)
    except RecursionError as error:
        raise _too_deep() from error


def inflate(body: bytes, limits: CollectLimits) -> bytes:
    """Return what a gzip body holds, never more than the limits allow.

    Raises:
        Refused: it is broken, or larger than is read.
    """
    bytes_max = min(
        limits.body_bytes_max, max(limits.inflate_free_bytes, limits.inflate_ratio_max * len(body))
    )
    inflater = isal_zlib.decompressobj(_GZIP_WINDOW)
    try:
        # One byte more than allowed tells too much from just enough.
        plain: bytes = inflater.decompress(body, bytes_max + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # the stub takes the class for an instance
        raise invalid("invalid_gzip", "the body is not the gzip that Content-Encoding announces") from error
    if len(plain) > bytes_max:
        raise too_large(bytes_max)
    if not inflater.eof:
        raise invalid("invalid_gzip", "the gzip body ends too early")
    if inflater.unused_data:
        raise invalid("invalid_gzip", "there are bytes after the end of the gzip body")
    return plain


def _strictly(kind: Kind, body: bytes, flags: Flags, limits: CollectLimits) -> Checked:
    if kind is not Kind.BATCH:
        return Checked(1, flags, _key(_decode_message(body).write_key))
    envelope = _decode_batch(body)
    items = envelope.batch
    if items is msgspec.UNSET:
        raise _wrong_shape(kind)
    key = _key(envelope.write_key)
    if key is None and items:
        key = _item_key(items[0])
    return Checked(_count(len(items), limits), flags, key)


def _tolerantly(kind: Kind, body: bytes, flags: Flags, limits: CollectLimits) -> Checked:
    if len(body) > limits.tolerant_bytes_max:
        raise invalid(
            "malformed_json",
            f"malformed JSON; above {limits.tolerant_bytes_max} bytes only strict JSON is read (no NaN,"
            " no half surrogate pairs, no byte order mark)",
        )
    try:
        decoded = _tolerant(json_text.decode_bytes(body))
    except json.JSONDecodeError as error:
        raise invalid(
            "malformed_json", f"malformed JSON: {error.msg.lower()} at character {error.pos}"
        ) from error
    except RecursionError as error:
        raise _too_deep() from error
    if not isinstance(decoded, dict):
        raise _wrong_shape(kind)
    flags |= Flags.TOLERANT
    key = _key(decoded.get("writeKey"))
    if kind is not Kind.BATCH:
        return Checked(1, flags, key)
    items = decoded.get("batch")
    if not isinstance(items, list):
        raise _wrong_shape(kind)
    if key is None and items and isinstance(items[0], dict):
        key = _key(items[0].get("writeKey"))
    return Checked(_count(len(items), limits), flags, key)


def _key(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _item_key(item: msgspec.Raw) -> str | None:
    # The batching of analytics.js writes its one key into every item, so the first one will do.
    try:
        return _key(_decode_message(bytes(item)).write_key)
    except msgspec.ValidationError:
        return None


def _count(events: int, limits: CollectLimits) -> int:
    if events > limits.batch_events_max:
        raise invalid(
            "too_many_events",
            f"the batch has {events} events, {limits.batch_events_max} are read: split it",
        )
    return events


def too_large(bytes_max: int, *, close: bool = False) -> Refused:
    """Return the refusal of a body above the limit."""
    return invalid("body_too_large", f"the body has more than {bytes_max} bytes: split it", close=close)


def _wrong_shape(kind: Kind) -> Refused:
    if kind is Kind.BATCH:
        return invalid("wrong_shape", "malformed batch: the body must be a JSON object with an array `batch`")
    return invalid("wrong_shape", "malformed message: the body must be a JSON object")


def _too_deep() -> Refused:
    return invalid("nested_too_deeply", "malformed JSON: more levels of brackets than any parser reads")
