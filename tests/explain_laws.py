"""What explanations must be for any story: the laws themselves, run with few examples and with many."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

from hypothesis import strategies as st

from pipeline_arrivals import RULES, UNTRUSTED, decisions, first_events, late, reference, said
from pipeline_decisions import stories
from pipeline_driver import KEY, START, WORKSPACE, Desk
from pipeline_laws import desk
from profilelake.eventlog import Record
from profilelake.identity.explain import refusals, why
from profilelake.identity.history import history
from profilelake.identity.told import Chain, Step
from profilelake.identity.view import Page, View, explained
from profilelake.semantics import facts, identity
from profilelake.semantics.facts import Fact
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.identity import IdentityGraph, Sighting
from profilelake.semantics.rules import COLLECTIONS, Collection

STORY_CALLS = 10
T = TypeVar("T")
Sets = dict[bytes, frozenset[Identifier]]


def explanations_are_right(data: st.DataObject, *, windows: bool) -> None:
    """Tell a story, with decisions and late records; every explanation is what the definitions say."""
    records = data.draw(stories(windows=windows, calls=STORY_CALLS))
    moment = data.draw(st.sampled_from([START, *(record.received_at for record in records)]))
    told = Told.of(records)
    with desk() as live:
        for batch in data.draw(late(records)).batches:
            live.apply(batch)
        # What is explained must be right itself; a fault of resolving is not one of explaining.
        assert said(live.state_tables()) == reference(records), "resolving differs from the definitions"
        chains_are_right(told, live)
        histories_are_right(told, live, moment)
        refusals_are_right(told, live)


@dataclass(frozen=True)
class Told:
    """A story as the plain definitions have it: who is who in each collection, and through which sets."""

    graphs: dict[Collection, IdentityGraph]
    links: dict[Collection, Sets]
    messages: dict[bytes, str]

    @classmethod
    def of(cls, records: list[Record]) -> "Told":
        events = first_events(records)
        graphs, links = {}, {}
        for collection in COLLECTIONS:
            sightings = [
                Sighting(
                    frozenset(names),
                    event.position.to_bytes(),
                    event.received_at,
                    trusted=event.source_id not in UNTRUSTED,
                )
                for event in events
                if (names := getattr(event, collection))
            ]
            decided = decisions(records, collection)
            graph = identity.resolve_facts(sightings, decided, RULES, collection=collection, key=KEY)
            graphs[collection] = graph
            links[collection] = linked(graph, sightings, decided, collection)
        return cls(graphs, links, {event.position.to_bytes(): event.message_id for event in events})


def chains_are_right(told: Told, live: Desk) -> None:
    """A chain is there exactly where two share a profile; it is real, and none is shorter."""
    for collection, graph in told.graphs.items():
        links = told.links[collection]
        for one in graph.owners:
            distances = brute(links, one)
            for other in graph.owners:
                chain = explain(live, collection, one, other)
                same = graph.owners[one] is not None and graph.owners[one] == graph.owners[other]
                assert (chain.apart is None) == (same or one == other)
                if chain.apart is None:
                    assert len(chain.edges) == distances[other]
                    is_real(chain, links, told)
                    assert chain == explain(live, collection, one, other)
                else:
                    assert [side.profile_id for side in chain.apart.sides] == [
                        graph.owners[one],
                        graph.owners[other],
                    ]


def histories_are_right(told: Told, live: Desk, moment: int) -> None:
    """A history ends in the profile, has its merges and refusals, and has a past that is the same."""
    for collection, graph in told.graphs.items():
        merges: list[tuple[str, str, str]] = []
        refused: list[tuple[str, str, str]] = []
        for id, profile in graph.profiles.items():
            whole = steps_of(live, collection, id)
            assert owners(whole) == {str(member): id for member in profile.members}
            merges += [
                (step.position, step.profile_id or "", step.merged_profile_id or "")
                for step in whole
                if step.what == "merged"
            ]
            refused += [
                (step.position, str(step.identifiers[0]), step.refused.cause)
                for step in whole
                if step.refused is not None
            ]
            assert [step.position for step in whole] == sorted(step.position for step in whole)
            early = steps_of(live, collection, id, as_of=moment)
            assert early == [step for step in whole if int(step.position[:16], 16) < moment]
        assert sorted(merges) == sorted((m.position.hex(), m.survivor, m.loser) for m in graph.merges)
        assert sorted(refused) == sorted(
            (r.position.hex(), str(r.identifier), r.cause) for r in graph.refusals
        )


def refusals_are_right(told: Told, live: Desk) -> None:
    """Every refusal is told of its identifier, the newest first."""
    for collection, graph in told.graphs.items():
        for one, owner in graph.owners.items():
            named = partial(refusals, collection=collection, identifier=str(one), rows=1)
            found = [refused for page in pages(live, named) for refused in page.refusals]
            assert [(r.evidence.position, r.against_profile_id, r.cause) for r in reversed(found)] == [
                (r.position.hex(), r.profile, r.cause) for r in graph.refusals if r.identifier == one
            ]
            assert {r.owner_profile_id for r in found} <= {owner}


# ---- by other means ------------------------------------------------------------------------------


def linked(
    graph: IdentityGraph, sightings: list[Sighting], decided: list[Fact], collection: Collection
) -> Sets:
    """Return by position what each set linked at each event through which it counts."""
    held = facts.standing(decided, RULES)
    counted = [sighting for sighting in sightings if sighting.position not in held.retracted]
    refused = {(refusal.position, refusal.identifier) for refusal in graph.refusals}
    return {
        seen.position: frozenset(
            one for one in graph.sets[seen.identifiers].identifiers if (seen.position, one) not in refused
        )
        for seen in identity.first_sightings(counted, held.rules, collection)
    }


def brute(links: Sets, start: Identifier) -> dict[Identifier, int]:
    """Return how many sets lie between one identifier and each that can be reached from it."""
    distance = {start: 0}
    waiting = deque([start])
    while waiting:
        one = waiting.popleft()
        for members in links.values():
            if one in members:
                for other in members - distance.keys():
                    distance[other] = distance[one] + 1
                    waiting.append(other)
    return distance


def is_real(chain: Chain, links: Sets, told: Told) -> None:
    """Check that every step is one that its event made."""
    nodes = {node.id: Identifier(node.type, node.value) for node in chain.nodes}
    ends = [node.id for node in chain.nodes]
    assert [(edge.source, edge.target) for edge in chain.edges] == list(pairwise(ends))
    for edge in chain.edges:
        position = bytes.fromhex(edge.evidence.position)
        assert {nodes[edge.source], nodes[edge.target]} <= links[position]
        assert edge.evidence.message_id == told.messages[position]
        both = {nodes[edge.source], nodes[edge.target]}
        assert position == min(place for place, members in links.items() if both <= members)


def owners(steps: list[Step]) -> dict[str, str]:
    """Return whose each identifier is after these steps."""
    owner: dict[str, str] = {}
    for step in steps:
        if step.what in ("created", "joined"):
            for node in step.identifiers:
                assert str(node) not in owner
                owner[str(node)] = step.profile_id or ""
        if step.what == "merged":
            moved = [one for one, profile in owner.items() if profile == step.merged_profile_id]
            assert len(moved) == step.count
            owner |= dict.fromkeys(moved, step.profile_id or "")
    return owner


def explain(live: Desk, collection: Collection, one: Identifier, other: Identifier) -> Chain:
    return view(live, lambda v: why(v, collection, str(one), str(other)))


def steps_of(live: Desk, collection: Collection, id: str, *, as_of: int | None = None) -> list[Step]:
    """Read a history in small pages."""
    told = partial(history, collection=collection, text=id, as_of=as_of, rows=2)
    found = list(pages(live, told))
    assert {page.profile_id for page in found} == {id}
    return [step for page in found for step in page.steps]


def pages(live: Desk, ask: Callable[..., Page[T]]) -> Iterator[T]:
    """Read all pages of an explanation."""
    after: str | None = ""
    while after is not None:
        shown, after = view(live, partial(ask, after=after))
        yield shown


def view(live: Desk, ask: Callable[[View], T]) -> T:
    return explained(live.state, WORKSPACE, KEY, live.setup.rules, ask)
