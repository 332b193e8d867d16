"""The streaming form of constrained union-find: what it refuses, and how a set is put in order."""

import numpy as np
import pytest

from profilelake.errors import Internal, Invalid
from profilelake.kernels.identity_stream import IdentityStream, Rules, order_members

NO_PAIRS = np.empty((0, 2), dtype=np.int32)
NO_TIMES = np.empty(0, dtype=np.int64)


def rules(limits: list[int], windows: list[int] | None = None) -> Rules:
    return Rules(
        np.array(limits, dtype=np.int32),
        np.array(windows or [0] * len(limits), dtype=np.int64),
        lowest_priority=False,
        identifiers_max=None,
        merges_max=None,
    )


def numbers(*values: int) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
    return np.array(values, dtype=np.int32)


def test_a_refusal_in_a_later_piece_rests_on_what_earlier_pieces_joined() -> None:
    stream = IdentityStream(rules([1, -1]), NO_PAIRS)
    stream.meet(np.array([0, 1], dtype=np.int8))
    first = stream.take(np.array([0, 2]), numbers(0, 1), NO_TIMES)
    assert (first.founding_set.tolist(), first.merges, first.refusals) == ([0], 0, 0)
    stream.meet(np.array([0], dtype=np.int8))
    second = stream.take(np.array([0, 2]), numbers(2, 1), NO_TIMES)
    assert (second.founded_before, second.founding_set.tolist(), second.refusals) == (1, [0], 1)
    assert stream.finish().tolist() == [0, 0, 1]
    assert stream.living() == 2


def test_profiles_that_merge_have_one_owner_in_the_end() -> None:
    stream = IdentityStream(rules([-1]), NO_PAIRS)
    stream.meet(np.zeros(5, dtype=np.int8))
    stream.take(np.array([0, 1, 2]), numbers(0, 1), NO_TIMES)
    piece = stream.take(np.array([0, 2]), numbers(1, 0), NO_TIMES)
    assert piece.merges == 1
    assert stream.finish().tolist() == [0, 0, -1, -1, -1]
    assert stream.living() == 1


@pytest.mark.parametrize("limit", [0, -2, 65_535])
def test_limits_that_no_counter_can_hold_are_refused(limit: int) -> None:
    with pytest.raises(Invalid, match="give 1 to"):
        IdentityStream(rules([limit]), NO_PAIRS)


def test_more_types_than_a_code_can_say_are_refused() -> None:
    with pytest.raises(Invalid, match="128 types"):
        IdentityStream(rules([1] * 128), NO_PAIRS)


@pytest.mark.parametrize(
    ("offsets", "members", "message"),
    [
        ([0, 1], [3], "not below 3"),
        ([0, 1], [-1], "not below 3"),
        ([0, 2], [0], "do not divide the 1"),
        ([1, 1], [0], "do not divide the 1"),
        ([], [], "do not divide the 0"),
    ],
)
def test_arrays_that_contradict_each_other_are_our_mistake(
    offsets: list[int], members: list[int], message: str
) -> None:
    stream = IdentityStream(rules([1]), NO_PAIRS)
    stream.meet(np.zeros(3, dtype=np.int8))
    with pytest.raises(Internal, match=message):
        stream.take(np.array(offsets, dtype=np.int64), numbers(*members), NO_TIMES)


def test_windows_need_times_and_unlinked_identifiers_must_be_met() -> None:
    timed = IdentityStream(rules([1], [1_000_000]), NO_PAIRS)
    timed.meet(np.zeros(1, dtype=np.int8))
    with pytest.raises(Internal, match="0 times for 1 sets"):
        timed.take(np.array([0, 1]), numbers(0), NO_TIMES)
    apart = IdentityStream(rules([-1]), np.array([[0, 7]], dtype=np.int32))
    apart.meet(np.zeros(1, dtype=np.int8))
    with pytest.raises(Internal, match="has not been met"):
        apart.take(np.array([0, 1]), numbers(0), NO_TIMES)


def test_members_stand_strongest_first_and_within_a_type_by_value() -> None:
    values = [b"z", b"ab", b"b", b"a", b"abc", b""]
    starts = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int64)
    data = np.frombuffer(b"".join(values), dtype=np.uint8)
    offsets, members = order_members(
        np.array([0, 1, 1, 6], dtype=np.int64),
        np.array([0, 1, 2, 3, 4, 5], dtype=np.int64),
        numbers(10, 11, 12, 13, 14, 15),
        np.array([0] * 10 + [1, 2, 0, -1, 2, 2], dtype=np.int8),
        data,
        starts,
    )
    assert offsets.tolist() == [0, 1, 1, 5]
    assert members.tolist() == [10, 12, 15, 11, 14]
