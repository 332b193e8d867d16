"""The first fields of records, for readers that need no more: decoding stops there.

A value is an array, so the beginning of a record is a record. The fields are those of
`state.records`, in their order.
"""

from typing import Final

import msgspec


class IdentHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an identifier is; not who brought it, nor whose it is."""

    collection: int
    type: str
    value: str


class SetHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a set links, where it leads, and where it was first seen."""

    collection: int
    idents: bytes
    anchor: bytes
    profile: bytes
    first_profile: bytes
    position: bytes


class ActivityHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How often a set was seen, and where last."""

    count: int
    position: bytes


class TraitHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The value a trait was given; not when."""

    value: str | None


decode_ident_head: Final = msgspec.msgpack.Decoder(IdentHead).decode
decode_set_head: Final = msgspec.msgpack.Decoder(SetHead).decode
decode_activity_head: Final = msgspec.msgpack.Decoder(ActivityHead).decode
decode_trait_heads: Final = msgspec.msgpack.Decoder(dict[str, TraitHead]).decode
