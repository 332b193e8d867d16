"""An event taken out of its request: one message that means by itself what it meant there.

So an event that was refused can be shown whole, put right, and sent again at any time.
"""

from profilelake.semantics import json_text
from profilelake.semantics.events import (
    EVENT_DEPTH_MAX,
    Envelope,
    Lines,
    derived_id,
    event_lines,
    first_time,
    handed_down,
    inherit,
    times,
    with_address,
)
from profilelake.semantics.json_text import Json, NotJson
from profilelake.semantics.times import format_time

Message = dict[str, Json]
_OF_THE_REQUEST = frozenset({"sentAt", "originalTimestamp", "receivedAt"})
"""Times that correct one another and mean nothing once the result is known."""


def standalone(raw: bytes, batch: str | None, envelope: Envelope, index: int) -> Message | None:
    """Return the event `raw` as a message of its own; None where it, or its batch, cannot be read.

    Written into it is all that only its request knew: the type its path named, what its batch
    handed down (`Rejected.batch`), the sender's address, the id it would have been given, and when
    it happened by our clock. What should not have been handed down is kept as it was, so an event
    that was refused for it is refused again until somebody puts it right.
    """
    message = _decoded(raw)
    if not isinstance(message, dict):
        return None
    root = _decoded(batch.encode()) if batch else {}
    if not isinstance(root, dict):
        # Nested too deeply. Without it the event would be another one.
        return None
    alone = {name: value for name, value in message.items() if name not in _OF_THE_REQUEST}
    for field in ("context", "integrations"):
        inherited = _inherited(message.get(field), root.get(field))
        if inherited is not None:
            alone[field] = inherited
    context = alone.get("context")
    if context is None or isinstance(context, dict):
        addressed = with_address(context, envelope)
        if addressed is not None:
            alone["context"] = addressed
    type = _type(message, envelope)
    if type is not None:
        alone["type"] = type
    if message.get("messageId") in (None, ""):
        alone["messageId"] = derived_id(envelope, index)
    happened, _, _ = times(message, first_time(root.get("sentAt")), envelope)
    alone["timestamp"] = format_time(happened)
    return alone


def _decoded(raw: bytes) -> Json:
    """Return a value found in a record before; None where it is not to be read after all."""
    try:
        text = json_text.decode_bytes(raw)
        part = json_text.whole(text)
        return json_text.value(text) if part.depth <= EVENT_DEPTH_MAX else None
    except NotJson:
        return None


def _inherited(own: Json, batch: Json) -> Json:
    """Return a part with what the event inherits, as `inherit` does; where one is no object, that one."""
    own, batch = (_object(part) for part in (own, batch))
    if own is not None and not isinstance(own, dict):
        return own
    if batch is not None and not isinstance(batch, dict):
        return batch
    return inherit(own, batch)


def _object(part: Json) -> Json:
    """Return a part as events are read: `""` is absent, and PHP writes an empty object as `[]`."""
    if part == "":
        return None
    return {} if part == [] else part


def _type(message: Message, envelope: Envelope) -> str | None:
    """Return the type that only the request named, if it did."""
    if envelope.type is not None:
        return envelope.type
    lines: Lines | None = envelope.lines
    return lines.type if lines and message.get("type") in (None, "") else None


def events_of(body: bytes, envelope: Envelope) -> tuple[list[bytes], str | None]:
    """Return the events of a record as they were sent, and what their batch hands down.

    As many as there are, whatever was counted on arrival; none where the body cannot be read.
    """
    if envelope.lines is not None:
        return event_lines(body), None
    try:
        text = json_text.decode_bytes(body)
        root = json_text.whole(text)
        if envelope.type is not None:
            return [text[root.start : root.end].encode()], None
        found = dict(json_text.members(text, root))
        events = [text[part.start : part.end].encode() for part in json_text.items(text, found["batch"])]
    except (NotJson, KeyError):
        return [], None
    return events, handed_down({name: text[part.start : part.end] for name, part in found.items()})
