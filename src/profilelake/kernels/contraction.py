"""Graphs too large for one memory, contracted piece by piece: what hangs together in each piece.

Ids are keyed hashes of 128 bits and compared in full. What a piece has joined is a *node* of the next, larger
graph, and has a number below 2^63; where several nodes become one, the one whose number comes first in a mixed
order stands for all of them: an order that has nothing to do with the graph, so that chains shrink fast
however the numbers run along them.
"""

from typing import Final

import numpy as np

from profilelake.errors import Internal, Invalid
from profilelake.kernels._compiled import compiled, read_only
from profilelake.kernels._hashed_table import Int32s, Int64s, Words
from profilelake.kernels.growing import Growing
from profilelake.kernels.hashed import IDS_MAX, Numbering

BYTES_PER_NUMBER: Final = 8
"""Memory that `Union` needs for each number, its result included."""
BYTES_PER_NODE: Final = 56
"""Memory that `NodeGraph` needs for each node, its result included, at the worst moment of its growth."""

_U = np.uint64


class Union:
    """Which numbers hang together: a union-find over numbers from 0."""

    __slots__ = ("_parents", "count")

    def __init__(self, count: int = 0) -> None:
        """Begin with so many numbers, each by itself."""
        self._parents = Growing(np.int32)
        self.count = 0
        self.reserve(count)

    def reserve(self, count: int) -> None:
        """Have at least so many numbers.

        Raises:
            Invalid: more than there are numbers.
        """
        if count > IDS_MAX:
            raise Invalid(f"uniting {count} numbers: more than {IDS_MAX}; take smaller parts")
        if count > self.count:
            self._parents.reserve(count)
            self._parents.array[self.count : count] = np.arange(self.count, count, dtype=np.int32)
            self.count = count

    def unite_sets(self, numbers: Int32s, offsets: Int64s) -> None:
        """Take sets in: set s holds `numbers[offsets[s]:offsets[s + 1]]`."""
        _unite_sets(read_only(numbers, np.int32), read_only(offsets, np.int64), self._parents.array)

    def unite_pairs(self, one: Int64s, other: Int64s) -> None:
        """Take pairs in."""
        _unite_pairs(read_only(one, np.int64), read_only(other, np.int64), self._parents.array)

    def roots(self) -> Int32s:
        """Return for each number the least that hangs together with it; not to be written to or kept while united on."""
        roots = self._parents.array[: self.count]
        _flatten(roots)
        return roots


class IdGraph:
    """Which ids hang together through sets, all of it in memory."""

    __slots__ = ("_numbering", "_union")

    def __init__(self) -> None:
        self._numbering = Numbering()
        self._union = Union()

    def unite(self, ids: Words, offsets: Int64s) -> Int32s:
        """Take sets in: set s holds `ids[offsets[s]:offsets[s + 1]]`; return a number for each, -1 for an empty one.

        `components` tells by that number which component the set is of.

        Raises:
            Invalid: more different ids than there are numbers.
        """
        check_offsets(offsets, len(ids))
        numbers, _ = self._numbering.numbers(ids, np.arange(offsets[0], offsets[-1]))
        self._union.reserve(self._numbering.count)
        offsets = offsets - offsets[0]
        self._union.unite_sets(numbers, offsets)
        some = np.diff(offsets) > 0
        found = np.full(len(offsets) - 1, -1, dtype=np.int32)
        found[some] = numbers[offsets[:-1][some]]
        return found

    def components(self) -> tuple[Int32s, int]:
        """Return for each number the component it is of, and how many these are; they count from 0."""
        roots = self._union.roots()
        mine = roots == np.arange(len(roots), dtype=np.int32)
        numbers = np.cumsum(mine, dtype=np.int32) - np.int32(1)
        return numbers[roots], int(mine.sum())

    def give_up(self) -> Words:
        """Return all ids in the order of their numbers, and forget everything."""
        self._union = Union()
        return self._numbering.give_up()


class NodeGraph:
    """Which nodes hang together, of those that were united with another: in memory for these alone."""

    __slots__ = ("_numbering", "_union")

    def __init__(self) -> None:
        self._numbering = Numbering()
        self._union = Union()

    def unite(self, one: Int64s, other: Int64s) -> None:
        """Take pairs in; what is paired with itself says nothing and is not kept."""
        telling = one != other
        both = words_of(np.concatenate([one[telling], other[telling]]))
        numbers, _ = self._numbering.numbers(both, np.arange(len(both)))
        self._union.reserve(self._numbering.count)
        pairs = numbers.astype(np.int64).reshape(2, -1)
        self._union.unite_pairs(pairs[0], pairs[1])

    def stars(self) -> tuple[Int64s, Int64s]:
        """Return all nodes, and for each of them the one that stands for what hangs together; forget everything."""
        roots = self._union.roots()
        known = self._numbering.give_up()
        chosen = np.full(len(roots), -1, dtype=np.int32)
        order = np.ascontiguousarray(known[:, 0])
        _choose(roots, read_only(order, np.uint64), chosen)
        nodes = known[:, 1].astype(np.int64)
        found = nodes[chosen[roots]]
        self._union = Union()
        return nodes, found


def joined(groups: Words, nodes: Int64s) -> tuple[NodeGraph, Int64s]:
    """Return which nodes hang together as they came with one group, and for each group the first row it is in."""
    numbers, first = Numbering().numbers(groups, np.arange(len(groups)))
    graph = NodeGraph()
    graph.unite(nodes[first[numbers]], nodes)
    return graph, first


def standing(union: Union) -> Int32s:
    """Return for each number the one that stands for what hangs together, as `NodeGraph.stars` has it."""
    roots = union.roots()
    chosen = np.full(len(roots), -1, dtype=np.int32)
    _choose_dense(roots, chosen)
    _follow(roots, chosen)
    return roots


def words_of(nodes: Int64s) -> Words:
    """Return numbers as ids that spread as hashes do: the mixed number, and the number."""
    words = np.empty((len(nodes), 2), dtype=np.uint64)
    _words(read_only(nodes, np.int64), words)
    return words


def mixed(nodes: Int64s) -> Words:
    """Return the place of each number in the mixed order; no two have the same."""
    return words_of(nodes)[:, 0]


def check_offsets(offsets: Int64s, rows: int) -> None:
    """Refuse offsets that do not divide so many rows."""
    if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > rows or (np.diff(offsets) < 0).any():
        raise Internal(f"uniting identifiers: {len(offsets)} offsets do not divide {rows} ids")


@compiled
def _mix(value: np.uint64) -> np.uint64:
    # Each step can be undone, so no two numbers have one image.
    value = (value ^ (value >> _U(30))) * _U(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> _U(27))) * _U(0x94D049BB133111EB)
    return value ^ (value >> _U(31))


@compiled
def _words(nodes: Int64s, words: Words) -> None:
    for row in range(nodes.size):
        words[row, 0] = _mix(_U(nodes[row]) + _U(0x9E3779B97F4A7C15))
        words[row, 1] = _U(nodes[row])


@compiled
def _root(parents: Int32s, number: np.int64) -> np.int64:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = np.int64(parents[number])
    return number


@compiled
def _unite_sets(numbers: Int32s, offsets: Int64s, parents: Int32s) -> None:
    for index in range(offsets.size - 1):
        start, stop = offsets[index], offsets[index + 1]
        if start == stop:
            continue
        root = _root(parents, np.int64(numbers[start]))
        for row in range(start + 1, stop):
            other = _root(parents, np.int64(numbers[row]))
            # The lower number is the root, so that one ascending pass can flatten all.
            if other < root:
                parents[root] = other
                root = other
            else:
                parents[other] = root


@compiled
def _unite_pairs(one: Int64s, other: Int64s, parents: Int32s) -> None:
    for row in range(one.size):
        first, second = _root(parents, one[row]), _root(parents, other[row])
        if first < second:
            parents[second] = first
        else:
            parents[first] = second


@compiled
def _flatten(parents: Int32s) -> None:
    for number in range(parents.size):
        parents[number] = parents[parents[number]]


@compiled
def _choose(roots: Int32s, order: Words, chosen: Int32s) -> None:
    for number in range(roots.size):
        best = chosen[roots[number]]
        if best < 0 or order[number] < order[best]:
            chosen[roots[number]] = number


@compiled
def _choose_dense(roots: Int32s, chosen: Int32s) -> None:
    for number in range(roots.size):
        best = chosen[roots[number]]
        if best < 0 or _mix(_U(number) + _U(0x9E3779B97F4A7C15)) < _mix(_U(best) + _U(0x9E3779B97F4A7C15)):
            chosen[roots[number]] = number


@compiled
def _follow(roots: Int32s, chosen: Int32s) -> None:
    for number in range(roots.size):
        roots[number] = chosen[roots[number]]
