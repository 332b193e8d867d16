"""Thousands of small worlds with events and decisions: all ways to an answer give the same one.

The compiled resolver, part by part, component by component, and in two regions whose facts arrive in any
order and which hear of each other's in opposite order, is held to the plain reference. A failure names
the seed of its world: `identity_histories.world(seed)` makes it again.
"""

import random
from dataclasses import replace

import pytest

import identity_cuts
from identity_histories import World, arrived, components, replayed, together, world
from profilelake.identity import problem
from profilelake.semantics import identity

WORLDS = 3000
WORLDS_PER_TEST = 500


@pytest.mark.parametrize("first", range(0, WORLDS, WORLDS_PER_TEST))
def test_all_ways_to_an_answer_give_the_same(first: int) -> None:
    for seed in range(first, first + WORLDS_PER_TEST):
        _check(world(seed), seed)


def test_the_worlds_are_full_of_trouble() -> None:
    """What the laws are about happens in many of them, or they would prove little."""
    found = dict.fromkeys(
        ("refused", "unlinked", "merged", "poison", "retracted", "new rules", "windows", "released"), 0
    )
    for seed in range(300):
        made = world(seed)
        graph, held = made.resolved(problem.resolve), made.standing()
        found["refused"] += bool(graph.refusals)
        found["unlinked"] += any(refusal.cause == "unlinked" for refusal in graph.refusals)
        found["merged"] += bool(graph.merges)
        found["poison"] += bool(made.poison() - held.quarantined)
        found["retracted"] += bool(held.retracted)
        found["new rules"] += held.rules != made.rules
        found["windows"] += identity.common_window(held.rules, "users") is not None
        found["released"] += bool(held.released)
    assert min(found.values()) >= 15, found


def _check(made: World, seed: int) -> None:
    rng = random.Random(seed)
    expected = made.resolved(identity.resolve)
    here, there = _two_regions(made, rng)
    assert _met(here, there).resolved(problem.resolve) == expected, f"one region, seed {seed}"
    assert _met(there, here).resolved(problem.resolve) == expected, f"the other region, seed {seed}"

    alone = [replace(made, sightings=part) for part in components(made.sightings)]
    assert together(part.resolved(problem.resolve) for part in alone) == expected, f"components, seed {seed}"

    whole = identity_cuts.of_world(made)
    count = len(whole.set_offsets)
    parts = identity_cuts.cut(whole, {rng.randrange(count) for _ in range(3)})
    assert identity_cuts.run(parts) == identity_cuts.run([whole]), f"part by part, seed {seed}"

    if identity.common_window(made.standing().rules, "users") is None:
        assert replayed(expected) == expected.owners, f"history replayed, seed {seed}"


def _two_regions(made: World, rng: random.Random) -> tuple[World, World]:
    """Return what each of two regions saw by itself, in any order and some of it twice."""
    events = [rng.random() < 0.5 for _ in made.sightings]
    said = [rng.random() < 0.5 for _ in made.decisions]
    here, there = (
        replace(
            made,
            sightings=arrived(
                [one for one, at in zip(made.sightings, events, strict=True) if at == side], rng
            ),
            decisions=arrived([one for one, at in zip(made.decisions, said, strict=True) if at == side], rng),
        )
        for side in (True, False)
    )
    return here, there


def _met(own: World, others: World) -> World:
    """Return what a region knows once it has heard of the facts of another one."""
    return replace(
        own,
        sightings=[*own.sightings, *others.sightings],
        decisions=[*own.decisions, *others.decisions],
    )
