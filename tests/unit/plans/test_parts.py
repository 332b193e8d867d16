"""Parts of like size."""

import pickle

import msgspec
import numpy as np

from profilelake.plans.parts import PartOf, part_of


def sizes(found: PartOf, components: "np.ndarray", counts: "np.ndarray") -> "np.ndarray":
    return np.bincount(found(components), counts, found.parts)


def test_components_of_like_size_fill_parts_alike() -> None:
    components = np.arange(0, 3_000_000, 30)
    counts = np.full(len(components), 5)
    found = part_of(components, counts, 1, int(counts.sum()), 20_000)
    assert found.parts == 25
    held = sizes(found, components, counts)
    assert held.max() < 1.1 * held.mean()


def test_a_giant_is_a_part_by_itself_and_large_ones_go_where_there_is_room() -> None:
    rng = np.random.default_rng(1)
    components = rng.permutation(200_000)[:50_000].astype(np.int64)
    counts = np.ones(50_000, dtype=np.int64)
    counts[0], counts[1:8] = 400_000, 9_000
    found = part_of(components, counts, 1, int(counts.sum()), 20_000)
    held = sizes(found, components, counts)
    giant = found(components[:1])[0]
    assert held[giant] == 400_000
    others = np.delete(held, giant)
    assert others.max() < 1.3 * others.mean()
    assert others.max() <= 25_000


def test_components_that_no_sample_showed_are_divided_too() -> None:
    found = part_of(np.empty(0, np.int64), np.empty(0, np.int64), 1_000, 500_000, 1_000)
    held = np.bincount(found(np.arange(500_000)), minlength=found.parts)
    assert found.parts >= 1
    assert held.max() < 1.3 * held.mean()


def test_what_does_not_link_has_no_part() -> None:
    found = part_of(np.array([3]), np.array([1]), 1, 1, 1)
    assert found(np.array([-1, 3, -1])).tolist() == [-1, 0, -1]


def test_it_travels() -> None:
    found = part_of(np.arange(100), np.arange(100), 1, 4_950, 500)
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - made here
    assert again == msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=PartOf) == found
    assert again(np.arange(100)).tolist() == found(np.arange(100)).tolist()
