"""Which identifiers an event names: the places they are read from, in their order.

This is the plain reference; `landing/_scan_names.py` is its fast form. Which of them link, the rules
decide later: what is read here is the raw set of an event, which no rule but these places changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from profilelake.semantics.identifiers import Identifier, normalised
from profilelake.semantics.json_text import Json, Number
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules

PATH_ROOTS: Final = ("traits", "properties", "context")
"""Parts of an event in which paths begin."""
PATH_STEPS_MAX: Final = 8
"""Steps of a path, its root included."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The free-form parts of an event. `context` is what was sent, with what its batch hands down.

    `traits` of an identify call that has none are those of its context.
    """

    context: dict[str, Json] | None
    traits: dict[str, Json] | None
    properties: dict[str, Json] | None


def custom_keys(type: str) -> tuple[str, ...]:
    """Return the keys a custom identifier type is read from: camelCase, snake_case, and as it is."""
    snake = "".join("_" + letter.lower() if letter.isupper() else letter for letter in type).strip("_")
    head, *rest = snake.split("_")
    camel = head + "".join(word[:1].upper() + word[1:] for word in rest)
    return tuple(dict.fromkeys((camel, snake, type)))


def inner(outer: dict[str, Json] | None, field: str) -> dict[str, Json] | None:
    """Return an object inside another one, None where there is none: inner parts are never refused."""
    found = outer.get(field) if outer else None
    if found == []:
        return {}
    return found if isinstance(found, dict) else None


def at_path(parts: Mapping[str, Json], path: str) -> Json:
    """Return what stands at a dotted path, None where nothing does. Lists are not entered."""
    found: Json = None
    here: Mapping[str, Json] = parts
    for step in path.split("."):
        found = here.get(step)
        here = found if isinstance(found, dict) else {}
    return found


def identifiers(
    kind: str, texts: Mapping[str, str | None], parts: Parts, rules: IdentityRules, *, hint: bool
) -> dict[Collection, list[Identifier]]:
    """Return the identifiers an event names, in a fixed order, each once.

    Per type the first place that holds one counts; `context.externalIds` come on top, and the paths of
    a type are asked, in their order, where the event names none of it elsewhere. Inside the
    free-form parts, what is neither text nor a number is no identifier. `hint`: the previousId of this
    alias call is an anonymous id too.
    """
    context = parts.context or {}
    own, about, said = parts.traits or {}, inner(context, "traits") or {}, parts.properties or {}
    found = _Found(rules)
    found.add("users", "user_id", texts["userId"])
    found.add("users", "email", own.get("email"), about.get("email"), said.get("email"))
    found.add("users", "anonymous_id", texts["anonymousId"])
    if hint:
        found.add("users", "anonymous_id", texts["previousId"])
    _add_devices(found, context)
    for rule in rules.types:
        if rule.custom:
            first: dict[str, Json] = {}
            if kind != "alias":
                first = own if kind in ("identify", "group") else said
            keys = custom_keys(rule.type)
            found.add(
                rule.collection, rule.type, *(place.get(key) for place in (first, about) for key in keys)
            )
    for entry in _entries(context.get("externalIds")):
        found.add(entry.collection, entry.type, entry.value)
    found.add("accounts", "group_id", texts["groupId"])
    roots: dict[str, Json] = {"traits": own, "properties": said, "context": context}
    for rule in rules.types:
        if rule.paths and not found.names(rule.collection, rule.type):
            found.add(rule.collection, rule.type, *(at_path(roots, path) for path in rule.paths))
    return found.by_collection


class _Found:
    """The identifiers found so far."""

    def __init__(self, rules: IdentityRules) -> None:
        self._rules = rules
        self.by_collection: dict[Collection, list[Identifier]] = {name: [] for name in COLLECTIONS}

    def names(self, collection: Collection, type: str) -> bool:
        """Tell whether an identifier of a type is among them."""
        return any(one.type == type for one in self.by_collection[collection])

    def add(self, collection: Collection, type: str, *places: Json) -> None:
        """Add what the first of the places holds that holds an identifier."""
        for place in places:
            text = place.digits if isinstance(place, Number) else place
            value = normalised(self._rules, collection, type, text) if isinstance(text, str) else ""
            if value:
                identifier = Identifier(type, value)
                if identifier not in self.by_collection[collection]:
                    self.by_collection[collection].append(identifier)
                return


def _add_devices(found: _Found, context: dict[str, Json]) -> None:
    """Add what device and browser are known by."""
    device = inner(context, "device") or {}
    system = device.get("type")
    if system in ("android", "ios"):
        found.add("users", f"{system}.id", device.get("id"))
        if device.get("adTrackingEnabled") is True:
            found.add("users", f"{system}.idfa", device.get("advertisingId"))
        found.add("users", f"{system}.push_token", device.get("token"))
    analytics = inner(inner(context, "integrations"), "Google Analytics") or {}
    found.add("users", "ga_client_id", analytics.get("clientId"))


@dataclass(frozen=True, slots=True)
class _External:
    collection: Collection
    type: str
    value: Json


def _entries(listed: Json) -> Iterator[_External]:
    """Read `context.externalIds`: entries that lack one of the four keys are no identifiers."""
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or entry.get("encoding") != "none":
            continue
        type, collection = entry.get("type"), entry.get("collection")
        # NUL parts type and value where identifiers are hashed, so a type cannot hold one.
        if not isinstance(type, str) or not type or "\0" in type:
            continue
        for known in COLLECTIONS:
            if collection == known:
                yield _External(known, type, entry.get("id"))
