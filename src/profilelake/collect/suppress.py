"""Suppressed people at the door: their events are taken out of a body before it reaches the log.

`semantics.suppression` says whom an event names; this is its fast form, for bodies that come in
thousands a second. It runs only for workspaces that suppress somebody, and a body without a hit
stays as it came. What cannot be read here is left to landing, which judges every event again.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final

import msgspec
from isal import isal_zlib

from profilelake.collect.bodies import inflate
from profilelake.collect.limits import CollectLimits
from profilelake.eventlog import Entry, Flags, Kind
from profilelake.semantics.events import EVENT_TYPES, EventType
from profilelake.semantics.extraction import at_path, custom_keys
from profilelake.semantics.identifiers import Identifier, normaliser_of, written
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules, Normaliser
from profilelake.semantics.suppression import PREVIOUS_ID_TYPES, context_names, names, read, withhold
from profilelake.workspaces.suppressions import Digests, SuppressionRing

SLOW_BYTES_MAX: Final = 1024 * 1024
"""Bytes of unusual events of one request that are read by the reference here; more are left to landing."""

_GZIP_LEVEL: Final = 1
_GZIP_WINDOW: Final = 31
_SURE_NUMBER_MAX: Final = 10**18
_TYPE_OF_KIND: Final[dict[Kind, EventType | None]] = {
    Kind.BATCH: None,
    **{Kind[type.upper()]: type for type in EVENT_TYPES},
}


class Suppression:
    """Takes the events of suppressed people out of bodies. One per collecting process."""

    def __init__(
        self,
        ring: SuppressionRing,
        rules: Callable[[str], IdentityRules],
        key: Callable[[str], bytes],
        limits: CollectLimits,
    ) -> None:
        """Ask `ring` who is suppressed; `rules` and `key` are asked for those of a workspace."""
        self._ring = ring
        self._rules = rules
        self._key = key
        self._limits = limits
        self._extractors: dict[str, _Extractor] = {}

    def withhold(self, entry: Entry) -> tuple[Entry, int]:
        """Return what to store instead of an entry, and how many events were taken out of it.

        The body is one that `bodies.check` has taken. Without a hit it is the same entry.
        """
        digests = self._ring.digests(entry.workspace)
        if not digests:
            return entry, 0
        extractor, rules = self._extractors.get(entry.workspace), self._rules(entry.workspace)
        if extractor is None or extractor.rules is not rules:
            key = self._key(entry.workspace)
            extractor = self._extractors[entry.workspace] = _Extractor(rules, key)
        extractor.digests = digests
        plain = inflate(entry.body, self._limits) if entry.flags & Flags.GZIP else entry.body
        type = _TYPE_OF_KIND[entry.kind]
        if entry.flags & Flags.TOLERANT:
            withheld = withhold(plain, type, rules, extractor.suppressed, source_id=entry.source_id)
            if withheld is None:
                return entry, 0
            plain, events = withheld.body, withheld.events
        else:
            hits = extractor.hits(plain, type, entry.source_id)
            if not hits:
                return entry, 0
            plain, events = extractor.without(plain, type, hits), len(hits)
        if entry.flags & Flags.GZIP:
            plain = isal_zlib.compress(plain, _GZIP_LEVEL, _GZIP_WINDOW)
        changed = entry._replace(body=plain, flags=entry.flags | Flags.SUPPRESSED)
        if events == entry.events:
            changed = changed._replace(ip="", sent_at="")  # nobody is left whom they would be about
        return changed, events


# ---- the shape of events, as far as identifiers stand in it ----------------------------------

# PHP writes an empty object as [], and some senders leave "", or a switch, in the place of one.
_Odd = list[Any] | str | bool | float | None
_OddOrUnset = list[Any] | str | bool | float | None | msgspec.UnsetType


class _Device(msgspec.Struct):
    type: Any = None
    id: Any = None
    token: Any = None
    advertising_id: Any = msgspec.field(name="advertisingId", default=None)
    tracking: Any = msgspec.field(name="adTrackingEnabled", default=None)


class _Analytics(msgspec.Struct):
    client_id: Any = msgspec.field(name="clientId", default=None)


class _Integrations(msgspec.Struct):
    analytics: _Analytics | _Odd = msgspec.field(name="Google Analytics", default=None)


class _Loose(msgspec.Struct):
    """The parts of an event in which paths begin, whatever they hold."""

    traits: Any = None
    properties: Any = None
    context: Any = None


class _LooseBatch(msgspec.Struct):
    batch: list[_Loose]
    context: Any = None


class _RawBatch(msgspec.Struct, omit_defaults=True):
    """The members of `semantics.suppression.BATCH_MEMBERS`, and the events."""

    batch: list[msgspec.Raw]
    sent_at: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="sentAt", default=msgspec.UNSET)
    context: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    integrations: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_raw: Final = msgspec.json.Decoder(_RawBatch).decode
_decode_loose: Final = msgspec.json.Decoder(_Loose).decode
_decode_loose_batch: Final = msgspec.json.Decoder(_LooseBatch).decode
_encode: Final = msgspec.json.Encoder().encode
_NULL: Final = msgspec.Raw(b"null")


class _Shapes:
    """Decoders for the events of some rules: the free-form parts have a field for each custom key."""

    def __init__(self, rules: IdentityRules) -> None:
        custom = [key for rule in rules.types if rule.custom for key in custom_keys(rule.type)]
        self.field_of = {key: f"key_{number}" for number, key in enumerate(dict.fromkeys(["email", *custom]))}
        make: Any = msgspec.defstruct
        unset = msgspec.UNSET
        self.free = make(
            "_Free",
            [(name, Any, None) for name in self.field_of.values()],
            rename={name: key for key, name in self.field_of.items()},
        )
        self.context = make(
            "_Context",
            [
                ("traits", self.free | _OddOrUnset, unset),
                ("device", _Device | _OddOrUnset, unset),
                ("integrations", _Integrations | _OddOrUnset, unset),
                ("external", Any, unset),
            ],
            rename={"external": "externalIds"},
        )
        event: Any = make(
            "_Event",
            [
                *((name, Any, None) for name in ("type", "user", "anonymous", "group", "previous")),
                ("context", self.context | _Odd, None),
                ("traits", self.free | _Odd, None),
                ("properties", self.free | _Odd, None),
            ],
            rename={
                "user": "userId",
                "anonymous": "anonymousId",
                "group": "groupId",
                "previous": "previousId",
            },
        )
        batch = make("_Batch", [("batch", list[event]), ("context", self.context | _Odd, None)])
        self.decode_event = msgspec.json.Decoder(event).decode
        self.decode_context = msgspec.json.Decoder(self.context | _Odd).decode
        self.decode_batch = msgspec.json.Decoder(batch).decode


class _Unusual(Exception):
    """The event, or its batch, is one that only the reference reads rightly."""


_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, _Unusual)


# ---- whom an event names ---------------------------------------------------------------------


class _Type:
    """How values of an identifier type are written and hashed."""

    __slots__ = ("_normaliser", "digest")

    def __init__(self, normaliser: Normaliser, digest: Callable[[str], bytes]) -> None:
        self._normaliser = normaliser
        self.digest = digest

    def written(self, value: str) -> str:
        """Return a value as it is compared."""
        return value if self._normaliser == "none" else written(self._normaliser, value)


class _Extractor:
    """Finds the events of suppressed people. `digests` is who is suppressed."""

    def __init__(self, rules: IdentityRules, key: bytes) -> None:
        self.digests: AbstractSet[bytes] = frozenset()
        self.rules = rules
        self._digests = Digests(key)
        self._shapes = _Shapes(rules)
        type = self._type
        self._user = (type("users", "user_id"),)
        self._anonymous = (type("users", "anonymous_id"),)
        self._group = (type("accounts", "group_id"),)
        self._previous = tuple(type("users", name) for name in PREVIOUS_ID_TYPES)
        self._email = type("users", "email")
        self._client = type("users", "ga_client_id")
        self._device = {
            system: tuple(type("users", f"{system}.{what}") for what in ("id", "idfa", "push_token"))
            for system in ("android", "ios")
        }
        field_of = self._shapes.field_of
        self._email_field = field_of["email"]
        self._custom = tuple(
            (type(rule.collection, rule.type), tuple(field_of[key] for key in custom_keys(rule.type)))
            for rule in rules.types
            if rule.custom
        )
        self._paths = tuple(
            (type(rule.collection, rule.type), path) for rule in rules.types for path in rule.paths
        )

    def _type(self, collection: Collection, type: str) -> _Type:
        digest_of = self._digests.of_type(collection, type)
        return _Type(normaliser_of(self.rules, collection, type), digest_of)

    def suppressed(self, collection: Collection, identifier: Identifier) -> bool:
        """Tell whether an identifier is suppressed."""
        return self._digests.digest(collection, identifier.type, identifier.value) in self.digests

    def hits(self, plain: bytes, type: EventType | None, source_id: str) -> list[int]:
        """Return which events of a body of strict JSON name somebody suppressed."""
        if type is not None:
            return [0] if self._is_hit(plain, type, None, b"", source_id, [SLOW_BYTES_MAX]) else []
        try:
            root = self._shapes.decode_batch(plain)
            context = self._checked(root.context)
            found = [number for number, event in enumerate(root.batch) if self._names(event, None, context)]
            if self._paths:
                loose = _decode_loose_batch(plain)
                for event in loose.batch:
                    self._check_paths(event, loose.context)
            return found
        except _UNREADABLE:
            return self._one_by_one(plain, source_id)

    def without(self, plain: bytes, type: EventType | None, hits: list[int]) -> bytes:
        """Return a body with `null` in the place of some events; the others keep their bytes."""
        if type is not None:
            return b"null"
        root = _decode_raw(plain)
        for number in hits:
            root.batch[number] = _NULL
        if root.context is not msgspec.UNSET:
            context = read(bytes(root.context))
            found = context_names(context, self.rules) if isinstance(context, dict) else ()
            if any(self.suppressed(collection, identifier) for collection, identifier in found):
                root.context = msgspec.UNSET
        return _encode(root)

    def _one_by_one(self, plain: bytes, source_id: str) -> list[int]:
        """Find the hits of a batch in which something is unusual."""
        root = _decode_raw(plain)
        raw_context = b"" if root.context is msgspec.UNSET else bytes(root.context)
        budget = [SLOW_BYTES_MAX]
        try:
            context = self._checked(self._shapes.decode_context(raw_context)) if raw_context else None
        except _UNREADABLE:
            return [
                number
                for number, item in enumerate(root.batch)
                if self._is_hit_slowly(bytes(item), None, raw_context, source_id, budget)
            ]
        return [
            number
            for number, item in enumerate(root.batch)
            if self._is_hit(bytes(item), None, context, raw_context, source_id, budget)
        ]

    def _is_hit(
        self,
        raw: bytes,
        type: EventType | None,
        context: Any,
        raw_context: bytes,
        source_id: str,
        budget: list[int],
    ) -> bool:
        try:
            if self._names(self._shapes.decode_event(raw), type, context):
                return True
            if self._paths:
                self._check_paths(_decode_loose(raw), msgspec.json.decode(raw_context or b"null"))
            return False
        except _UNREADABLE:
            return self._is_hit_slowly(raw, type, raw_context, source_id, budget)

    def _is_hit_slowly(
        self, raw: bytes, type: EventType | None, raw_context: bytes, source_id: str, budget: list[int]
    ) -> bool:
        budget[0] -= len(raw) + len(raw_context)
        if budget[0] < 0:
            return False
        inherited = read(raw_context) if raw_context else None
        context = inherited if isinstance(inherited, dict) else None
        found = names(read(raw), context, type, self.rules, source_id)
        return any(self.suppressed(collection, identifier) for collection, identifier in found)

    def _names(self, event: Any, type: EventType | None, inherited: Any) -> bool:
        """Tell whether an event names somebody suppressed, place by place as the reference reads them."""
        kind = event.type if type is None else type
        if kind not in EVENT_TYPES:
            raise _Unusual
        own, said = self._checked(event.traits), self._checked(event.properties)
        about, device, integrations, external = self._context(self._checked(event.context), inherited)
        digests = self.digests
        for place, types in (
            (event.user, self._user),
            (event.anonymous, self._anonymous),
            (event.group, self._group),
            (event.previous, self._previous),
        ):
            if place is not None and (value := _id(place)):
                for type_of in types:
                    if type_of.digest(type_of.written(value)) in digests:
                        return True
        return (
            (
                (own is not None or about is not None or said is not None)
                and self._names_freely(kind, own, about, said)
            )
            or (device is not None and self._names_device(device))
            or (integrations is not None and self._names_client(integrations.analytics))
            or (external.__class__ is list and self._names_external(external))
        )

    def _checked(self, part: Any) -> Any:
        """Return a part that must be an object, None where it is absent or empty."""
        if part is None or part == "" or part == []:
            return None
        if part.__class__ is self._shapes.free or part.__class__ is self._shapes.context:
            return part
        raise _Unusual

    def _context(self, own: Any, batch: Any) -> Iterable[Any]:
        """Return the traits, device, integrations and external ids; what the event says itself wins."""
        if own is None:
            own, batch = batch, None
        if own is None:
            return None, None, None, None
        unset = msgspec.UNSET
        traits, device, integrations, external = own.traits, own.device, own.integrations, own.external
        if batch is not None:
            traits = batch.traits if traits is unset else traits
            device = batch.device if device is unset else device
            integrations = batch.integrations if integrations is unset else integrations
            external = batch.external if external is unset else external
        return (
            traits if traits.__class__ is self._shapes.free else None,
            device if device.__class__ is _Device else None,
            integrations if integrations.__class__ is _Integrations else None,
            external,
        )

    def _check_paths(self, event: _Loose, batch_context: Any) -> None:
        """Leave an event to the reference where a path leads to somebody suppressed.

        Whether he counts depends on whom else the event names. Events like that are rare.
        """
        contexts = [part for part in (event.context, batch_context) if part.__class__ is dict]
        traits = [event.traits, *(part.get("traits") for part in contexts)]
        places = {"traits": traits, "properties": [event.properties], "context": contexts}
        for type_of, path in self._paths:
            root, _, rest = path.partition(".")
            for part in places[root]:
                if part.__class__ is dict:
                    value = _first((at_path(part, rest),), type_of.written)
                    if value and type_of.digest(value) in self.digests:
                        raise _Unusual

    def _names_freely(self, kind: str, own: Any, about: Any, said: Any) -> bool:
        field = self._email_field
        email = _first(
            [getattr(part, field) for part in (own, about, said) if part is not None], self._email.written
        )
        if email and self._email.digest(email) in self.digests:
            return True
        if not self._custom:
            return False
        first = None if kind == "alias" else own if kind in ("identify", "group") else said
        parts = [part for part in (first, about) if part is not None]
        for type_of, fields in self._custom:
            value = _first([getattr(part, field) for part in parts for field in fields], type_of.written)
            if value and type_of.digest(value) in self.digests:
                return True
        return False

    def _names_client(self, analytics: Any) -> bool:
        if analytics.__class__ is not _Analytics:
            return False
        value = _first((analytics.client_id,), self._client.written)
        return bool(value) and self._client.digest(value) in self.digests

    def _names_device(self, device: _Device) -> bool:
        if device.type not in ("android", "ios"):
            return False
        advertising_id = device.advertising_id if device.tracking is True else None
        for type_of, place in zip(
            self._device[device.type], (device.id, advertising_id, device.token), strict=True
        ):
            value = _first((place,), type_of.written)
            if value and type_of.digest(value) in self.digests:
                return True
        return False

    def _names_external(self, listed: list[Any]) -> bool:
        for entry in listed:
            if entry.__class__ is not dict or entry.get("encoding") != "none":
                continue
            type, collection = entry.get("type"), entry.get("collection")
            if type.__class__ is not str or not type or "\0" in type or collection not in COLLECTIONS:
                continue
            normaliser = normaliser_of(self.rules, collection, type)
            value = _first((entry.get("id"),), partial(written, normaliser))
            if value and self._digests.digest(collection, type, value) in self.digests:
                return True
        return False


def _id(place: Any) -> str:
    """Return the text of a field that must be text or a number."""
    if place.__class__ is str:
        return str(place)
    return _digits(place)


def _first(places: Iterable[Any], written: Callable[[str], str]) -> str:
    """Return the first identifier among places that may hold anything, "" where none is one."""
    for place in places:
        if place.__class__ is not str:
            if place is None or place.__class__ in (bool, list, dict):
                continue
            place = _digits(place)
        value = written(place)
        if value:
            return value
    return ""


def _digits(number: Any) -> str:
    """Return the digits that were sent; where they may have been others, the reference must look."""
    if number.__class__ is int and 0 < abs(number) < _SURE_NUMBER_MAX:
        return str(number)
    raise _Unusual
