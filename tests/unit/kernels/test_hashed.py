"""Tables of very many ids: numbers, components, and what they do about hashes that collide."""

from itertools import pairwise

import numpy as np
import pytest

from profilelake.errors import Internal, Invalid
from profilelake.kernels.growing import Growing
from profilelake.kernels.hashed import Components, Numbering
from profilelake.kernels.siphash import Words
from profilelake.kernels.slots import by_slot, slots_of


def ids(rows: int, seed: int) -> Words:
    return np.random.default_rng(seed).integers(0, 1 << 64, (rows, 2), dtype=np.uint64)


def test_ids_are_numbered_in_order_of_first_appearance_over_batches_and_growth() -> None:
    pool, rng = ids(20_000, 1), np.random.default_rng(2)
    numbering = Numbering()
    expected: dict[bytes, int] = {}
    for _ in range(6):
        batch = pool[rng.integers(0, len(pool), 7_000)]
        rows = np.flatnonzero(rng.random(len(batch)) < 0.9)
        numbers, first = numbering.numbers(batch, rows)
        new = []
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            key = batch[row].tobytes()
            if key not in expected:
                expected[key] = len(expected)
                new.append(row)
            assert number == expected[key]
        assert first.tolist() == new
    assert numbering.count == len(expected)
    assert [row.tobytes() for row in numbering.give_up()] == list(expected)


def test_numbers_compare_every_bit_of_an_id() -> None:
    base = ids(1, 3)[0]
    near = [base] + [base ^ np.array([bit, 0], dtype=np.uint64) for bit in (1, 1 << 51, 1 << 63)]
    near += [base ^ np.array([0, bit], dtype=np.uint64) for bit in (1, 1 << 31, 1 << 32, 1 << 63)]
    batch = np.array(near * 2, dtype=np.uint64)
    numbers, _ = Numbering().numbers(batch, np.arange(len(batch)))
    assert numbers.tolist() == list(range(len(near))) * 2


def test_components_are_those_of_a_plain_union_find() -> None:
    pool, rng = ids(3_000, 4), np.random.default_rng(5)
    components = Components(len(pool))
    parent = list(range(len(pool)))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    seen: set[int] = set()
    for _ in range(5):
        sizes = rng.integers(0, 4, 300)
        members = rng.integers(0, len(pool), sizes.sum())
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        components.unite(pool[members], offsets)
        for start, stop in pairwise(offsets):
            here = members[start:stop].tolist()
            seen.update(here)
            for other in here[1:]:
                parent[root(other)] = root(here[0])
    roots = components.roots(pool).tolist()
    nodes = sorted(seen)
    assert [roots[node] == -1 for node in range(len(pool))] == [node not in seen for node in range(len(pool))]
    assert len({(roots[node], root(node)) for node in nodes}) == len({root(node) for node in nodes})
    assert (
        len({roots[node] for node in nodes}) == len({root(node) for node in nodes}) == components.components()
    )
    assert (components.count, components.collisions) == (len(seen), 0)


def test_hashes_cut_to_52_bits_that_are_equal_are_noticed_and_kept_apart() -> None:
    """Golden vector 12: strangers with one hash must not become one person unnoticed."""
    cut = ids(3, 6)
    cut[:, 0] = cut[0, 0] & np.uint64((1 << 52) - 1)
    alone = np.array([0, 1, 2, 3], dtype=np.int64)
    components = Components(10)
    components.unite(cut, alone)
    assert components.collisions == 3
    assert len(set(components.roots(cut).tolist())) == 3
    components.unite(cut, alone)
    assert components.collisions == 3
    numbers, _ = Numbering().numbers(cut, np.arange(3))
    assert numbers.tolist() == [0, 1, 2]


def test_an_id_of_zeros_is_an_id() -> None:
    zeros = np.zeros((2, 2), dtype=np.uint64)
    zeros[1, 1] = 5
    components = Components(2)
    components.unite(zeros[:1], np.array([0, 1]))
    assert components.roots(zeros).tolist()[1] == -1
    assert components.count == 1
    numbers, _ = Numbering().numbers(zeros, np.arange(2))
    assert numbers.tolist() == [0, 1]


def test_more_ids_than_there_is_room_for_are_refused() -> None:
    components = Components(1_000)
    with pytest.raises(Invalid, match="room for"):
        components.unite(ids(10_000, 7), np.arange(10_001))
    with pytest.raises(Invalid, match="uniting 3000000000"):
        Components(3_000_000_000)


@pytest.mark.parametrize("offsets", [[], [0, 3], [2, 1], [-1, 2]])
def test_offsets_that_do_not_divide_the_ids_are_our_mistake(offsets: list[int]) -> None:
    with pytest.raises(Internal, match="do not divide 2"):
        Components(10).unite(ids(2, 8), np.array(offsets, dtype=np.int64))


def test_an_array_that_is_looked_at_does_not_grow() -> None:
    growing = Growing(np.int32)
    growing.array[:3] = [1, 2, 3]
    view = growing.array[:3]
    with pytest.raises(ValueError, match="resize"):
        growing.reserve(1 << 20)
    assert view.tolist() == [1, 2, 3]
    del view
    growing.reserve(1 << 20)
    assert growing.array[:4].tolist() == [1, 2, 3, 0]
    assert len(growing.array) == 1 << 20


@pytest.mark.parametrize("bits", [4, 9, 16])
def test_owned_ids_are_grouped_by_their_first_bits(bits: int) -> None:
    found = ids(5_000, 9)
    owners = np.random.default_rng(10).integers(-1, 3, len(found)).astype(np.int32)
    numbers, starts = by_slot(found, owners, bits)
    first = np.array([int.from_bytes(row.tobytes()[:2], "big") for row in found])
    assert slots_of(found).tolist() == first.tolist()
    assert sorted(numbers.tolist()) == np.flatnonzero(owners >= 0).tolist()
    for group in range(1 << bits):
        members = numbers[starts[group] : starts[group + 1]]
        assert (first[members] >> (16 - bits) == group).all()
        assert (np.diff(members) > 0).all()
