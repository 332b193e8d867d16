"""Small histories of identifiers that meet often, the rules they are read by, and what people decide.

Strategies for hypothesis, and the same by seed (`world`) where thousands of cases must fit in seconds.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar

from hypothesis import strategies as st

from profilelake.identity import problem
from profilelake.semantics import facts, identity
from profilelake.semantics.facts import Decision, Fact, NewRules, Quarantine, Retract, Unlink
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.rules import IdentityRules, TypeRule

SECOND: Final = 1_000_000
TYPES: Final = ("user_id", "email", "anonymous_id", "ios.id")
VALUES: Final = [
    *(Identifier("user_id", f"u{n}") for n in range(4)),
    *(Identifier("email", f"e{n}") for n in range(4)),
    *(Identifier("anonymous_id", f"a{n}") for n in range(6)),
    *(Identifier("ios.id", f"i{n}") for n in range(3)),
]
NO_EFFECT: Final = [Identifier("email", "null"), Identifier("ios.id", "000-0"), Identifier("unheard_of", "x")]
NEVER_SEEN: Final = Identifier("user_id", "u99")
DECIDED_ABOUT: Final = [*VALUES, NO_EFFECT[0], NEVER_SEEN]
LIMITS: Final = (None, 1, 2, 3)
WINDOWS: Final = (None, None, 4, 6, 12)
NO_WINDOWS: Final = [None] * len(TYPES)
IDENTIFIERS_MAX: Final = (None, None, None, 1, 3, 5, 8)
MERGES_MAX: Final = (None, None, None, 1, 2, 3)
DEGREES_MAX: Final = (None, None, 1, 2, 3)
EVENTS_MAX: Final = 14
DECISIONS_MAX: Final = 6

Pair: TypeAlias = tuple[Identifier, Identifier]
Resolve: TypeAlias = Callable[..., IdentityGraph]
Item = TypeVar("Item")

sets = st.frozensets(st.sampled_from(VALUES), min_size=1, max_size=4)
noisy_sets = st.builds(frozenset.union, sets, st.frozensets(st.sampled_from(NO_EFFECT), max_size=2))
pairs = st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES)).filter(lambda pair: pair[0] != pair[1])
unlinks = st.one_of(st.just([]), st.lists(pairs, max_size=3))
either = st.sampled_from([identity.resolve, problem.resolve])


@dataclass(frozen=True)
class World:
    """Everything that happened and was decided, in order of position, and the rules at the beginning."""

    sightings: list[Sighting]
    decisions: list[Fact]
    rules: IdentityRules

    def resolved(self, by: Resolve) -> IdentityGraph:
        """Return who is who."""
        return identity.resolve_facts(self.sightings, self.decisions, self.rules, by=by)

    def deciding(self, *decisions: Decision) -> "World":
        """Return the same world after further decisions, which are the last ones."""
        later = [
            Fact(b"\xff" * 8 + number.to_bytes(4, "big"), decision)
            for number, decision in enumerate(decisions, start=len(self.decisions))
        ]
        return replace(self, decisions=[*self.decisions, *later])

    def standing(self) -> facts.Standing:
        """Return the decisions that hold."""
        return facts.standing(self.decisions, self.rules)

    def poison(self) -> frozenset[Identifier]:
        """Return what links nobody, by decision or by degree."""
        held = self.standing()
        counted = [one for one in self.sightings if one.position not in held.retracted]
        first = identity.first_sightings(counted, identity.replace_windows(held.rules), "users")
        return facts.quarantined([(one.identifiers, one.trusted) for one in first], held)


def rules_of(
    strengths: Sequence[int],
    limits: Sequence[int | None],
    windows: Sequence[int | None],
    **caps: Any,
) -> IdentityRules:
    """Return rules for `TYPES`, under which `NO_EFFECT` links nobody."""
    types = [
        TypeRule(
            type=type,
            priority=strength,
            limit=limit,
            window_seconds=window,
            blocked_exact=frozenset({"null"}),
            blocked_patterns=("^[0-]*$",),
        )
        for type, strength, limit, window in zip(TYPES, strengths, limits, windows, strict=True)
    ]
    return IdentityRules(version=1, types=tuple(types), **caps)


def sightings_of(chosen: Iterable[tuple[frozenset[Identifier], int, bool]]) -> list[Sighting]:
    """Return sightings in order of position, each with the seconds since the one before it."""
    at = 0
    sightings = []
    for number, (identifiers, step, trusted) in enumerate(chosen):
        at += step * SECOND
        sightings.append(
            Sighting(identifiers, at.to_bytes(8, "big") + number.to_bytes(4, "big"), at, trusted)
        )
    return sightings


def decided(chosen: Iterable[tuple[Decision, int]]) -> list[Fact]:
    """Return decisions in order of position, each with its second; no event has the place of one."""
    placed = [
        Fact((second * SECOND).to_bytes(8, "big") + (EVENTS_MAX + number).to_bytes(4, "big"), decision)
        for number, (decision, second) in enumerate(chosen)
    ]
    return sorted(placed, key=lambda fact: fact.position)


# ---- for hypothesis --------------------------------------------------------------------------------


def _one_per_type(values: Sequence[Item]) -> st.SearchStrategy[list[Item]]:
    return st.lists(st.sampled_from(values), min_size=len(TYPES), max_size=len(TYPES))


rule_sets = st.builds(
    rules_of,
    st.permutations(range(1, len(TYPES) + 1)),
    _one_per_type(LIMITS),
    st.one_of(st.just(NO_WINDOWS), _one_per_type(WINDOWS)),
    demotion=st.sampled_from(["minimal", "lowest_priority"]),
    identifiers_max=st.sampled_from(IDENTIFIERS_MAX),
    merges_max=st.sampled_from(MERGES_MAX),
    degree_max=st.sampled_from(DEGREES_MAX),
)


def histories(of: st.SearchStrategy[frozenset[Identifier]] = noisy_sets) -> st.SearchStrategy[list[Sighting]]:
    """Return sightings; the clock moves by 0 to 3 seconds, so windows turn now and then."""
    chosen = st.tuples(of, st.integers(0, 3), st.booleans())
    return st.builds(sightings_of, st.lists(chosen, min_size=1, max_size=EVENTS_MAX))


def decisions_about(sightings: Sequence[Sighting]) -> st.SearchStrategy[Decision]:
    """Return any decision, most of them about what was seen."""
    about = st.sampled_from(DECIDED_ABOUT)
    places = st.sampled_from([*(one.position for one in sightings), b"\0" * 12])
    return st.one_of(
        st.builds(Unlink, about, about, apart=st.sampled_from([True, True, False])),
        st.builds(Quarantine, about, quarantined=st.booleans()),
        st.builds(Retract, places, counts=st.sampled_from([False, False, True])),
        st.builds(NewRules, rule_sets),
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Return histories with decisions between, before and after the events."""
    sightings = draw(histories())
    chosen = st.tuples(decisions_about(sightings), st.integers(0, 3 * EVENTS_MAX))
    return World(sightings, decided(draw(st.lists(chosen, max_size=DECISIONS_MAX))), draw(rule_sets))


@st.composite
def arrivals(draw: st.DrawFn, items: Sequence[Item]) -> list[Item]:
    """Return the items in any order, some of them more than once."""
    repeats = draw(st.lists(st.sampled_from(items), max_size=5)) if items else []
    return draw(st.permutations([*items, *repeats]))


# ---- by seed ---------------------------------------------------------------------------------------


def world(seed: int) -> World:
    """Return the world of a seed: what `worlds` gives, many times faster and without shrinking."""
    rng = random.Random(seed)
    seen = sightings_of(
        (_set(rng), rng.randint(0, 3), rng.random() < 0.5) for _ in range(_size(rng, EVENTS_MAX))
    )
    chosen = [
        (_decision(rng, seen), rng.randint(0, 3 * EVENTS_MAX)) for _ in range(rng.randint(0, DECISIONS_MAX))
    ]
    return World(seen, decided(chosen), _rules(rng))


def arrived(items: Sequence[Item], rng: random.Random) -> list[Item]:
    """Return the items in some order, some of them more than once."""
    shuffled = [*items, *rng.choices(items, k=rng.randint(0, 5))] if items else []
    rng.shuffle(shuffled)
    return shuffled


def _size(rng: random.Random, most: int) -> int:
    return max(rng.randint(1, most), rng.randint(1, most))


def _set(rng: random.Random) -> frozenset[Identifier]:
    chosen = rng.sample(VALUES, rng.choice((1, 2, 2, 3, 4)))
    return frozenset(chosen + (rng.sample(NO_EFFECT, rng.randint(1, 2)) if rng.random() < 0.15 else []))


def _rules(rng: random.Random) -> IdentityRules:
    return rules_of(
        rng.sample(range(1, len(TYPES) + 1), len(TYPES)),
        rng.choices(LIMITS, k=len(TYPES)),
        rng.choices(WINDOWS, k=len(TYPES)) if rng.random() < 0.5 else NO_WINDOWS,
        demotion=rng.choice(("minimal", "lowest_priority")),
        identifiers_max=rng.choice(IDENTIFIERS_MAX),
        merges_max=rng.choice(MERGES_MAX),
        degree_max=rng.choice(DEGREES_MAX),
    )


def _decision(rng: random.Random, seen: Sequence[Sighting]) -> Decision:
    match rng.randrange(7):
        case 0 | 1:
            one, other = (rng.choice(sorted(rng.choice(seen).identifiers)) for _ in range(2))
            return Unlink(one, other, apart=rng.random() < 0.8)
        case 2 | 3:
            return Quarantine(rng.choice(DECIDED_ABOUT), quarantined=rng.random() < 0.5)
        case 4 | 5:
            return Retract(rng.choice(seen).position, counts=rng.random() < 0.3)
        case _:
            return NewRules(_rules(rng))


# ---- what laws need ----------------------------------------------------------------------------------


def components(sightings: Sequence[Sighting], rules: IdentityRules | None = None) -> list[list[Sighting]]:
    """Return the sightings that are connected, ignoring all limits.

    Without rules through any identifier at all; with rules through those that may link.
    """
    groups: list[tuple[set[Identifier], list[Sighting]]] = []
    for sighting in sightings:
        linking = (
            set(identity.clean(sighting.identifiers, rules, "users")[0]) if rules else {*sighting.identifiers}
        )
        joined = [group for group in groups if group[0] & linking]
        groups = [group for group in groups if not group[0] & linking]
        members = linking.union(*(group[0] for group in joined))
        groups.append((members, [one for group in joined for one in group[1]] + [sighting]))
    return [found for members, found in groups if members]


def by_founding(graph: IdentityGraph) -> dict[bytes, frozenset[Identifier]]:
    """Return who belongs together, by where it began: what does not depend on the names of sets."""
    return {profile.founded_at: profile.members for profile in graph.profiles.values()}


def replayed(graph: IdentityGraph) -> dict[Identifier, str | None]:
    """Return who owns what after all that happened, set by set: joins and merges, without any rule.

    A set that counts anew in a later window is told once only, so rules must have no windows.
    """
    owners: dict[Identifier, str | None] = dict.fromkeys(graph.owners)
    for outcome in sorted(graph.sets.values(), key=lambda outcome: outcome.first_position):
        if outcome.first_profile is None:
            continue
        for merge in graph.merges:
            if merge.set_id == outcome.set_id:
                for identifier, owner in owners.items():
                    if owner == merge.loser:
                        owners[identifier] = merge.survivor
        refused = {refusal.identifier for refusal in graph.refusals if refusal.set_id == outcome.set_id}
        for identifier in outcome.identifiers:
            if identifier not in refused:
                owners[identifier] = outcome.first_profile
    return owners


def together(parts: Iterable[IdentityGraph]) -> IdentityGraph:
    """Return the graph of graphs that share no identifier."""
    parts = list(parts)
    whole = IdentityGraph({}, {}, {}, (), ())
    for part in parts:
        whole.profiles.update(part.profiles)
        whole.owners.update(part.owners)
        whole.sets.update(part.sets)
    refusals = [refusal for part in parts for refusal in part.refusals]
    merges = [merge for part in parts for merge in part.merges]
    # One set is in one part, so what happened at one position keeps its order.
    return replace(
        whole,
        refusals=tuple(sorted(refusals, key=lambda refusal: refusal.position)),
        merges=tuple(sorted(merges, key=lambda merge: merge.position)),
    )
