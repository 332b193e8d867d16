"""Whose identifiers and sets were one profile at a time in the past.

The facts are those received until then: sets first seen, decisions made. The part of the graph that
the asked identifier can be connected with is read from the state and resolved by the plain reference,
under the rules that were in force. The answer is what a pipeline would say that had never seen more.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from profilelake.errors import Invalid
from profilelake.identity import facts as decided
from profilelake.identity import standing
from profilelake.identity._evidence import split
from profilelake.identity.facts import Fact
from profilelake.semantics import facts, identity
from profilelake.semantics.identifiers import (
    Identifier,
    ident_id,
    normalised,
    parse_public_id,
    public_id,
)
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.records import IdentRecord, ProfileRecord, SetRecord, received_at
from profilelake.state.store import Tx

SETS_MAX: Final = 5_000
"""Sets that can be connected with one identifier: as many are resolved again for one answer."""
CROWD_SETS_MAX: Final = 100_000
"""Sets of one identifier that are looked through to tell whether it met too many others."""


class Seen(NamedTuple):
    """An event that showed a set."""

    key: bytes
    position: bytes
    source_id: str


SeenBy = Callable[[Collection, Sequence[bytes], AbstractSet[bytes], bool], Iterable[Seen]]
"""Gives, for sets, their first event until the time in question that is not at one of some positions, and
the first one that is, for each set and, if so asked, UTC day."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What was known at `at` (microseconds, included), as one transaction of today shows it.

    `rules` are those where nobody had set any; with `rules_now` the ones in force today hold instead of
    those of then. `untrusted` are the sources strangers can write to. `seen` looks up events, for the
    few sets whose first one is not in the state.
    """

    tx: Tx
    workspace: str
    key: bytes
    rules: IdentityRules
    at: int
    untrusted: AbstractSet[str]
    seen: SeenBy
    rules_now: bool = False


@dataclass(frozen=True, slots=True)
class ProfileThen:
    """A profile of then: its founding set, and its record as the state would have held it.

    `first` has the first position through which each of its sets counted.
    """

    key: bytes
    record: ProfileRecord
    first: Mapping[bytes, bytes]


def profile_at(moment: Moment, collection: Collection, id: str) -> ProfileThen | None:
    """Return the profile that `id` (TYPE:VALUE or a profile id) meant then, None where there was none.

    Raises:
        Invalid: it is connected with too much to be resolved again.
    """
    return _Then(moment, collection).profile(id)


class _Then:
    def __init__(self, moment: Moment, collection: Collection) -> None:
        self._moment = moment
        self._collection: Collection = collection
        every = list(standing.decisions(moment.tx, moment.workspace))
        self._decisions = [(place, fact) for place, fact in every if received_at(place) <= moment.at]
        self._rules = decided.standing(self._decisions, moment.rules).rules
        if moment.rules_now:
            self._rules = decided.standing(every, moment.rules).rules
            self._decisions = [
                (place, fact) for place, fact in self._decisions if not isinstance(fact, decided.NewRules)
            ]
        self._held = decided.standing(self._decisions, self._rules)
        # Of a set some event of which was ever retracted, the state does not know the very first one.
        self._retouched = {
            bytes.fromhex(key)
            for _, fact in every
            if isinstance(fact, decided.Retract)
            for _, key in fact.sets
        }

    def profile(self, id: str) -> ProfileThen | None:
        start = self._start(id)
        if not start:
            return None
        gathered = _Gathered(self._moment, self._collection, self._rules, self._held, self._retouched)
        gathered.follow(start)
        sightings = self._sightings(gathered)
        graph = identity.resolve_facts(
            sightings,
            self._in_values(gathered),
            self._rules,
            collection=self._collection,
            key=self._moment.key,
        )
        owner = self._owner(id, graph, gathered)
        return None if owner is None else self._told(owner, graph, gathered)

    def _start(self, id: str) -> list[bytes]:
        """Return the sets to begin with."""
        tx, workspace = self._moment.tx, self._moment.workspace
        founding = _founding_set(id)
        if founding is not None:
            return [founding]
        identifier = self._identifier(id)
        if identifier is None:
            return []
        ident = ident_id(self._moment.key, self._collection, identifier)
        _check_crowd(tx, workspace, ident)
        return tx.linked_sets(workspace, ident)

    def _identifier(self, id: str) -> Identifier | None:
        type, colon, value = id.partition(":")
        if not colon:
            return None
        return Identifier(type, normalised(self._rules, self._collection, type, value))

    def _owner(self, id: str, graph: IdentityGraph, gathered: "_Gathered") -> str | None:
        founding = _founding_set(id)
        if founding is None:
            identifier = self._identifier(id)
            return None if identifier is None else graph.owners.get(identifier)
        name = public_id(self._collection, founding)
        if name in graph.profiles:
            return name
        outcome = graph.sets.get(gathered.names(founding))
        return None if outcome is None else outcome.profile

    def _sightings(self, gathered: "_Gathered") -> list[Sighting]:
        """Return the events through which the gathered sets count or counted, at least the first of each."""
        windows = identity.common_window(self._rules, self._collection) is not None
        asked = [key for key in gathered.sets if windows or key in self._retouched]
        gone = {place for places in self._held.retracted.values() for place in places}
        found = [
            Seen(key, record.position, record.source_id)
            for key, record in gathered.sets.items()
            if not windows and key not in self._retouched
        ]
        if asked:
            found += self._moment.seen(self._collection, asked, gone, windows)
        untrusted = self._moment.untrusted
        return [
            Sighting(
                gathered.names(one.key),
                one.position,
                received_at(one.position),
                one.source_id not in untrusted,
            )
            for one in found
        ]

    def _in_values(self, gathered: "_Gathered") -> list[facts.Fact]:
        """Return the decisions about what was gathered, in the words of the reference."""
        last = (self._moment.at + 1).to_bytes(8, "big")
        found = [
            facts.Fact(last, facts.Quarantine(gathered.name(ident))) for ident in sorted(gathered.crowded)
        ]
        for place, fact in self._decisions:
            decision = _in_values(fact, gathered.idents)
            if decision is not None:
                found.append(facts.Fact(place, decision))
        return found

    def _told(self, owner: str, graph: IdentityGraph, gathered: "_Gathered") -> ProfileThen:
        profile = graph.profiles[owner]
        keys = {gathered.names(key): key for key in gathered.sets}
        ids = {gathered.name(ident): ident for ident in gathered.idents}
        mine = {
            keys[names]: outcome.first_position
            for names, outcome in graph.sets.items()
            if outcome.profile == owner
        }
        record = ProfileRecord(
            COLLECTIONS.index(self._collection),
            profile.founded_at,
            sorted((ids[member], member.type) for member in profile.members),
            sorted(mine),
        )
        return ProfileThen(keys[profile.founding_set], record, mine)


def _founding_set(id: str) -> bytes | None:
    """Return the set that a profile id names; None where `id` is none."""
    parsed = parse_public_id(id.removeprefix("segment_id:"))
    return None if parsed is None else parsed[1]


def _in_values(fact: Fact, known: Mapping[bytes, IdentRecord]) -> facts.Decision | None:
    """Return a decision in values; None where it is about what is not `known` here."""

    def named(ident: str) -> Identifier | None:
        record = known.get(bytes.fromhex(ident))
        return None if record is None else Identifier(record.type, record.value)

    match fact:
        case decided.Unlink():
            one, other = named(fact.one), named(fact.other)
            return None if one is None or other is None else facts.Unlink(one, other, fact.apart)
        case decided.Quarantine():
            identifier = named(fact.ident)
            return None if identifier is None else facts.Quarantine(identifier, fact.quarantined)
        case decided.Retract():
            return facts.Retract(bytes.fromhex(fact.position), fact.counts)
        case decided.NewRules():
            return facts.NewRules(fact.rules)
        case decided.Leave():
            return None  # it ends a membership, and joins or parts nobody


@dataclass(slots=True)
class _Gathered:
    """The sets that were, or may have been, there then, as far as they can be connected.

    `crowded` met so many others that they linked nobody; their other sets are not followed.
    """

    moment: Moment
    collection: Collection
    rules: IdentityRules
    held: decided.Standing
    retouched: AbstractSet[bytes]
    sets: dict[bytes, SetRecord] = field(default_factory=dict)
    idents: dict[bytes, IdentRecord] = field(default_factory=dict)
    crowded: set[bytes] = field(default_factory=set)

    def follow(self, start: Iterable[bytes]) -> None:
        """Gather these sets and all that can be reached from them through what may link."""
        tx, workspace = self.moment.tx, self.moment.workspace
        frontier = set(start)
        while frontier:
            new = tx.sets(workspace, frontier)
            self.sets |= {key: record for key, record in new.items() if self._is_there(key, record)}
            if len(self.sets) > SETS_MAX:
                raise Invalid(
                    f"resolving the past of a profile: it is connected with more than {SETS_MAX:,} identifier sets;"
                    " ask the lake with SQL (identity_updates)"
                )
            met = {ident for key in new if key in self.sets for ident in split(self.sets[key].idents)}
            idents = tx.idents(workspace, met - self.idents.keys())
            self.idents |= idents
            frontier = {
                key
                for ident, record in idents.items()
                if self._links(ident, record)
                for key in tx.linked_sets(workspace, ident)
                if key not in self.sets
            }

    def names(self, key: bytes) -> frozenset[Identifier]:
        """Return the identifiers of a set that were gathered; none of a set that was not."""
        record = self.sets.get(key)
        members = () if record is None else split(record.idents)
        return frozenset(self.name(ident) for ident in members if ident in self.idents)

    def name(self, ident: bytes) -> Identifier:
        """Return an identifier that was gathered."""
        record = self.idents[ident]
        return Identifier(record.type, record.value)

    def _is_there(self, key: bytes, record: SetRecord) -> bool:
        if COLLECTIONS[record.collection] != self.collection:
            return False
        return key in self.retouched or received_at(record.position) <= self.moment.at

    def _links(self, ident: bytes, record: IdentRecord) -> bool:
        """Tell whether an identifier may link, so that what else it stands in matters."""
        rule = self.rules.rule(self.collection, record.type)
        if rule is None or not record.value or rule.blocks(record.value) or ident in self.held.quarantined:
            return False
        if self._is_crowded(ident, record.type):
            self.crowded.add(ident)
        return ident not in self.crowded

    def _is_crowded(self, ident: bytes, type: str) -> bool:
        """Tell whether an identifier certainly met more others then than rules allow.

        Where that cannot be told here, all its sets are gathered and the reference tells.
        """
        most = self.rules.degree_max
        tx, workspace = self.moment.tx, self.moment.workspace
        if most is None or ident in self.held.released:
            return False
        if _check_crowd(tx, workspace, ident) <= min(most, SETS_MAX):
            return False
        sets = tx.sets(workspace, tx.linked_sets(workspace, ident))
        certain = [
            record
            for key, record in sets.items()
            if key not in self.retouched and received_at(record.position) <= self.moment.at
        ]
        trusted = [record for record in certain if record.source_id not in self.moment.untrusted]
        # Sets of untrusted sources count only where no trusted one shows the identifier.
        unsure = any(key in self.retouched for key in sets)
        counted = trusted if trusted or unsure else certain
        others = {other for record in counted for other in split(record.idents)}
        met: dict[str, int] = {}
        for other in tx.idents(workspace, others).values():
            met[other.type] = met.get(other.type, 0) + 1
        met.pop(type, None)
        return max(met.values(), default=0) > most


def _check_crowd(tx: Tx, workspace: str, ident: bytes) -> int:
    """Return how many sets contain an identifier, if they can be looked through."""
    (count,) = tx.link_counts(workspace, [ident])
    if count > CROWD_SETS_MAX:
        raise Invalid(
            f"resolving the past of a profile: one of its identifiers stands in {count:,} identifier sets, more"
            f" than {CROWD_SETS_MAX:,}; quarantine it (profilelake identity quarantine) or ask the lake with SQL"
        )
    return count
