"""What one record of the log means: the events in it, or why one of them is refused.

This is the plain reference; `landing/parse.py` is its fast form. Which fields an event has, which
time it happened, which identifiers it names: decided here. What identifiers lead to is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, Self, TypeAlias, get_args

from profilelake.errors import Unavailable
from profilelake.semantics import json_text
from profilelake.semantics.extraction import Parts, identifiers, inner
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.json_text import Json, NotJson, Number, Part
from profilelake.semantics.positions import Position
from profilelake.semantics.rules import EXTRACTION_VERSION, IdentityRules
from profilelake.semantics.times import happened_at, parse_time

EventType: TypeAlias = Literal["identify", "track", "page", "screen", "group", "alias"]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)

EVENT_BYTES_MAX: Final = 32_768
"""Bytes of one event's JSON as it was sent."""
INHERITED_BYTES_MAX: Final = 8_192
"""Bytes of `context` and `integrations` that a batch hands down to each of its events."""
EVENT_DEPTH_MAX: Final = 100
"""Levels of brackets in one event; every engine reads that deep."""

REASONS: Final[dict[str, str]] = {
    "undecodable_record": "the request body is not JSON of the expected shape, so none of its events can be read",
    "undecodable_line": "a line of an imported file is not one JSON object in UTF-8: events are written one per"
    " line, and none over several",
    "not_an_object": "an event must be a JSON object",
    "nested_too_deeply": f"the event has more than {EVENT_DEPTH_MAX} levels of brackets",
    "event_too_large": f"the event has more than {EVENT_BYTES_MAX} bytes of JSON, or its batch hands down"
    f" more than {INHERITED_BYTES_MAX} bytes of context and integrations",
    "unknown_type": f"`type` must be one of {', '.join(EVENT_TYPES)}",
    "invalid_field": "a field has a JSON type that its meaning does not allow",
    "missing_event_name": "a track event needs `event`",
    "missing_group_id": "a group event needs `groupId`",
    "missing_previous_id": "an alias event needs `previousId`",
    "no_identifier": "the event names nobody: it needs a userId, anonymousId, groupId, e-mail, device id"
    " or external id",
}
"""Why an event is refused: code -> what the sender is told."""

TEXT_FIELDS: Final = ("messageId", "userId", "anonymousId", "groupId", "previousId", "event", "name")
"""Fields whose value is text; numbers are taken as their digits."""
OBJECT_FIELDS: Final = ("context", "properties", "traits", "integrations")
"""Fields whose value is an object; PHP writes an empty one as `[]`."""
HANDED_DOWN: Final = ("sentAt", "context", "integrations")
"""What the root of a batch says about all its events."""


_SPACE: Final = b" \t\r"
"""What may stand around the event of a line."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What an import says of a body that holds one message per line.

    `name` stands for these lines and all before them in their file: a message without an id gets one
    made of it, so importing the file again brings the same ids. `type` is for messages without one.
    """

    name: str
    type: EventType | None = None

    def encode(self) -> str:
        """Return the text that the log keeps."""
        return f"{self.name}:{self.type or ''}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote; nothing else can be a type."""
        name, _, type = text.partition(":")
        return cls(name, next((kind for kind in EVENT_TYPES if kind == type), None))

    def message_id(self, index: int | str) -> str:
        """Return the id of the event at a place among these lines that has none of its own."""
        return f"pl-{self.name}-{index}"


def event_lines(body: bytes) -> list[bytes]:
    """Return the lines that hold something; each is one event."""
    return [line for part in body.split(b"\n") if (line := part.strip(_SPACE))]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is known of a record besides its body.

    `type` is what the path named, None for a batch. `events` was counted on arrival. `browser`:
    the request came from a page, so `context.ip` is filled from `ip`. `sent_at` is the SentAt
    header, "" where there was none. `lines`: the body is not a request's but part of an imported file.
    """

    received_at: int
    region: str
    log_id: str
    offset: int
    source_id: str
    type: EventType | None
    events: int
    ip: str = ""
    sent_at: str = ""
    browser: bool = False
    extraction_version: int = EXTRACTION_VERSION
    lines: Lines | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One accepted event. Times are microseconds UTC; JSON parts are canonical text.

    `original_timestamp` is the client's own time, None where it sent none; `timestamp` is when it
    happened by our clock. The identifiers are normalised, distinct, and raw: no rule has blocked
    any yet. `consent` is `context.consent`, `library` is `context.library.name`.
    """

    position: Position
    received_at: int
    message_id: str
    type: EventType
    event: str | None
    name: str | None
    user_id: str | None
    anonymous_id: str | None
    group_id: str | None
    previous_id: str | None
    timestamp: int
    original_timestamp: int | None
    sent_at: int | None
    source_id: str
    library: str | None
    consent: str | None
    context: str | None
    properties: str | None
    traits: str | None
    integrations: str | None
    users: tuple[Identifier, ...]
    accounts: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One refused event: data, not an exception, so that it can be looked at and replayed.

    `raw` is the event as it was sent. Of an undecodable record the first event keeps the whole
    body and the others none. `batch` is what the root of its batch says about all events
    (`HANDED_DOWN`), as it was sent; only the first refused event of a batch keeps it.
    """

    position: Position
    received_at: int
    message_id: str | None
    reason: str
    detail: str
    raw: bytes
    source_id: str
    batch: str | None = None


class _Refused(Exception):
    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def parse_record(body: bytes, envelope: Envelope, rules: IdentityRules) -> list[Event | Rejected]:
    """Return what each event of a record means, in their order: exactly `envelope.events` outcomes.

    `body` is the request body after Content-Encoding. A body that cannot be read, or that holds
    another number of events than were counted on arrival, is refused whole (`undecodable`), so
    that the accounts always balance. Of an import each line is read for itself (`parse_line`).

    Raises:
        Unavailable: a newer program wrote the record and reads identifiers from other places.
    """
    check_extraction_version(envelope.extraction_version)
    try:
        if envelope.lines is None:
            outcomes = list(_outcomes(json_text.decode_bytes(body), envelope, rules))
        else:
            lines = enumerate(event_lines(body))
            outcomes = [parse_line(line, envelope, index, rules) for index, line in lines]
    except NotJson as error:
        return undecodable(body, envelope, str(error))
    if len(outcomes) != envelope.events:
        return undecodable(body, envelope, count_mismatch(len(outcomes), envelope.events))
    return outcomes


def parse_line(line: bytes, envelope: Envelope, index: int, rules: IdentityRules) -> Event | Rejected:
    """Return what one line of an import means; the line is kept if it cannot be read."""
    try:
        text = json_text.decode_bytes(line)
        return _outcome(text, json_text.whole(text), _Batch(), envelope, index, rules)
    except NotJson as error:
        refused = _Refused("undecodable_line", str(error))
        if len(line) > EVENT_BYTES_MAX:
            # The import has cut off what is far too long, so that what is left need not be JSON.
            refused = _Refused("event_too_large", size_detail(len(line)))
        return _rejected(envelope, index, refused, None, line)


def undecodable(raw: bytes, envelope: Envelope, detail: str) -> list[Event | Rejected]:
    """Return the refusals of a record none of whose events can be read; the first one keeps the body."""
    return [
        _rejected(envelope, index, _Refused("undecodable_record", detail), None, b"" if index else raw)
        for index in range(envelope.events)
    ]


def count_mismatch(found: int, counted: int) -> str:
    """Return the detail for a record whose events are not as many as were counted on arrival."""
    return f"the body holds {found} events, {counted} were counted on arrival"


def size_detail(size: int) -> str:
    """Return the detail of an event that is too large."""
    return f"{size} bytes"


def check_extraction_version(version: int) -> None:
    """Refuse records whose identifiers are read from places this program does not know."""
    if version != EXTRACTION_VERSION:
        raise Unavailable(
            f"reading a log record of extraction version {version}, this program knows {EXTRACTION_VERSION}:"
            " start the program version that wrote it, or a newer one"
        )


# ---- records ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the root of a batch says about all its events."""

    sent_at: int | None = None
    context: dict[str, Json] | None = None
    integrations: dict[str, Json] | None = None
    refused: _Refused | None = None


def _outcomes(text: str, envelope: Envelope, rules: IdentityRules) -> Iterator[Event | Rejected]:
    root = json_text.whole(text)
    if envelope.type is not None:
        yield _outcome(text, root, _Batch(), envelope, 0, rules)
        return
    if text[root.start] != "{":
        raise NotJson("a batch must be an object")
    found = dict(json_text.members(text, root))
    array = found.get("batch")
    if array is None or text[array.start] != "[":
        raise NotJson("a batch needs an array `batch`")
    batch = _batch(text, found)
    said = handed_down({name: text[part.start : part.end] for name, part in found.items()})
    for index, item in enumerate(json_text.items(text, array)):
        outcome = _outcome(text, item, batch, envelope, index, rules)
        if said is not None and isinstance(outcome, Rejected):
            outcome, said = replace(outcome, batch=said), None
        yield outcome


def handed_down(members: Mapping[str, str]) -> str | None:
    """Return what a batch hands down as one text, of the texts of its root's members; None for nothing."""
    said = [f'"{name}":{members[name]}' for name in HANDED_DOWN if name in members]
    return "{" + ",".join(said) + "}" if said else None


def _batch(text: str, found: dict[str, Part]) -> _Batch:
    """Read the root of a batch. Its `timestamp` is the time of the flush, so nobody's time: not read."""
    inherited = [found[name] for name in ("context", "integrations") if name in found]
    if sum(len(text[part.start : part.end].encode()) for part in inherited) > INHERITED_BYTES_MAX:
        return _Batch(refused=_Refused("event_too_large", "batch context and integrations"))
    if any(part.depth >= EVENT_DEPTH_MAX for part in inherited):
        return _Batch(refused=_Refused("nested_too_deeply", "batch context and integrations"))
    root = {
        name: json_text.value(text[part.start : part.end])
        for name, part in found.items()
        if name in ("context", "integrations", "sentAt") and part.depth < EVENT_DEPTH_MAX
    }
    try:
        return _Batch(
            sent_at=_time(root.get("sentAt")),
            context=_object(root, "context"),
            integrations=_object(root, "integrations"),
        )
    except _Refused as refused:
        return _Batch(refused=_Refused(refused.reason, f"batch {refused.detail}"))


def _outcome(
    text: str, part: Part, batch: _Batch, envelope: Envelope, index: int, rules: IdentityRules
) -> Event | Rejected:
    raw = text[part.start : part.end]
    size = len(raw.encode())
    message: Json = None
    try:
        if part.depth > EVENT_DEPTH_MAX:
            raise _Refused("nested_too_deeply")
        message = json_text.value(raw)
        if not isinstance(message, dict):
            raise _Refused("not_an_object")
        if size > EVENT_BYTES_MAX:
            raise _Refused("event_too_large", size_detail(size))
        if batch.refused:
            raise batch.refused
        return parse_event(message, batch, envelope, index, rules)
    except _Refused as refused:
        known = _known_message_id(message) if isinstance(message, dict) else None
        return _rejected(envelope, index, refused, known, raw.encode())


def _rejected(
    envelope: Envelope, index: int, refused: _Refused, message_id: str | None, raw: bytes
) -> Rejected:
    return Rejected(
        position=_position(envelope, index),
        received_at=envelope.received_at,
        message_id=message_id,
        reason=refused.reason,
        detail=refused.detail,
        raw=raw,
        source_id=envelope.source_id,
    )


def _position(envelope: Envelope, index: int) -> Position:
    return Position(envelope.received_at, envelope.region, envelope.log_id, envelope.offset, index)


# ---- one event -------------------------------------------------------------------------------


def read_event(
    message: dict[str, Json],
    type: EventType | None,
    inherited: dict[str, Json] | None,
    rules: IdentityRules,
    source_id: str,
) -> Event | None:
    """Return what a message means, None where it is refused; for those who ask before it has a position.

    Position, times and ids made of them are empty. `inherited` is the context of its batch.
    """
    nowhere = Envelope(0, "", "00" * 8, 0, source_id, type, 1)
    try:
        return parse_event(message, _Batch(context=inherited), nowhere, 0, rules)
    except _Refused:
        return None


def parse_event(
    message: dict[str, Json], batch: _Batch, envelope: Envelope, index: int, rules: IdentityRules
) -> Event:
    kind = _type(message, envelope)
    texts = {field: _text(message, field) for field in TEXT_FIELDS}
    parts = {field: _object(message, field) for field in OBJECT_FIELDS}
    sent_context = inherit(parts["context"], batch.context)
    context = with_address(sent_context, envelope)
    properties = _with_category(kind, message, parts["properties"])
    traits = parts["traits"]
    if kind == "identify" and traits is None:
        # RudderStack's SDKs write the traits of an identify call into the context only.
        traits = inner(context, "traits")
    if kind == "track" and texts["event"] is None:
        raise _Refused("missing_event_name")
    if kind == "group" and texts["groupId"] is None:
        raise _Refused("missing_group_id")
    if kind == "alias" and texts["previousId"] is None:
        raise _Refused("missing_previous_id")
    hint = kind == "alias" and envelope.source_id in rules.alias_sources
    found = identifiers(kind, texts, Parts(sent_context, traits, parts["properties"]), rules, hint=hint)
    if not any(found.values()):
        raise _Refused("no_identifier")
    happened, original, sent = times(message, batch.sent_at, envelope)
    position = _position(envelope, index)
    return Event(
        position=position,
        received_at=envelope.received_at,
        message_id=texts["messageId"] or derived_id(envelope, index),
        type=kind,
        event=texts["event"],
        name=texts["name"],
        user_id=texts["userId"],
        anonymous_id=texts["anonymousId"],
        group_id=texts["groupId"],
        previous_id=texts["previousId"],
        timestamp=happened,
        original_timestamp=original,
        sent_at=sent,
        source_id=envelope.source_id,
        library=_library(context),
        consent=_dump(inner(context, "consent")),
        context=_dump(context),
        properties=_dump(properties),
        traits=_dump(traits),
        integrations=_dump(inherit(parts["integrations"], batch.integrations)),
        users=tuple(found["users"]),
        accounts=tuple(found["accounts"]),
    )


def derived_id(envelope: Envelope, index: int) -> str:
    """Return the message id of an event whose sender gave none."""
    return (
        envelope.lines.message_id(index)
        if envelope.lines
        else "pl-" + _position(envelope, index).to_bytes().hex()
    )


def times(
    message: dict[str, Json], batch_sent_at: int | None, envelope: Envelope
) -> tuple[int, int | None, int | None]:
    """Return when the event happened, the client's own time, and when it was sent."""
    own, first, received = (message.get(name) for name in ("timestamp", "originalTimestamp", "receivedAt"))
    sent = batch_sent_at
    if sent is None:
        sent = first_time(message.get("sentAt"), envelope.sent_at)
    if envelope.lines is None:
        original = first_time(own, first)
        return happened_at(envelope.received_at, original, sent), original, sent
    # Whoever exported the event had received it and corrected its `timestamp`: once is enough.
    happened = happened_at(envelope.received_at, first_time(own, first, received), None)
    return happened, first_time(first, own), sent


def _type(message: dict[str, Json], envelope: Envelope) -> EventType:
    if envelope.type is not None:
        return envelope.type
    sent = message.get("type")
    if envelope.lines and envelope.lines.type and sent in (None, ""):
        return envelope.lines.type
    for kind in EVENT_TYPES:
        if sent == kind:
            return kind
    raise _Refused("unknown_type")


def _text(message: dict[str, Json], field: str) -> str | None:
    found = message.get(field)
    if found is None or isinstance(found, str):
        return found or None
    if isinstance(found, Number):
        return found.digits
    raise _Refused("invalid_field", f"{field} is neither text nor a number")


def _object(message: dict[str, Json], field: str) -> dict[str, Json] | None:
    found = message.get(field)
    if found is None or found == "":
        return None
    if found == []:
        return {}
    if isinstance(found, dict):
        return found
    raise _Refused("invalid_field", f"{field} is not an object")


def _known_message_id(message: dict[str, Json]) -> str | None:
    try:
        return _text(message, "messageId")
    except _Refused:
        return None


def inherit(own: dict[str, Json] | None, batch: dict[str, Json] | None) -> dict[str, Json] | None:
    """Add the members of the batch that the event has not: what the event says itself wins."""
    if own is None or batch is None:
        return batch if own is None else own
    return own | {key: item for key, item in batch.items() if key not in own}


def with_address(context: dict[str, Json] | None, envelope: Envelope) -> dict[str, Json] | None:
    """Fill `context.ip` where the event came from a page, or its sender asks for it."""
    wanted = envelope.browser or (context is not None and context.get("direct") is True)
    if not wanted or not envelope.ip or (context and context.get("ip") not in (None, "")):
        return context
    return (context or {}) | {"ip": envelope.ip}


def _with_category(
    kind: EventType, message: dict[str, Json], properties: dict[str, Json] | None
) -> dict[str, Json] | None:
    """Keep the `category` of a page or screen, which some SDKs send beside the properties only."""
    category = message.get("category")
    if kind not in ("page", "screen") or category in (None, "") or (properties and "category" in properties):
        return properties
    return (properties or {}) | {"category": category}


def _library(context: dict[str, Json] | None) -> str | None:
    library = inner(context, "library")
    name = library.get("name") if library else None
    return name if isinstance(name, str) and name else None


def _dump(value: dict[str, Json] | None) -> str | None:
    return None if value is None else json_text.dump(value)


def _time(value: Json) -> int | None:
    return parse_time(value) if isinstance(value, str) else None


def first_time(*values: Json) -> int | None:
    """Return the first of the values that is a time: one that cannot be read counts as absent."""
    return next((time for time in map(_time, values) if time is not None), None)
