"""Contracting graphs: what hangs together, whichever way it is told, and who stands for it."""

import numpy as np
import pytest

from profilelake.errors import Internal, Invalid
from profilelake.kernels.contraction import IdGraph, NodeGraph, Union, joined, mixed, standing, words_of
from profilelake.kernels.hashed import IDS_MAX
from profilelake.kernels.siphash import Words


def ids(rows: int, seed: int) -> Words:
    return np.random.default_rng(seed).integers(0, 1 << 64, (rows, 2), dtype=np.uint64)


def plain(pairs: list[tuple[int, int]]) -> dict[int, int]:
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {node: root(node) for node in parent}


def test_sets_that_share_an_id_are_of_one_component_over_batches() -> None:
    pool, rng = ids(4_000, 1), np.random.default_rng(2)
    graph, numbers, pairs, members = IdGraph(), [], [], []
    for _ in range(5):
        sizes = rng.integers(0, 4, 400)
        offsets = np.append(0, np.cumsum(sizes)).astype(np.int64)
        chosen = rng.integers(0, len(pool), int(offsets[-1]))
        numbers.append(graph.unite(pool[chosen], offsets))
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            one = chosen[start:stop].tolist()
            members.append(one)
            pairs += [(one[0], other) for other in one]
    components, count = graph.components()
    roots = plain(pairs)
    assert count == len(set(roots.values())) == len(np.unique(components))
    told = {
        (roots[one[0]], int(components[n]))
        for one, n in zip(members, np.concatenate(numbers), strict=True)
        if one
    }
    assert len(told) == count
    assert [n == -1 for n in np.concatenate(numbers)] == [not one for one in members]
    assert {row.tobytes() for row in graph.give_up()} == {pool[node].tobytes() for node in roots}


def test_ids_are_compared_in_full() -> None:
    base = ids(1, 3)[0]
    near = np.array([base, base ^ np.array([0, 1 << 63], np.uint64), base ^ np.array([1, 0], np.uint64)])
    graph = IdGraph()
    graph.unite(near, np.arange(4, dtype=np.int64))
    assert graph.components()[1] == 3


def test_sets_may_begin_inside_of_what_is_given() -> None:
    graph = IdGraph()
    graph.unite(ids(6, 4), np.array([2, 4, 6], dtype=np.int64))
    assert graph.components()[1] == 2
    assert len(graph.give_up()) == 4


@pytest.mark.parametrize("offsets", [[], [-1, 1], [0, 3], [1, 0]])
def test_offsets_that_do_not_divide_the_ids_are_refused(offsets: list[int]) -> None:
    with pytest.raises(Internal, match="do not divide 2 ids"):
        IdGraph().unite(ids(2, 5), np.array(offsets, dtype=np.int64))


def test_more_numbers_than_there_are_is_refused() -> None:
    with pytest.raises(Invalid, match="take smaller parts"):
        Union().reserve(IDS_MAX + 1)


def test_both_ways_to_finish_name_the_same_nodes() -> None:
    rng = np.random.default_rng(6)
    one, other = rng.integers(0, 2_000, 1_500), rng.integers(0, 2_000, 1_500)
    sparse, dense = NodeGraph(), Union(2_000)
    for start in range(0, 1_500, 500):
        sparse.unite(one[start : start + 500], other[start : start + 500])
        dense.unite_pairs(one[start : start + 500], other[start : start + 500])
    named = np.arange(2_000)
    nodes, stands = sparse.stars()
    named[nodes] = stands
    assert named.tolist() == standing(dense).tolist()
    roots = plain(list(zip(one.tolist(), other.tolist(), strict=True)))
    assert len(np.unique(named[nodes])) == len(set(roots.values()) - alone(roots))
    order = mixed(np.arange(2_000))
    for name in np.unique(stands):
        assert order[name] == order[nodes[stands == name]].min()


def alone(roots: dict[int, int]) -> set[int]:
    """Return the nodes that were only paired with themselves."""
    counts = np.unique(list(roots.values()), return_counts=True)
    return set(counts[0][counts[1] == 1].tolist())


def test_nodes_of_one_group_are_joined_and_groups_of_one_say_nothing() -> None:
    groups, nodes = words_of(np.array([5, 7, 5, 9, 7, 5])), np.array([1, 2, 3, 4, 2, 8])
    graph, first = joined(groups, nodes)
    assert first.tolist() == [0, 1, 3]
    found, stands = graph.stars()
    assert sorted(found.tolist()) == [1, 3, 8]
    assert len(set(stands.tolist())) == 1


def test_no_two_numbers_have_one_place_in_the_mixed_order() -> None:
    numbers = np.concatenate([np.arange(100_000), np.arange(1 << 40, (1 << 40) + 100_000)])
    assert len(np.unique(mixed(numbers))) == len(numbers)
    assert words_of(numbers)[:, 1].tolist() == numbers.tolist()
