"""Why two identifiers are one person or are not, who was refused and by which rule, who is quarantined.

Everything is read from the online state in one transaction, and nothing is decided here: the state is
what resolving left behind, under the rules and decisions in force. How a profile formed is told by
`identity.history`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from profilelake.errors import Invalid, NotFound
from profilelake.identity import facts
from profilelake.identity._evidence import Entry, Link, Links, shortest, split
from profilelake.identity.decisions import Decision
from profilelake.identity.facts import Fact
from profilelake.identity.told import (
    Apart,
    Chain,
    Edge,
    Member,
    Quarantined,
    Refusals,
    SetShown,
    Side,
)
from profilelake.identity.view import PAGE_ROWS_MAX, Page, View, decided, evidence, position_of, quoted
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.semantics.times import format_time
from profilelake.state.records import NOBODY, IdentRecord, RefusalRecord, SetRecord, received_at

REFUSAL_SETS_MAX: Final = 100_000
"""Sets of one identifier that are looked through for refusals."""
APART_SETS_MAX: Final = 20_000
"""Sets of each of two profiles that are looked through for what keeps them apart."""
APART_ROWS_MAX: Final = 100
"""Refusals shown between two profiles."""


# ---- why -----------------------------------------------------------------------------------------


def why(view: View, collection: Collection | None, one: str, other: str) -> Chain:
    """Return the shortest chain of events that makes two identifiers one person, or what is between them.

    Identifiers are written `TYPE:VALUE`; without `collection` their types say it. Of several shortest
    chains it is the one through the earliest events, so that the same facts are always explained alike.

    Raises:
        Invalid: an identifier is not written like that, or too much would have to be read.
        NotFound: no event has shown it.
    """
    here, first = view.ident(collection, one)
    there, second = view.ident(collection, other)
    if first.collection != second.collection:
        raise Invalid(
            f"explaining {quoted(one)} and {quoted(other)}: one names a person and one an account, which never"
            " share a profile; name two of a kind"
        )
    kind = COLLECTIONS[first.collection]
    if here == there or (first.profile == second.profile != NOBODY):
        chain: list[Link] = []
        edges: list[Edge] = []
        places = [here]
        if here != there:
            links = Links(view.tx, view.workspace, view.held, first.profile)
            chain = shortest(links, here, there)
            places += [link.ident for link in chain]
            edges = [
                Edge(before.hex(), link.ident.hex(), evidence(links.entry(link)))
                for before, link in zip(places, chain, strict=False)
            ]
        nodes = view.nodes(places)
        profile_id = view.public(first.collection, first.profile)
        return Chain(kind, profile_id, [nodes[ident] for ident in places], edges)
    nodes = view.nodes([here, there])
    apart = _apart(view, (here, first), (there, second))
    return Chain(kind, None, [nodes[here], nodes[there]], [], apart)


def _apart(view: View, one: tuple[bytes, IdentRecord], other: tuple[bytes, IdentRecord]) -> Apart:
    sides = (_Party.of(view, *one), _Party.of(view, *other))
    found: dict[tuple[bytes, bytes], tuple[Entry, RefusalRecord]] = {}
    for mine, theirs in (sides, sides[::-1]):
        for entry, refusal in mine.refusals:
            if refusal.ident in theirs.idents:
                found[entry.position, refusal.ident] = entry, refusal
    latest = [found[place] for place in sorted(found, reverse=True)]
    return Apart(
        [Side(party.ident.hex(), party.profile_id, party.standing) for party in sides],
        view.refused(latest[:APART_ROWS_MAX]),
        _between(view, *sides),
        len(latest) > APART_ROWS_MAX or any(party.more for party in sides),
    )


@dataclass(frozen=True, slots=True)
class _Party:
    """One of two identifiers that are apart: who is with it, and what its sets refused."""

    ident: bytes
    profile_id: str | None
    standing: str
    idents: frozenset[bytes]
    refusals: list[tuple[Entry, RefusalRecord]]
    more: bool

    @classmethod
    def of(cls, view: View, ident: bytes, record: IdentRecord) -> "_Party":
        tx, workspace = view.tx, view.workspace
        profile = None if record.profile == NOBODY else tx.profile(workspace, record.profile)
        keys = tx.linked_sets(workspace, ident) if profile is None else profile.sets
        refusals = _refusals(view, tx.sets(workspace, keys[:APART_SETS_MAX]))
        return cls(
            ident,
            view.public(record.collection, record.profile),
            "linked" if profile is not None else _unowned(view, ident, record, refusals),
            frozenset([ident] if profile is None else (member for member, _ in profile.idents)),
            refusals,
            len(keys) > APART_SETS_MAX,
        )


def _refusals(view: View, sets: Mapping[bytes, SetRecord]) -> list[tuple[Entry, RefusalRecord]]:
    refusing = {key: record for key, record in sets.items() if record.refused}
    return [
        (entry, refusal)
        for some in view.entries(refusing).values()
        for entry in some
        for refusal in entry.refused
    ]


def _unowned(
    view: View, ident: bytes, record: IdentRecord, refusals: Iterable[tuple[Entry, RefusalRecord]]
) -> str:
    """Return why an identifier belongs to nobody."""
    outcome = view.outcome(COLLECTIONS[record.collection], ident, record)
    if outcome is not None:
        return outcome
    return "refused" if any(refusal.ident == ident for _, refusal in refusals) else "retracted"


def _between(view: View, one: _Party, other: _Party) -> list[Decision]:
    """Return the decisions that keep two sides apart: pairs that were unlinked, identifiers in quarantine."""
    pairs = {
        frozenset((mine, theirs))
        for mine in one.idents & view.held.unlinks.keys()
        for theirs in view.held.unlinks[mine] & other.idents
    }
    holding: dict[object, tuple[bytes, Fact]] = {}
    for position, fact in view.decisions:
        match fact:
            case facts.Unlink():
                pair = frozenset((bytes.fromhex(fact.one), bytes.fromhex(fact.other)))
                if pair in pairs:
                    holding[pair] = position, fact
            case facts.Quarantine():
                ident = bytes.fromhex(fact.ident)
                if ident in view.held.quarantined and ident in (one.ident, other.ident):
                    holding[ident] = position, fact
    return [
        decided(view, position, fact) for position, fact in sorted(holding.values(), key=lambda one: one[0])
    ]


# ---- refusals ------------------------------------------------------------------------------------


def refusals(
    view: View, collection: Collection | None, identifier: str, *, after: str, rows: int
) -> Page[Refusals]:
    """Return a page of the sets that did not let an identifier join their profile, the newest first.

    `after` is `following` of the page before, "" for the first one.

    Raises:
        Invalid: the identifier or `after` cannot be read, or there is too much to look through.
        NotFound: no event has shown the identifier.
    """
    ident, _ = view.ident(collection, identifier)
    keys = view.tx.linked_sets(view.workspace, ident)
    if len(keys) > REFUSAL_SETS_MAX:
        raise Invalid(
            f"refusals of {quoted(identifier)}: it is in {len(keys):,} sets, more than the {REFUSAL_SETS_MAX:,} that"
            " are looked through; ask the lake with SQL: identity_refusals"
        )
    sets = view.tx.sets(view.workspace, keys)
    found = [(entry, refusal) for entry, refusal in _refusals(view, sets) if refusal.ident == ident]
    return _page(view, found, after, rows, [])


def no_such_event(message_id: str) -> NotFound:
    """Return the error for an event that is neither among the recent ones nor in the lake."""
    return NotFound(
        f"looking for the event {quoted(message_id)}: no accepted event has this messageId; see those that"
        " could not be accepted: profilelake failed list --message-id"
    )


def refusals_of_event(view: View, keys: Sequence[bytes], *, after: str, rows: int) -> Page[Refusals]:
    """Return a page of what the sets of an event refused, and what became of each identifier in them.

    `keys` are the sets of the event, as `state.recent` or the lake finds them. What a set refused was
    decided at its first event, which may be an earlier one.
    """
    sets = view.tx.sets(view.workspace, keys)
    shown = [_set_shown(view, key, sets[key]) for key in keys if key in sets]
    return _page(view, _refusals(view, sets), after, rows, shown)


def _page(
    view: View,
    found: Iterable[tuple[Entry, RefusalRecord]],
    after: str,
    rows: int,
    shown: list[SetShown],
) -> Page[Refusals]:
    """Return the rows behind the position and identifier that `after` names."""
    places = {entry.position + refusal.ident: (entry, refusal) for entry, refusal in found}
    last = position_of(after) if after else None
    wanted = sorted((place for place in places if last is None or place < last), reverse=True)
    page = wanted[: min(rows, PAGE_ROWS_MAX)]
    following = page[-1].hex() if len(wanted) > len(page) else None
    return Page(Refusals(view.refused([places[place] for place in page]), shown), following)


def _set_shown(view: View, key: bytes, record: SetRecord) -> SetShown:
    collection = COLLECTIONS[record.collection]
    counted = view.entries({key: record})[key]
    linked = {ident for entry in counted for ident in entry.idents}
    idents = split(record.idents)
    known = view.tx.idents(view.workspace, idents)
    members = []
    for ident, node in view.nodes(idents).items():
        outcome = view.outcome(collection, ident, known[ident]) if ident in known else None
        if outcome is None:
            outcome = "linked" if ident in linked else "refused" if counted else "retracted"
        members.append(Member(node, outcome))
    first = (
        counted[0]
        if counted
        else Entry(record.position, key, record.message_id, record.source_id, record, (), ())
    )
    return SetShown(
        collection,
        view.public(record.collection, record.profile),
        evidence(first),
        sorted(members, key=lambda member: (member.identifier.type, member.identifier.value)),
    )


# ---- quarantine ----------------------------------------------------------------------------------


def quarantine(view: View, *, after: str, rows: int) -> Page[list[Quarantined]]:
    """Return a page of the identifiers that link nobody, the latest first."""
    latest: dict[bytes, tuple[bytes, facts.Quarantine]] = {}
    for position, fact in view.decisions:
        if isinstance(fact, facts.Quarantine) and fact.quarantined:
            latest[bytes.fromhex(fact.ident)] = position, fact
    by_degree = view.by_degree()
    since = {ident: record.position for ident, record in by_degree.items()}
    since |= {ident: latest[ident][0] for ident in view.held.quarantined}
    wanted = sorted(((position, ident) for ident, position in since.items()), reverse=True)
    if after:
        last = position_of(after)
        wanted = [(position, ident) for position, ident in wanted if position + ident < last]
    page = wanted[: min(rows, PAGE_ROWS_MAX)]
    nodes = view.nodes(ident for _, ident in page)
    listed = []
    for position, ident in page:
        at, place = format_time(received_at(position)), position.hex()
        record = by_degree.get(ident)
        if ident in view.held.quarantined:
            fact = latest[ident][1]
            listed.append(
                Quarantined(
                    nodes[ident],
                    fact.collection,
                    "decision",
                    at,
                    place,
                    None if record is None else record.degree,
                    None if record is None else record.type,
                    decided(view, position, fact),
                )
            )
        elif record is not None:
            collection = COLLECTIONS[record.collection]
            listed.append(
                Quarantined(nodes[ident], collection, "degree", at, place, record.degree, record.type)
            )
    following = (page[-1][0] + page[-1][1]).hex() if len(wanted) > len(page) else None
    return Page(listed, following)
