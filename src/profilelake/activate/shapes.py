"""What is sent: records of webhooks, and the calls that Segment's destinations get of traits and audiences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import msgspec

from profilelake.activate.feed import profile_id, value_of
from profilelake.activate.letters import Sent, state_of
from profilelake.activate.people import Person, Told, chosen
from profilelake.semantics.definitions import Kind, computation_id
from profilelake.semantics.destinations import Destination
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.times import format_time

_DEVICES: Final = {"android.idfa": "android", "ios.idfa": "ios"}
_PLAIN: Final = frozenset({"user_id", "anonymous_id", "email"})
"""Types that have a field of their own in a call."""
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing a destination is told: what a definition is worth for a profile, and under which identifiers."""

    definition: str
    kind: str
    version: int
    collection: str
    person: Person
    ids: tuple[Told, ...]
    value: str | None
    previous: str | None
    at: int
    cause: str
    idempotency_key: str
    created: bytes = b""
    """Position of the first decision about the definition."""

    @property
    def audience(self) -> bool:
        """Whether it is about a membership."""
        return self.kind.endswith("audience")

    @property
    def event(self) -> str:
        """What happened, in one word."""
        if not self.audience:
            return "trait_computed"
        return "audience_exited" if self.value is None else "audience_entered"

    @property
    def profile_id(self) -> str:
        """The public id of the profile."""
        return profile_id(self.collection, self.person.profile)


def shaped(
    destination: Destination, workspace: str, notices: Sequence[Notice]
) -> Iterator[tuple[bytes, list[Sent]]]:
    """Yield what is sent for each notice, with the profile it is about; nothing where nobody can be addressed."""
    for notice in notices:
        if destination.type == "webhook":
            record = _record(destination, notice)
            yield notice.person.profile, [_sent(notice, notice.idempotency_key, _encode(record))]
        else:
            yield notice.person.profile, list(_calls(destination, workspace, notice))


def _sent(notice: Notice, key: str, body: bytes) -> Sent:
    profile, state = notice.person.profile, state_of(notice.value)
    return Sent(key, notice.definition, notice.profile_id, body, profile, state)


def _record(destination: Destination, notice: Notice) -> dict[str, Any]:
    record: dict[str, Any] = {
        "event": notice.event,
        "definition": notice.definition,
        "kind": notice.kind,
        "version": notice.version,
        "collection": notice.collection,
        "profile_id": notice.profile_id,
        "external_ids": _external_ids(notice.ids),
        "value": value_of(notice.kind, notice.value),
        "previous": value_of(notice.kind, notice.previous),
        "at": format_time(notice.at),
        "cause": notice.cause,
        "idempotency_key": notice.idempotency_key,
    }
    if destination.traits:
        record["traits"] = _along(notice.person)
    if notice.collection == "accounts":
        record["users"] = [
            {
                "profile_id": public_id("users", user.profile),
                "external_ids": _external_ids(_ids_of(destination, notice, user)),
            }
            for user in notice.person.users
            if user.consents(destination.consent)
        ]
        if notice.person.truncated:
            record["users_truncated"] = True
    return record


def _ids_of(destination: Destination, notice: Notice, user: Person) -> list[Told]:
    return chosen(user.identifiers, destination.ids, leaving=notice.value is None)


def _external_ids(ids: Sequence[Told]) -> list[dict[str, str]]:
    return [{"type": one.type, "id": one.value, "name": one.name} for one in ids]


def _along(person: Person) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(value.encode()) for name, value in person.traits.items()}


# ---- calls of a tracking API -------------------------------------------------------------------------


def _calls(destination: Destination, workspace: str, notice: Notice) -> Iterator[Sent]:
    """Yield one call of each kind for every identifier; of an account first that of the group."""
    if notice.collection == "users":
        for one in notice.ids:
            yield from _to_person(destination, workspace, notice, notice.person, one)
        return
    group = next((one.value for one in notice.person.identifiers if one.type == "group_id"), None)
    if group is None:
        return
    users = [user for user in notice.person.users if user.consents(destination.consent)]
    first = users[0] if users else notice.person
    call = _call(destination, workspace, notice, first, "group", group)
    call |= {"groupId": group, "traits": {**_along(notice.person), notice.definition: _value(notice)}}
    yield _sent(notice, call["messageId"], _encode(call))
    for user in users:
        for one in _ids_of(destination, notice, user):
            yield from _to_person(destination, workspace, notice, user, one, group)


def _to_person(
    destination: Destination,
    workspace: str,
    notice: Notice,
    person: Person,
    one: Told,
    group: str | None = None,
) -> Iterator[Sent]:
    values = {**_along(person), notice.definition: _value(notice)}
    named: dict[str, Any] = {}
    if one.type == "email" or one.name != one.type:
        named[one.name] = one.value
    for kind in destination.send:
        call = _call(destination, workspace, notice, person, kind, f"{one.type}\0{one.value}")
        context: dict[str, Any] = call["context"]
        if one.type in ("user_id", "anonymous_id"):
            call.pop("userId", None)
            call.pop("anonymousId", None)
            call["userId" if one.type == "user_id" else "anonymousId"] = one.value
        if one.type not in _PLAIN:
            context["externalIds"] = [
                {"id": one.value, "type": one.type, "collection": "users", "encoding": "none"}
            ]
        if one.type in _DEVICES:
            context["device"] = {
                "advertisingId": one.value,
                "type": _DEVICES[one.type],
                "adTrackingEnabled": True,
            }
        if group is not None:
            context["groupId"] = group
        if kind == "identify":
            call["traits"] = {**values, **named}
        else:
            key = "audience_key" if notice.audience else "trait_key"
            call["event"] = _event(destination, notice)
            call["properties"] = {key: notice.definition, **values}
            if named:
                context["traits"] = named
        yield _sent(notice, call["messageId"], _encode(call))


def _call(
    destination: Destination, workspace: str, notice: Notice, person: Person, kind: str, whom: str
) -> dict[str, Any]:
    """Return what all calls have: whom they are about, when, and which computation says so.

    There is no `sentAt`: a receiver would take the time a call waited here for an error of our clock.
    """
    said = f"{notice.idempotency_key}\0{kind}\0{person.profile.hex()}\0{whom}"
    call: dict[str, Any] = {
        "type": kind,
        "messageId": "pl-" + blake2b(said.encode(), digest_size=16).hexdigest(),
        "timestamp": format_time(notice.at),
        "context": {"personas": _personas(workspace, notice)},
        "integrations": dict(destination.integrations) or {"All": True},
    }
    return call | _addressed(person)


def _addressed(person: Person) -> dict[str, str]:
    """Return whom a call is about: each must name a user or a device, and the profile is one if need be."""
    last: Mapping[str, str] = {
        one.type: one.value
        for one in sorted(person.identifiers, key=lambda one: (one.added, one.value))
        if one.type in ("user_id", "anonymous_id")
    }
    if "user_id" in last:
        return {"userId": last["user_id"]}
    return {"anonymousId": last.get("anonymous_id", public_id("users", person.profile))}


def _personas(workspace: str, notice: Notice) -> dict[str, str]:
    space = f"spa_{workspace}"
    kind: Kind = "audience" if notice.audience else "trait"
    return {
        "computation_class": "audience" if notice.audience else "trait",
        "computation_id": computation_id(kind, notice.created or notice.definition.encode()),
        "computation_key": notice.definition,
        "namespace": space,
        "space_id": space,
    }


def _event(destination: Destination, notice: Notice) -> str:
    if not notice.audience:
        return destination.computed
    return destination.exited if notice.value is None else destination.entered


def _value(notice: Notice) -> msgspec.Raw:
    return value_of(notice.kind, notice.value)
