"""The score counts pairs; here it is held to counting them one by one."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from profilelake.demo.truth import Truth, score
from profilelake.semantics.identifiers import Identifier


def named(number: int) -> Identifier:
    return Identifier("anonymous_id", f"a{number}")


SIGHTINGS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)),
    max_size=25,
)
PROFILES = st.dictionaries(st.integers(0, 9), st.sampled_from(["p", "q", "r"]))


@given(SIGHTINGS, PROFILES, st.sets(st.integers(0, 9), max_size=2))
def test_equals_counting_pair_by_pair(
    sightings: list[tuple[int, list[int]]], profiles: dict[int, str], junk: set[int]
) -> None:
    truth = Truth(junk={named(number) for number in junk})
    for person, numbers in sightings:
        truth.note(person, tuple(named(number) for number in numbers))
    found = score(truth, {named(number): profile for number, profile in profiles.items()})

    users: dict[int, set[int]] = {}
    for person, numbers in sightings:
        for number in numbers:
            users.setdefault(number, set()).add(person)
    owned = sorted(number for number, persons in users.items() if len(persons) == 1 and number not in junk)
    linked = reach(owned, sightings)
    pairs = list(combinations(owned, 2))
    true = {pair for pair in pairs if users[pair[0]] == users[pair[1]]}
    joined = {(a, b) for a, b in pairs if a in profiles and profiles[a] == profiles.get(b)}
    evident = {pair for pair in pairs if pair in linked}
    assert found.identifiers == len(owned)
    assert found.pairs_true == len(true)
    assert found.pairs_found == len(joined)
    assert found.pairs_right == len(true & joined)
    assert found.pairs_evident == len(evident)
    assert found.pairs_evident_right == len(evident & joined)
    assert evident <= true
    assert 0 <= found.precision <= 1
    assert 0 <= found.recall <= 1


def reach(owned: list[int], sightings: list[tuple[int, list[int]]]) -> set[tuple[int, int]]:
    """Pairs joined by a chain of sightings over owned identifiers, by plain closure."""
    linked = {
        (a, b) for _, numbers in sightings for a in numbers for b in numbers if a in owned and b in owned
    }
    for middle in owned:
        for a in owned:
            for b in owned:
                if (a, middle) in linked and (middle, b) in linked:
                    linked.add((a, b))
    return linked


def test_shared_and_junk_identifiers_are_not_scored() -> None:
    truth = Truth(junk={Identifier("user_id", "null")})
    truth.note(1, (Identifier("user_id", "u1"), named(0), Identifier("user_id", "null")))
    truth.note(2, (Identifier("user_id", "u2"), named(0)))
    assert truth.shared() == {named(0): 2}
    assert set(truth.owned()) == {Identifier("user_id", "u1"), Identifier("user_id", "u2")}


def test_one_profile_for_all_has_full_recall_and_little_precision() -> None:
    truth = Truth()
    for person in range(4):
        truth.note(person, (named(2 * person), named(2 * person + 1)))
    found = score(truth, {named(number): "one" for number in range(8)})
    assert (found.recall, found.recall_evident) == (1.0, 1.0)
    assert found.precision == 4 / 28


def test_an_identifier_without_profile_costs_recall_only() -> None:
    truth = Truth()
    truth.note(1, (named(0), named(1)))
    found = score(truth, {named(0): "p"})
    assert (found.precision, found.recall, found.profiles) == (1.0, 0.0, 2)


def test_devices_that_no_event_links_are_no_evidence() -> None:
    truth = Truth()
    truth.note(1, (named(0),))
    truth.note(1, (named(1),))
    found = score(truth, {named(0): "p", named(1): "q"})
    assert (found.persons, found.groups) == (1, 2)
    assert (found.recall, found.recall_evident) == (0.0, 1.0)
