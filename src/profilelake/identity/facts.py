"""Decisions about identity as they stand in the log, in the state and in the lake.

The same meaning as `semantics.facts`, said with ids instead of values: what is kept for ever names
nobody. JSON, one object per fact, its kind under `decision`.
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec

from profilelake.errors import Invalid
from profilelake.semantics.rules import Collection, IdentityRules

FACT_BYTES_MAX: Final = 1 << 20
"""Body of one fact; the rules of a workspace are the longest."""
NOTE_CHARACTERS_MAX: Final = 1000


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """Who made a decision and why. `by` is a token's name or `command line`, never a secret."""

    by: str
    note: str = ""


class Unlink(Made, frozen=True, kw_only=True, tag_field="decision", tag="unlink"):
    """Two identifiers (ids in hex) never share a profile; with `apart=False` they may again.

    `removed_from`: the profile the second was removed from, where that is how it was asked for.
    """

    collection: Collection
    one: str
    other: str
    apart: bool = True
    removed_from: str | None = None


class Quarantine(Made, frozen=True, kw_only=True, tag_field="decision", tag="quarantine"):
    """An identifier (id in hex) links nobody; with `quarantined=False` it does, whatever its degree."""

    collection: Collection
    ident: str
    quarantined: bool = True


class Retract(Made, frozen=True, kw_only=True, tag_field="decision", tag="retract"):
    """The event at `position` (hex) is no evidence for its sets (hex); with `counts=True` it is again."""

    message_id: str
    position: str
    sets: list[tuple[Collection, str]]
    counts: bool = False


class NewRules(Made, frozen=True, kw_only=True, tag_field="decision", tag="rules"):
    """These rules hold, for all that was and will be."""

    rules: IdentityRules


class Leave(Made, frozen=True, kw_only=True, tag_field="decision", tag="leave"):
    """A person left an organisation (an identifier of each, ids in hex); `left=False`: that was never so."""

    user: str
    account: str
    left: bool = True


Fact: TypeAlias = Unlink | Quarantine | Retract | NewRules | Leave

_decoder: Final[msgspec.json.Decoder[Fact]] = msgspec.json.Decoder(Fact)
encode: Final = msgspec.json.Encoder(order="deterministic").encode


def decode(body: bytes) -> Fact:
    """Return the fact in a record's body.

    Raises:
        Invalid: it is not a fact this program knows.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Invalid(f"reading a decision from the log: {error}") from error


@dataclass(slots=True)
class Standing:
    """The decisions that hold, by id: what `semantics.facts.standing` is by value.

    `decided` has for each thing the position of the decision that holds, so that a later one with an
    earlier position changes nothing. `retracted` are positions of events, by set. `left` are the
    positions of decisions to leave, by the identifiers of both, with that of the last one that took
    them back; `leavings` are all positions of decisions to leave, also of those taken back.
    """

    rules: IdentityRules
    unlinks: dict[bytes, set[bytes]] = field(default_factory=dict)
    quarantined: set[bytes] = field(default_factory=set)
    released: set[bytes] = field(default_factory=set)
    retracted: dict[bytes, set[bytes]] = field(default_factory=dict)
    left: dict[tuple[bytes, bytes], "Left"] = field(default_factory=dict)
    leavings: list[bytes] = field(default_factory=list)
    decided: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    def take(self, position: bytes, fact: Fact) -> bool:
        """Let a decision hold, unless a later one does already; tell whether it changed anything."""
        about = _about(fact)
        if isinstance(fact, Leave):
            self.decided[about] = max(position, self.decided.get(about, b""))
            return self._take_leave(position, fact)
        if self.decided.get(about, b"") >= position:
            return False
        self.decided[about] = position
        match fact:
            case Unlink():
                one, other = bytes.fromhex(fact.one), bytes.fromhex(fact.other)
                return _put(self.unlinks, one, other, fact.apart) | _put(self.unlinks, other, one, fact.apart)
            case Quarantine():
                ident = bytes.fromhex(fact.ident)
                held, let_go = ident in self.quarantined, ident in self.released
                (self.quarantined if fact.quarantined else self.released).add(ident)
                (self.released if fact.quarantined else self.quarantined).discard(ident)
                return not (held if fact.quarantined else let_go)
            case Retract():
                place = bytes.fromhex(fact.position)
                changed = False
                for _, key in fact.sets:
                    changed |= _put(self.retracted, bytes.fromhex(key), place, not fact.counts)
                return changed
            case NewRules():
                changed = fact.rules != self.rules
                self.rules = fact.rules
                return changed

    def _take_leave(self, position: bytes, fact: Leave) -> bool:
        """Let a decision to leave hold, also where there is a later one; one of a position counts once."""
        left = self.left.setdefault((bytes.fromhex(fact.user), bytes.fromhex(fact.account)), Left())
        before = left.holding()
        if not fact.left:
            left.taken_back = max(left.taken_back, position)
        elif position not in left.positions:
            insort(left.positions, position)
            insort(self.leavings, position)
        return left.holding() != before


@dataclass(slots=True)
class Left:
    """The decisions that somebody left an organisation, and the last one that took them back."""

    positions: list[bytes] = field(default_factory=list)
    taken_back: bytes = b""

    def holding(self) -> list[bytes]:
        """Return the positions of those that hold, in order."""
        return [position for position in self.positions if position > self.taken_back]


def standing(facts: Iterable[tuple[bytes, Fact]], rules: IdentityRules) -> Standing:
    """Return what holds after facts with their positions; `rules` hold as long as no fact says others."""
    held = Standing(rules)
    for position, fact in facts:
        held.take(position, fact)
    return held


def _about(fact: Fact) -> tuple[str, ...]:
    match fact:
        case Unlink():
            return ("unlink", *sorted((fact.one, fact.other)))
        case Quarantine():
            return ("quarantine", fact.ident)
        case Retract():
            return ("retract", fact.position)
        case NewRules():
            return ("rules",)
        case Leave():
            return ("leave", fact.user, fact.account)


def _put(sets: dict[bytes, set[bytes]], key: bytes, value: bytes, present: bool) -> bool:
    values = sets.setdefault(key, set())
    changed = (value in values) != present
    (values.add if present else values.discard)(value)
    if not values:
        del sets[key]
    return changed
