"""Which identifiers are one person: the plain meaning of deterministic identity resolution.

Facts go in, in any order and with repeats; the whole answer for one collection comes out. The
compiled form (`kernels.identity`) is held to this module by the same cases.

The rules, each of which has a case in `tests/spec/identity`:

1. A set is cleaned: values that the rules block or that are quarantined, and types without a rule, do
   not link. What is left is ordered strongest first, by (priority, type, value). The strongest is the *anchor*.
2. Each distinct set counts at its first position. Where a rule has a window, it counts once in each
   tumbling window. Repeats change nothing.
3. Sets are taken in order of position. The anchor always joins. Any other identifier joins, with the
   profile that owns it, if the joined profile keeps all limits; else it is refused *for this set* and
   stays where it was. The `minimal` policy goes on with the next identifier, `lowest_priority` cuts
   from the weakest end until the rest fits (Segment's documented retry).
4. A profile is known by its founding set, the one at the smallest position. On a merge the older
   profile survives. A set that ends in an existing profile issues no id.
5. People decide too (`semantics.facts`). Identifiers of an unlinked pair never share a profile: that is
   one more limit. A retracted event is no evidence; a set that only retracted events show links
   nothing and leads where its anchor leads.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from profilelake.errors import Invalid
from profilelake.semantics import facts, identifiers
from profilelake.semantics.facts import Fact
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.rules import Collection, IdentityRules

IdentifierSet: TypeAlias = frozenset[Identifier]
Cause: TypeAlias = Literal["limit", "time_limit", "identifiers_max", "merges_max", "unlinked"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """The normalised identifiers of one event. `position` sorts as the facts do (`Position.to_bytes`).

    `trusted` tells whether its source is one that strangers cannot write to.
    """

    identifiers: IdentifierSet
    position: bytes
    received_at: int
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Profile:
    """One person or organisation: who belongs to it, and the set and position that founded it."""

    profile_id: str
    founding_set: IdentifierSet
    founded_at: bytes
    members: frozenset[Identifier]


@dataclass(frozen=True, slots=True)
class SetOutcome:
    """What became of one distinct identifier set.

    `identifiers` is the cleaned set, strongest first. `first_profile` is the profile the set ended in
    when it was first processed (after any merge it caused), `profile` the one it belongs to now; both
    are None where nothing was left to link.
    """

    set_id: bytes
    first_position: bytes
    identifiers: tuple[Identifier, ...]
    blocked: frozenset[Identifier]
    unconfigured: frozenset[Identifier]
    first_profile: str | None
    profile: str | None

    @property
    def anchor(self) -> Identifier | None:
        """The strongest identifier: the one whose profile owns the events of this set."""
        return self.identifiers[0] if self.identifiers else None


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """An identifier that did not join the profile of its set.

    `profile` is the one the set ended in, `owner` the one that held the identifier then (None: nobody
    did; the same as `profile` only where `lowest_priority` cut an identifier that was a member already).
    `type` names the identifier type whose limit broke, where `cause` is a limit of a type.
    """

    position: bytes
    set_id: bytes
    identifier: Identifier
    profile: str
    owner: str | None
    cause: Cause
    type: str | None


@dataclass(frozen=True, slots=True)
class Merge:
    """Two profiles that became one through a set."""

    position: bytes
    set_id: bytes
    survivor: str
    loser: str


@dataclass(frozen=True, slots=True)
class IdentityGraph:
    """The identity of everybody in one collection, as a function of the facts.

    `owners` has every identifier that may link; None where every set with it refused it.
    `refusals` and `merges` are in the order in which they happened.
    """

    profiles: dict[str, Profile]
    owners: dict[Identifier, str | None]
    sets: dict[IdentifierSet, SetOutcome]
    refusals: tuple[Refusal, ...]
    merges: tuple[Merge, ...]


def resolve(
    sightings: Iterable[Sighting],
    rules: IdentityRules,
    *,
    collection: Collection = "users",
    key: bytes = bytes(identifiers.KEY_BYTES),
    unlinks: Iterable[tuple[Identifier, Identifier]] = (),
    quarantined: frozenset[Identifier] = frozenset(),
) -> IdentityGraph:
    """Return who is who after `sightings`, where nobody has decided anything but what is given here.

    Identifiers paired in `unlinks` never share a profile; `quarantined` ones link nobody.
    """
    check(rules)
    resolver = _Resolver(rules, collection, key, tuple(unlinks), quarantined)
    for sighting in first_sightings(sightings, rules, collection):
        resolver.take(sighting)
    return resolver.graph()


def resolve_facts(
    sightings: Iterable[Sighting],
    decisions: Iterable[Fact],
    rules: IdentityRules,
    *,
    collection: Collection = "users",
    key: bytes = bytes(identifiers.KEY_BYTES),
    by: Callable[..., IdentityGraph] = resolve,
) -> IdentityGraph:
    """Return who is who after events and decisions, whatever the order of arrival of either.

    `rules` hold as long as no decision says others; `by` resolves what is left after the decisions.
    """
    seen = list(sightings)
    held = facts.standing(decisions, rules)
    counted = [sighting for sighting in seen if sighting.position not in held.retracted]
    first = first_sightings(counted, replace_windows(held.rules), collection)
    quarantined = facts.quarantined(((one.identifiers, one.trusted) for one in first), held)
    graph = by(
        counted,
        held.rules,
        collection=collection,
        key=key,
        unlinks=[(one, other) for one, other in map(sorted, held.unlinks)],
        quarantined=quarantined,
    )
    for sighting in first_sightings(seen, replace_windows(held.rules), collection):
        if sighting.identifiers in graph.sets:
            continue
        linking, blocked, unconfigured = clean(sighting.identifiers, held.rules, collection, quarantined)
        graph.sets[sighting.identifiers] = SetOutcome(
            set_id=_set_id(key, collection, sighting.identifiers),
            first_position=sighting.position,
            identifiers=linking,
            blocked=blocked,
            unconfigured=unconfigured,
            first_profile=None,
            profile=graph.owners.get(linking[0]) if linking else None,
        )
    return graph


def replace_windows(rules: IdentityRules) -> IdentityRules:
    """Return the rules without windows: under them a set counts once, at its first position."""
    return replace(rules, types=tuple(replace(rule, window_seconds=None) for rule in rules.types))


def check(rules: IdentityRules) -> None:
    """Raise `Invalid` where a limit could not hold: the anchor of a set always joins."""
    for rule in rules.types:
        if rule.limit is not None and rule.limit < 1:
            raise Invalid(
                f"identity rules: the limit of {rule.type} is {rule.limit}; give at least 1, or none, "
                "and block the values that must not link"
            )
        if rule.window_seconds is not None and rule.window_seconds < 1:
            raise Invalid(
                f"identity rules: the window of {rule.type} is {rule.window_seconds} s; give 1 or more"
            )
    for name, cap in (("identifiers_max", rules.identifiers_max), ("merges_max", rules.merges_max)):
        if cap is not None and cap < 1:
            raise Invalid(f"identity rules: {name} is {cap}; give at least 1, or none")


def common_window(rules: IdentityRules, collection: Collection) -> int | None:
    """Return the longest window in microseconds that tiles the windows of all types, None without any.

    Inside it no windowed count starts anew, so a repeat of a set changes nothing. Where every window
    is a multiple of the smallest, it is the smallest.
    """
    windows = [rule.window_seconds for rule in rules.types if rule.collection == collection]
    seconds = math.gcd(*(window for window in windows if window is not None))
    return seconds * 1_000_000 or None


def first_sightings(
    sightings: Iterable[Sighting], rules: IdentityRules, collection: Collection
) -> list[Sighting]:
    """Return each distinct set (in each window, where rules have windows) at its first position, in order."""
    window = common_window(rules, collection)
    first: dict[tuple[IdentifierSet, int], Sighting] = {}
    for sighting in sightings:
        place = (sighting.identifiers, sighting.received_at // window if window else 0)
        if place not in first or sighting.position < first[place].position:
            first[place] = sighting
    # One event has one set, so positions differ; the contents decide only if a caller breaks that.
    return sorted(first.values(), key=lambda sighting: (sighting.position, sorted(sighting.identifiers)))


def clean(
    identifier_set: IdentifierSet,
    rules: IdentityRules,
    collection: Collection,
    quarantined: frozenset[Identifier] = frozenset(),
) -> tuple[tuple[Identifier, ...], frozenset[Identifier], frozenset[Identifier]]:
    """Return what may link (strongest first), what is blocked, and what no rule knows."""
    linking = []
    blocked = set()
    unconfigured = set()
    for identifier in identifier_set:
        rule = rules.rule(collection, identifier.type)
        if rule is None:
            unconfigured.add(identifier)
        elif identifier in quarantined or rule.blocks(identifier.value):
            blocked.add(identifier)
        else:
            linking.append((rule.priority, identifier))
    ordered = tuple(identifier for _, identifier in sorted(linking))
    return ordered, frozenset(blocked), frozenset(unconfigured)


@dataclass(slots=True, eq=False)
class _Growing:
    """A profile while facts come in. `linked_at` says when each member came to be owned at all."""

    profile_id: str
    founding: Sighting
    linked_at: dict[Identifier, int]
    merges: int = 0


class _Resolver:
    def __init__(
        self,
        rules: IdentityRules,
        collection: Collection,
        key: bytes,
        unlinks: Sequence[tuple[Identifier, Identifier]],
        quarantined: frozenset[Identifier],
    ) -> None:
        self._quarantined = quarantined
        self._rules = rules
        self._collection: Collection = collection
        self._key = key
        self._unlinks = unlinks
        self._profiles: list[_Growing] = []
        self._owner: dict[Identifier, _Growing] = {}
        self._outcomes: dict[IdentifierSet, SetOutcome] = {}
        self._refusals: list[Refusal] = []
        self._merges: list[Merge] = []

    def take(self, sighting: Sighting) -> None:
        """Process the next set in order."""
        linking, blocked, unconfigured = clean(
            sighting.identifiers, self._rules, self._collection, self._quarantined
        )
        profile = None
        if linking:
            joined, refused = self._choose(linking, sighting.received_at)
            profile = self._join(joined, sighting)
            for identifier, cause, type in refused:
                owner = self._owner.get(identifier)
                self._refusals.append(
                    Refusal(
                        position=sighting.position,
                        set_id=self._set_id(sighting.identifiers),
                        identifier=identifier,
                        profile=profile.profile_id,
                        owner=owner.profile_id if owner else None,
                        cause=cause,
                        type=type,
                    )
                )
        if sighting.identifiers not in self._outcomes:
            self._outcomes[sighting.identifiers] = SetOutcome(
                set_id=self._set_id(sighting.identifiers),
                first_position=sighting.position,
                identifiers=linking,
                blocked=blocked,
                unconfigured=unconfigured,
                first_profile=profile.profile_id if profile else None,
                profile=None,
            )

    def graph(self) -> IdentityGraph:
        """Return the state after the last set."""
        profiles = {}
        for growing in self._profiles:
            profiles[growing.profile_id] = Profile(
                profile_id=growing.profile_id,
                founding_set=growing.founding.identifiers,
                founded_at=growing.founding.position,
                members=frozenset(growing.linked_at),
            )
        owners: dict[Identifier, str | None] = {}
        sets = {}
        for identifier_set, outcome in self._outcomes.items():
            for identifier in outcome.identifiers:
                owner = self._owner.get(identifier)
                owners[identifier] = owner.profile_id if owner else None
            sets[identifier_set] = SetOutcome(
                set_id=outcome.set_id,
                first_position=outcome.first_position,
                identifiers=outcome.identifiers,
                blocked=outcome.blocked,
                unconfigured=outcome.unconfigured,
                first_profile=outcome.first_profile,
                profile=owners[outcome.identifiers[0]] if outcome.identifiers else None,
            )
        return IdentityGraph(profiles, owners, sets, tuple(self._refusals), tuple(self._merges))

    def _choose(
        self, linking: tuple[Identifier, ...], now: int
    ) -> tuple[list[Identifier], list[tuple[Identifier, Cause, str | None]]]:
        """Return which identifiers of a cleaned set join, and which do not and why."""
        joined = [linking[0]]
        refused: list[tuple[Identifier, Cause, str | None]] = []
        if self._rules.demotion == "minimal":
            for identifier in linking[1:]:
                broken = self._broken([*joined, identifier], now)
                if broken is None:
                    joined.append(identifier)
                else:
                    refused.append((identifier, *broken))
            return joined, refused
        keep = len(linking)
        broken = None
        # The last one left is never demoted. All that are cut carry the cause of the last cut needed.
        while keep > 1 and (found := self._broken(linking[:keep], now)) is not None:
            broken = found
            keep -= 1
        if broken is not None:
            refused = [(identifier, *broken) for identifier in linking[keep:]]
        return list(linking[:keep]), refused

    def _broken(self, joined: Sequence[Identifier], now: int) -> tuple[Cause, str | None] | None:
        """Return the first limit that these identifiers, with the profiles that own them, would break."""
        profiles = self._owners_of(joined)
        linked_at = dict.fromkeys(joined, now)
        for profile in profiles:
            linked_at |= profile.linked_at
        for rule in sorted(self._rules.types, key=lambda rule: (rule.priority, rule.type)):
            if rule.collection != self._collection or rule.limit is None:
                continue
            values = [at for identifier, at in linked_at.items() if identifier.type == rule.type]
            if rule.window_seconds is not None:
                window = rule.window_seconds * 1_000_000
                values = [at for at in values if at // window == now // window]
            if len(values) > rule.limit:
                return ("limit" if rule.window_seconds is None else "time_limit"), rule.type
        if self._rules.identifiers_max is not None and len(linked_at) > self._rules.identifiers_max:
            return "identifiers_max", None
        if self._rules.merges_max is not None and len(profiles) > 1:
            merges = sum(profile.merges for profile in profiles) + len(profiles) - 1
            if merges > self._rules.merges_max:
                return "merges_max", None
        for one, other in self._unlinks:
            if one != other and one in linked_at and other in linked_at:
                return "unlinked", None
        return None

    def _join(self, joined: Sequence[Identifier], sighting: Sighting) -> _Growing:
        """Make one profile of these identifiers and of all profiles that own any of them."""
        owners = self._owners_of(joined)
        if owners:
            profile = owners[0]
        else:
            profile = _Growing(self._public_id(sighting.identifiers), sighting, {})
            self._profiles.append(profile)
        for other in owners[1:]:
            # Profiles stand in the order in which they were founded.
            older, younger = sorted((profile, other), key=self._profiles.index)
            older.linked_at |= younger.linked_at
            older.merges += younger.merges + 1
            for identifier in younger.linked_at:
                self._owner[identifier] = older
            self._profiles.remove(younger)
            self._merges.append(
                Merge(
                    sighting.position,
                    self._set_id(sighting.identifiers),
                    older.profile_id,
                    younger.profile_id,
                )
            )
            profile = older
        for identifier in joined:
            profile.linked_at.setdefault(identifier, sighting.received_at)
            self._owner[identifier] = profile
        return profile

    def _owners_of(self, joined: Sequence[Identifier]) -> list[_Growing]:
        owners: list[_Growing] = []
        for identifier in joined:
            owner = self._owner.get(identifier)
            if owner is not None and all(owner is not known for known in owners):
                owners.append(owner)
        return owners

    def _set_id(self, identifier_set: IdentifierSet) -> bytes:
        return _set_id(self._key, self._collection, identifier_set)

    def _public_id(self, identifier_set: IdentifierSet) -> str:
        return identifiers.public_id(self._collection, self._set_id(identifier_set))


def _set_id(key: bytes, collection: Collection, identifier_set: IdentifierSet) -> bytes:
    ids = [identifiers.ident_id(key, collection, one) for one in identifier_set]
    return identifiers.set_id(key, collection, ids)
