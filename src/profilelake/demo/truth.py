"""What is true of generated data, and how close a set of profiles comes to it.

The score counts pairs of identifiers. It is taken over identifiers that exactly one person used;
what several persons used (a family tablet, a kiosk) belongs to nobody alone, and what was junk
belongs to nobody at all, so both are listed apart instead of being scored by some convention.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from profilelake.semantics.identifiers import Identifier


@dataclass(slots=True)
class Truth:
    """Who used which identifier, noted while the data is made."""

    owners: dict[Identifier, set[int]] = field(default_factory=dict)
    junk: set[Identifier] = field(default_factory=set)
    organisations: set[Identifier] = field(default_factory=set)
    _sightings: dict[tuple[int, tuple[Identifier, ...]], None] = field(default_factory=dict)

    def note(self, person: int, identifiers: tuple[Identifier, ...]) -> None:
        """Note that `person` appeared under these identifiers, in one event."""
        if (person, identifiers) in self._sightings:
            return
        self._sightings[person, identifiers] = None
        for identifier in identifiers:
            self.owners.setdefault(identifier, set()).add(person)

    def owned(self) -> dict[Identifier, int]:
        """Return the identifiers that exactly one person used, with that person."""
        return {
            identifier: next(iter(persons))
            for identifier, persons in self.owners.items()
            if len(persons) == 1 and identifier not in self.junk
        }

    def shared(self) -> dict[Identifier, int]:
        """Return the identifiers that several persons used, with the number of persons."""
        return {
            identifier: len(persons)
            for identifier, persons in self.owners.items()
            if len(persons) > 1 and identifier not in self.junk
        }

    def evident(self) -> dict[Identifier, Identifier]:
        """Return for each owned identifier its evidence group, named by one of its members.

        Two identifiers of a person are in one group when a chain of events leads from one to the
        other over identifiers that are this person's alone. Somebody who browses on a telephone and
        a laptop and never says who they are is one person in truth, but two groups.
        """
        owned = self.owned()
        parent = {identifier: identifier for identifier in owned}

        def root(identifier: Identifier) -> Identifier:
            while parent[identifier] is not identifier:
                parent[identifier] = parent[parent[identifier]]
                identifier = parent[identifier]
            return identifier

        for _, identifiers in self._sightings:
            own = [identifier for identifier in identifiers if identifier in parent]
            for other in own[1:]:
                parent[root(other)] = root(own[0])
        return {identifier: root(identifier) for identifier in owned}


@dataclass(frozen=True, slots=True)
class Score:
    """How profiles compare with the truth, in pairs of identifiers.

    `pairs_found` end in one profile, `pairs_true` are one person, `pairs_right` are both;
    `pairs_evident` are one person and linked by events, `pairs_evident_right` of those ended in one
    profile. A ratio with nothing to count is 1.
    """

    persons: int
    groups: int
    profiles: int
    identifiers: int
    pairs_true: int
    pairs_found: int
    pairs_right: int
    pairs_evident: int
    pairs_evident_right: int

    @property
    def precision(self) -> float:
        """Of the pairs the profiles join, the share that really is one person."""
        return _ratio(self.pairs_right, self.pairs_found)

    @property
    def recall(self) -> float:
        """Of the pairs that are one person, the share the profiles join, evidence or not."""
        return _ratio(self.pairs_right, self.pairs_true)

    @property
    def recall_evident(self) -> float:
        """Of the pairs that are one person *and* that events link, the share the profiles join."""
        return _ratio(self.pairs_evident_right, self.pairs_evident)


def score(truth: Truth, profiles: Mapping[Identifier, str]) -> Score:
    """Compare `profiles` (identifier to profile id, identifiers of nobody left out) with the truth.

    An owned identifier without a profile counts as a profile of its own: it costs recall only.
    """
    owned = truth.owned()
    groups = truth.evident()
    found = {identifier: profiles.get(identifier, str(identifier)) for identifier in owned}
    return Score(
        persons=len(set(owned.values())),
        groups=len(set(groups.values())),
        profiles=len(set(found.values())),
        identifiers=len(owned),
        pairs_true=_pairs(owned.values()),
        pairs_found=_pairs(found.values()),
        pairs_right=_pairs((owned[identifier], found[identifier]) for identifier in owned),
        pairs_evident=_pairs(groups.values()),
        pairs_evident_right=_pairs((groups[identifier], found[identifier]) for identifier in owned),
    )


def _pairs(labels: Iterable[object]) -> int:
    """Return how many pairs of items carry the same label."""
    return sum(count * (count - 1) // 2 for count in Counter(labels).values())


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
