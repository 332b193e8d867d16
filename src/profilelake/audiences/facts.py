"""Decisions about definitions as they stand in the log, in the state and in the lake.

The same meaning as `semantics.definitions`; JSON, one object per fact, its kind under `decision`.
"""

from typing import Final, TypeAlias

import msgspec

from profilelake.errors import Invalid
from profilelake.semantics import definitions
from profilelake.semantics.definitions import Definition

FACT_BYTES_MAX: Final = 1 << 20


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """Who said it and why. `by` is a token's name or `command line`, never a secret."""

    by: str
    note: str = ""


class Define(Said, frozen=True, kw_only=True, tag_field="decision", tag="define"):
    """This definition holds for its key."""

    definition: Definition


class Drop(Said, frozen=True, kw_only=True, tag_field="decision", tag="drop"):
    """There is no such definition any more; its values go."""

    key: str


class Resync(Said, frozen=True, kw_only=True, tag_field="decision", tag="resync"):
    """Everything a definition is worth is announced once more, to a destination or to all (empty)."""

    key: str
    destination: str = ""


Fact: TypeAlias = Define | Drop | Resync

TAGS: Final = frozenset({"define", "drop", "resync"})
_decoder: Final[msgspec.json.Decoder[Fact]] = msgspec.json.Decoder(Fact)
encode: Final = msgspec.json.Encoder(order="deterministic").encode


class _Tag(msgspec.Struct):
    decision: str = ""


_tag: Final = msgspec.json.Decoder(_Tag)


def is_about_definitions(body: bytes) -> bool:
    """Tell whether the body of a fact in the log is one of these; others are about identity."""
    try:
        return _tag.decode(body).decision in TAGS
    except msgspec.MsgspecError:
        return False


def decode(body: bytes) -> Fact:
    """Return the fact in a record's body.

    Raises:
        Invalid: it is not a fact this program knows.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Invalid(f"reading a decision about a definition from the log: {error}") from error


def in_values(position: bytes, fact: Fact) -> definitions.Fact | None:
    """Return a fact in the words of the reference; None for one that changes no definition."""
    match fact:
        case Define():
            return definitions.Fact(position, definitions.Define(fact.definition))
        case Drop():
            return definitions.Fact(position, definitions.Drop(fact.key))
        case Resync():
            return None
