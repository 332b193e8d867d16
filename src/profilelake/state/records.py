"""What the online state stores under which key, and how it is written.

Values are MessagePack arrays: a new field goes to the end, with a default, so that older data still reads.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from profilelake.semantics.rules import COLLECTIONS, Collection

NOBODY: Final = b""
"""Stands where a profile key would, for an identifier or a set that belongs to no profile."""


class IdentRecord(msgspec.Struct, array_like=True, gc=False):
    """One identifier. `profile` is the founding set of its profile, or `NOBODY`.

    `linked_at` is when it came to belong to any, in microseconds; kept only where rules have windows.
    """

    collection: int
    type: str
    value: str
    source_id: str
    message_id: str
    created_at: int
    position: bytes
    profile: bytes
    linked_at: int = 0


class SetRecord(msgspec.Struct, array_like=True, gc=False):
    """One identifier set: what it links, where it leads, and when it was first seen.

    `idents` are the raw identifiers of the set, 16 bytes each, before any rule. `anchor` is the
    strongest under the current rules. `first_profile` is where the set led when it was first
    processed. `position`, `message_id` and `source_id` are those of its first sighting. Later
    sightings change nothing here: they are the set's activity. `issued` says that the set's id was
    announced as that of a profile.
    """

    collection: int
    idents: bytes
    anchor: bytes
    profile: bytes
    first_profile: bytes
    position: bytes
    message_id: str
    source_id: str
    refused: bool = False
    issued: bool = False


class ActivityRecord(msgspec.Struct, array_like=True, gc=False):
    """How often a set was seen, and its last sighting."""

    count: int
    position: bytes
    message_id: str
    source_id: str


class TraitRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The last write of one trait: its JSON text (None: removed), and the event it came from."""

    value: str | None
    timestamp: int
    position: bytes
    source_id: str
    message_id: str


class RefusalRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One identifier of a set that was not joined: against which profile, and which rule said no."""

    ident: bytes
    type: str
    against_profile: bytes
    cause: str
    limit_type: str


class ProfileRecord(msgspec.Struct, array_like=True, gc=False):
    """One profile: its identifiers (id and type) and its sets, on which its traits hang.

    `position` is the first position of the founding set, whose id is the record's key.
    """

    collection: int
    position: bytes
    idents: list[tuple[bytes, str]]
    sets: list[bytes]
    merges: int = 0


class SightingRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The first event that showed a set in one window."""

    position: bytes
    message_id: str
    source_id: str


class QuarantineRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An identifier that met many others, and whether that keeps it from linking anybody.

    `degree` is the number of distinct values of `type` it met, counted at the sets it had at
    `position`; it is counted again when it is in `again_at` sets. `extra` bounds what sets with several
    values of one type add to the number of its sets.
    """

    collection: int
    type: str
    degree: int
    position: bytes
    active: bool
    again_at: int
    extra: int = 0


class SpellRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The first event of one interval between decisions that showed a person's and an account's set together."""

    position: bytes
    message_id: str
    source_id: str


class MembershipRecord(msgspec.Struct, array_like=True, gc=False):
    """When a person's set and an account's set were seen in one group event.

    `spells` are in position order: the first sighting of all, and the first after each decision that
    ended memberships (any of the workspace: whom it concerns depends on who is who today).
    """

    spells: list[SpellRecord]


class ConsentRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a set said last about consent, and the event in which it did.

    `allowed` has every category the set ever named; one the last event did not name is False there.
    """

    timestamp: int
    position: bytes
    source_id: str
    message_id: str
    allowed: dict[str, bool]


def once(record: SetRecord) -> ActivityRecord:
    """Return the activity of a set of which no more is known than that it was seen."""
    return ActivityRecord(1, record.position, record.message_id, record.source_id)


def wins(a: TraitRecord, b: TraitRecord | None) -> bool:
    """Tell whether `a` is kept over `b`: the later time, then the greater position."""
    return b is None or (a.timestamp, a.position) > (b.timestamp, b.position)


def join_traits(into: dict[str, TraitRecord], other: Mapping[str, TraitRecord]) -> None:
    """Keep in `into` the winner of each trait; the order of joins does not matter."""
    for name, write in other.items():
        if wins(write, into.get(name)):
            into[name] = write


def joined_traits(
    profile: ProfileRecord, by_set: Mapping[bytes, dict[str, TraitRecord]]
) -> dict[str, TraitRecord]:
    """Return the traits of a profile: the last write over its sets."""
    written = [by_set[key] for key in profile.sets if key in by_set]
    if len(written) == 1:
        return written[0]
    joined: dict[str, TraitRecord] = {}
    for part in written:
        join_traits(joined, part)
    return joined


def collection_name(number: int) -> Collection:
    """Return the collection a record's number stands for."""
    return COLLECTIONS[number]


encode: Final = msgspec.msgpack.Encoder().encode
decode_ident: Final = msgspec.msgpack.Decoder(IdentRecord).decode
decode_set: Final = msgspec.msgpack.Decoder(SetRecord).decode
decode_profile: Final = msgspec.msgpack.Decoder(ProfileRecord).decode
decode_activity: Final = msgspec.msgpack.Decoder(ActivityRecord).decode
decode_traits: Final = msgspec.msgpack.Decoder(dict[str, TraitRecord]).decode


def received_at(position: bytes) -> int:
    """Return the time inside a position, in microseconds."""
    return int.from_bytes(position[:8], "big")


decode_sighting: Final = msgspec.msgpack.Decoder(SightingRecord).decode
decode_quarantine: Final = msgspec.msgpack.Decoder(QuarantineRecord).decode
decode_refusals: Final = msgspec.msgpack.Decoder(list[RefusalRecord]).decode
decode_membership: Final = msgspec.msgpack.Decoder(MembershipRecord).decode
decode_consent: Final = msgspec.msgpack.Decoder(ConsentRecord).decode
decode_positions: Final = msgspec.msgpack.Decoder(list[bytes]).decode
decode_names: Final = msgspec.msgpack.Decoder(list[str]).decode
