"""The bounded memory of ids: it may forget, and never claims what was not put in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from profilelake.kernels.known_ids import KnownIds

ids = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=40)


def words(rows: list[tuple[int, int]]) -> np.ndarray:
    # The same few buckets for all, so that forgetting happens.
    return np.array([(first << 8, second) for first, second in rows], dtype=np.uint64).reshape(-1, 2)


@given(st.lists(ids, max_size=6), ids)
def test_only_what_was_put_in_is_known(
    added: list[list[tuple[int, int]]], asked: list[tuple[int, int]]
) -> None:
    known = KnownIds(8)
    for part in added:
        known.add(words(part))
    everything = {row for part in added for row in part}
    for row, found in zip(asked, known.contains(words(asked)).tolist(), strict=True):
        assert not found or row in everything


@given(ids.filter(bool))
def test_the_last_four_of_a_bucket_are_known(rows: list[tuple[int, int]]) -> None:
    known = KnownIds(4)
    for row in rows:
        known.add(words([row]))
    latest = [row for row in dict.fromkeys(reversed(rows)) if row != (0, 0)][:3]
    assert known.contains(words(latest)).all()


def test_it_is_not_larger_than_asked_for_by_more_than_a_power_of_two() -> None:
    known = KnownIds(1000)
    many = np.random.default_rng(1).integers(1, 1 << 63, (5000, 2), dtype=np.uint64)
    known.add(many)
    assert 500 < known.contains(many).sum() <= 1024


def test_the_id_of_nothing_is_never_known() -> None:
    known = KnownIds(4)
    known.add(np.zeros((1, 2), dtype=np.uint64))
    assert not known.contains(np.zeros((1, 2), dtype=np.uint64)).any()
