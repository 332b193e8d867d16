"""Account links: since when a person belongs to an organisation, and until when.

A group event with a person and an organisation is a *sighting* of the two. A decision to *leave* names
an identifier of each; it ends what was between whatever profiles these identifiers are in. So the order
of facts falls into intervals, cut by the decisions that concern a pair of profiles, and an interval
with a sighting is a *spell*: it begins with its first sighting and ends with the decision, if there is
one. A sighting after the decision begins the next spell.

Links hang on identifier sets and decisions on identifiers, so merging and splitting profiles moves
neither: both are read off the sets and identifiers that a profile has today. A sighting also counts
where its event was retracted: that is about who is who, and the event itself stays.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from profilelake.semantics.identifiers import Identifier

Names = frozenset[Identifier]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class Spell:
    """One stretch of belonging, as positions: the event it began with and the decision that ended it.

    `until` is None while it lasts.
    """

    since: bytes
    until: bytes | None


def interval(position: bytes, cuts: Sequence[bytes]) -> int:
    """Return in which interval between `cuts` (ascending) a position lies."""
    return bisect_right(cuts, position)


def spells(sightings: Iterable[bytes], ended: Iterable[bytes]) -> list[Spell]:
    """Return the spells of two profiles in order, from the sightings of their sets.

    `ended` are the positions of the decisions to leave that hold and name an identifier of each.
    """
    cuts = sorted(set(ended))
    first: dict[int, bytes] = {}
    for position in sorted(sightings, reverse=True):
        first[interval(position, cuts)] = position
    return [Spell(first[at], cuts[at] if at < len(cuts) else None) for at in sorted(first)]


def links(
    sightings: Iterable[tuple[Names, Names, bytes]],
    left: Iterable[tuple[Identifier, Identifier, bytes]],
    *,
    people: Mapping[Names, _Key],
    accounts: Mapping[Names, _Key],
    owners: tuple[Mapping[Identifier, _Key], Mapping[Identifier, _Key]],
) -> dict[tuple[_Key, _Key], list[Spell]]:
    """Return the spells of each pair of profiles, by person and account.

    `sightings` are sets of both and the position of their event, `left` the decisions that hold. `people`
    and `accounts` say which profile a set is of, `owners` the same of identifiers.
    """
    seen: dict[tuple[_Key, _Key], list[bytes]] = defaultdict(list)
    for person, account, position in sightings:
        if person in people and account in accounts:
            seen[people[person], accounts[account]].append(position)
    ended: dict[tuple[_Key, _Key], list[bytes]] = defaultdict(list)
    for user, organisation, position in left:
        if user in owners[0] and organisation in owners[1]:
            ended[owners[0][user], owners[1][organisation]].append(position)
    return {pair: spells(positions, ended[pair]) for pair, positions in seen.items()}
