"""What people decide about identity: facts beside the events, and which of them hold.

A decision is a fact with a position, like an event. It applies to the whole history, before and after
it. About one thing (a pair, an identifier, an event, the rules) the decision with the latest position
holds, so every decision can be taken back by another, and none is ever edited. What holds is a
function of the set of facts: order of arrival and repeats do not matter.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.rules import IdentityRules

Pair: TypeAlias = frozenset[Identifier]


@dataclass(frozen=True, slots=True)
class Unlink:
    """Two identifiers never share a profile; with `apart=False` they may again.

    Nothing is apart from itself: of one identifier twice it says nothing.
    """

    one: Identifier
    other: Identifier
    apart: bool = True


@dataclass(frozen=True, slots=True)
class Quarantine:
    """An identifier links nobody; with `quarantined=False` it does, however many others it meets."""

    identifier: Identifier
    quarantined: bool = True


@dataclass(frozen=True, slots=True)
class Retract:
    """The event at `event` (a position) is no evidence; with `counts=True` it is again."""

    event: bytes
    counts: bool = False


@dataclass(frozen=True, slots=True)
class NewRules:
    """From now on, and for all that was, these rules."""

    rules: IdentityRules


@dataclass(frozen=True, slots=True)
class Leave:
    """A person left an organisation; with `left=False` that was never so.

    Each decision to leave ends what was between the two until then (see `semantics.memberships`), so all
    of them hold, except those before one that says it was never so.
    """

    user: Identifier
    account: Identifier
    left: bool = True


Decision: TypeAlias = Unlink | Quarantine | Retract | NewRules | Leave


@dataclass(frozen=True, slots=True)
class Fact:
    """A decision and its place in the order of facts."""

    position: bytes
    decision: Decision


@dataclass(frozen=True, slots=True)
class Standing:
    """The decisions that hold.

    `quarantined` and `released` are what people said; what is quarantined for its degree comes on top.
    `retracted` are positions of events. `left` are who left which organisation, and when (positions).
    """

    rules: IdentityRules
    unlinks: frozenset[Pair] = frozenset()
    quarantined: frozenset[Identifier] = frozenset()
    released: frozenset[Identifier] = frozenset()
    retracted: frozenset[bytes] = frozenset()
    left: frozenset[tuple[Identifier, Identifier, bytes]] = frozenset()


def standing(facts: Iterable[Fact], rules: IdentityRules) -> Standing:
    """Return what holds after `facts`; `rules` hold as long as no fact says others."""
    unlinks: dict[Pair, bool] = {}
    quarantined: dict[Identifier, bool] = {}
    retracted: dict[bytes, bool] = {}
    left: dict[tuple[Identifier, Identifier], list[bytes]] = defaultdict(list)
    for fact in sorted(facts, key=lambda fact: fact.position):
        match fact.decision:
            case Unlink(one, other, apart) if one != other:
                unlinks[frozenset((one, other))] = apart
            case Quarantine(identifier, held):
                quarantined[identifier] = held
            case Retract(event, counts):
                retracted[event] = not counts
            case NewRules(newer):
                rules = newer
            case Leave(user, account, True):
                left[user, account].append(fact.position)
            case Leave(user, account, False):
                left[user, account].clear()
    return Standing(
        rules=rules,
        unlinks=frozenset(pair for pair, apart in unlinks.items() if apart),
        quarantined=frozenset(one for one, held in quarantined.items() if held),
        released=frozenset(one for one, held in quarantined.items() if not held),
        retracted=frozenset(event for event, gone in retracted.items() if gone),
        left=frozenset((*pair, position) for pair, positions in left.items() for position in positions),
    )


def quarantined(
    sets: Iterable[tuple[frozenset[Identifier], bool]], decided: Standing
) -> frozenset[Identifier]:
    """Return the identifiers that link nobody: quarantined by a decision, or met by too many others.

    `sets` are the distinct sets that count, each with whether its first event came from a trusted
    source. The *degree* of an identifier is the greatest number of distinct values of any one other
    type in the sets that contain it. Past `rules.degree_max` it is quarantined, as `userId: "undefined"`
    would be. Sets of untrusted sources do not count for an identifier that a trusted source attests,
    so that nobody's identifier can be taken away from a browser.
    """
    found = set(decided.quarantined)
    most = decided.rules.degree_max
    if most is not None:
        known = dict(sets)
        attested = frozenset(one for identifiers, trusted in known.items() if trusted for one in identifiers)
        met: dict[Identifier, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for identifiers, trusted in known.items():
            for one in identifiers if trusted else identifiers - attested:
                for other in identifiers:
                    if other.type != one.type:
                        met[one][other.type].add(other.value)
        found |= {one for one, types in met.items() if max(map(len, types.values()), default=0) > most}
    return frozenset(found) - decided.released
