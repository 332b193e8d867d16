"""Degrees by column and for one identifier, against the plain meaning."""

import random

import numpy as np

from profilelake.identity.degree import degree_of, high_degrees, several_of_one_type
from profilelake.semantics.facts import Standing, quarantined
from profilelake.semantics.identifiers import Identifier
from profilelake.semantics.rules import IdentityRules

TYPES = ("anonymous_id", "email", "user_id")
KNOWN = [Identifier(type, f"{number}") for type in TYPES for number in range(5)]
Sets = list[tuple[frozenset[Identifier], bool]]


def some_sets(seed: int) -> Sets:
    rng = random.Random(seed)
    drawn = {frozenset(rng.sample(KNOWN, rng.randint(1, 4))): rng.random() < 0.5 for _ in range(8)}
    return list(drawn.items())


def columns(sets: Sets) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(members) for members, _ in sets)], dtype=np.int64)
    types = np.array([TYPES.index(one.type) for one in KNOWN], dtype=np.int32)
    idents = np.array([KNOWN.index(one) for members, _ in sets for one in members], dtype=np.int32)
    return offsets, types, idents, np.array([trusted for _, trusted in sets])


def test_columns_quarantine_whom_the_reference_does() -> None:
    for seed in range(200):
        sets = some_sets(seed)
        for most in (None, 1, 2, 3):
            rules = IdentityRules(version=1, types=(), degree_max=most)
            found = high_degrees(*columns(sets), most).beyond(most)
            assert {KNOWN[ident] for ident in found} == quarantined(sets, Standing(rules)), (seed, most)


def test_one_identifier_has_the_degree_that_columns_say() -> None:
    for seed in range(200):
        sets = some_sets(seed)
        found = high_degrees(*columns(sets), 1)
        for ident, degree, type in zip(found.ident, found.degree, found.type, strict=True):
            asked = KNOWN[ident]
            mine = [
                ([(str(one).encode(), one.type) for one in members], trusted)
                for members, trusted in sets
                if asked in members
            ]
            assert degree_of(str(asked).encode(), mine) == (degree, TYPES[type]), seed


def test_two_values_of_one_type_in_a_set_are_one_more_than_sets() -> None:
    offsets, types, idents, _ = columns([(frozenset({KNOWN[0], KNOWN[5], KNOWN[6]}), True)])
    assert several_of_one_type(offsets, types, idents)[[0, 5, 6]].tolist() == [1, 1, 1]
