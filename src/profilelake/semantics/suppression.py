"""Suppression: whom an event names, and how the events of suppressed people are taken out of a body.

This is the plain reference. `collect/suppress.py` and `landing/suppress.py` are its fast forms; who is
suppressed, they are told.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from profilelake.semantics import json_text
from profilelake.semantics.events import EVENT_DEPTH_MAX, EventType, read_event
from profilelake.semantics.extraction import PATH_STEPS_MAX, at_path, custom_keys
from profilelake.semantics.identifiers import Identifier, normalised
from profilelake.semantics.json_text import Json, NotJson, Number, Part
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules

Name: TypeAlias = tuple[Collection, Identifier]
Judge: TypeAlias = Callable[[Collection, Identifier], bool]
"""Tells whether an identifier is suppressed."""

PREVIOUS_ID_TYPES: Final = ("user_id", "anonymous_id")
"""What `previousId` may be: an alias names its old id without saying of which kind it is."""
BATCH_MEMBERS: Final = ("sentAt", "context", "integrations")
"""What landing reads of the root of a batch, besides its events."""

_LEVELS: Final = PATH_STEPS_MAX
"""Levels of a message in which identifiers stand: those of the longest path; message, context, device, id."""


@dataclass(frozen=True, slots=True)
class Withheld:
    """A body without the events of suppressed people: `null` stands in the place of each of `events`."""

    body: bytes
    events: int


def names(
    message: Json,
    inherited: dict[str, Json] | None,
    type: EventType | None,
    rules: IdentityRules,
    source_id: str,
) -> set[Name]:
    """Return whom a message names.

    Of an event that is accepted these are its identifiers, and its `previousId` as what it may be.
    One that is refused is kept as it was sent, so there every place counts in which identifiers
    stand. `inherited` is the context of its batch.
    """
    if not isinstance(message, dict):
        return set()
    event = read_event(message, type, inherited, rules, source_id)
    if event is None:
        return set(_anywhere(message, inherited or {}, rules))
    found: set[Name] = {("users", identifier) for identifier in event.users}
    found |= {("accounts", identifier) for identifier in event.accounts}
    if event.previous_id is not None:
        found |= {
            ("users", Identifier(kind, value))
            for kind in PREVIOUS_ID_TYPES
            if (value := normalised(rules, "users", kind, event.previous_id))
        }
    return found


def names_anywhere(message: Json, inherited: dict[str, Json] | None, rules: IdentityRules) -> set[Name]:
    """Return whom a message that was refused names, or the context of its batch."""
    return set(_anywhere(message if isinstance(message, dict) else {}, inherited or {}, rules))


def read(raw: bytes) -> Json:
    """Return a JSON value without what no parser reads for its depth; None where it is not JSON."""
    try:
        text = json_text.decode_bytes(raw)
        return _pruned(text, json_text.whole(text))
    except NotJson:
        return None


def withhold(
    body: bytes,
    type: EventType | None,
    rules: IdentityRules,
    suppressed: Judge,
    *,
    source_id: str,
    again: bool = False,
) -> Withheld | None:
    """Return a body without the events that name somebody suppressed; None where there is none.

    `type` is what the path named, None for a batch. The other events keep their bytes. Of the root
    of a batch only what landing reads is kept, and the context only if it names nobody suppressed.
    `again`: the body was through here before, and every `null` in the place of an event counts.
    """

    def hit(found: set[Name]) -> bool:
        return any(suppressed(collection, identifier) for collection, identifier in found)

    def gone(part: Part, inherited: dict[str, Json] | None) -> bool:
        if again and text[part.start : part.end] == "null":
            return True
        return hit(names(_pruned(text, part), inherited, type, rules, source_id))

    try:
        text = json_text.decode_bytes(body)
        root = json_text.whole(text)
        if type is not None:
            return Withheld(b"null", 1) if gone(root, None) else None
        members = dict(json_text.members(text, root)) if text[root.start] == "{" else {}
        array = members.get("batch")
        if array is None or text[array.start] != "[":
            return None
        context = _pruned(text, members["context"]) if "context" in members else None
        inherited = context if isinstance(context, dict) else None
        items = list(json_text.items(text, array))
        hits = [gone(item, inherited) for item in items]
    except NotJson:
        return None
    if not any(hits):
        return None
    kept = [
        f'"{name}":{text[members[name].start : members[name].end]}'
        for name in BATCH_MEMBERS
        if name in members and not (name == "context" and hit(context_names(inherited, rules)))
    ]
    events = ",".join(
        "null" if is_hit else text[item.start : item.end] for is_hit, item in zip(hits, items, strict=True)
    )
    members_kept = ",".join([*kept, f'"batch":[{events}]'])
    return Withheld(f"{{{members_kept}}}".encode(), sum(hits))


def context_names(context: dict[str, Json] | None, rules: IdentityRules) -> set[Name]:
    """Return whom the context of a batch names by itself, whatever its events say."""
    return names_anywhere(None, context, rules)


def _pruned(text: str, part: Part, levels: int = _LEVELS) -> Json:
    """Return a value without what is nested too deeply for any parser: no identifier stands there."""
    if part.depth <= EVENT_DEPTH_MAX:
        return json_text.value(text[part.start : part.end])
    if not levels or text[part.start] != "{":
        return None
    return {name: _pruned(text, inner, levels - 1) for name, inner in json_text.members(text, part)}


def _anywhere(message: dict[str, Json], inherited: dict[str, Json], rules: IdentityRules) -> Iterator[Name]:
    """Return every identifier in a place where one may stand, be it the first of its type or not."""
    contexts = [_part(message, "context"), inherited]
    traits = [_part(message, "traits"), *(_part(context, "traits") for context in contexts)]
    properties = [_part(message, "properties")]
    free = [*traits, *properties]
    roots = {"traits": traits, "properties": properties, "context": contexts}
    places: list[tuple[Collection, str, Json]] = [
        ("users", "user_id", message.get("userId")),
        ("users", "anonymous_id", message.get("anonymousId")),
        ("accounts", "group_id", message.get("groupId")),
    ]
    places += [("users", kind, message.get("previousId")) for kind in PREVIOUS_ID_TYPES]
    places += [("users", "email", part.get("email")) for part in free]
    for rule in rules.types:
        if rule.custom:
            keys = custom_keys(rule.type)
            places += [(rule.collection, rule.type, part.get(key)) for part in free for key in keys]
        for path in rule.paths:
            root, _, rest = path.partition(".")
            places += [(rule.collection, rule.type, at_path(part, rest)) for part in roots[root]]
    for context in contexts:
        device = _part(context, "device")
        for system in ("android", "ios"):
            places.append(("users", f"{system}.id", device.get("id")))
            places.append(("users", f"{system}.idfa", device.get("advertisingId")))
            places.append(("users", f"{system}.push_token", device.get("token")))
        analytics = _part(_part(context, "integrations"), "Google Analytics")
        places.append(("users", "ga_client_id", analytics.get("clientId")))
        listed = context.get("externalIds")
        for entry in listed if isinstance(listed, list) else ():
            kind = entry.get("type") if isinstance(entry, dict) else None
            if isinstance(entry, dict) and isinstance(kind, str):
                places += [(collection, kind, entry.get("id")) for collection in COLLECTIONS]
    for collection, kind, place in places:
        sent = place.digits if isinstance(place, Number) else place
        value = normalised(rules, collection, kind, sent) if isinstance(sent, str) else ""
        if value:
            yield collection, Identifier(kind, value)


def _part(outer: dict[str, Json], name: str) -> dict[str, Json]:
    found = outer.get(name)
    return found if isinstance(found, dict) else {}
