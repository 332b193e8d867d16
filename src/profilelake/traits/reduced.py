"""Reductions of many subjects at a time, from what counts of their steps.

Sums are exact: whole parts and billionths are added as integers and divided once, to the nearest float.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.errors import Internal
from profilelake.kernels.dense import dense_numbers
from profilelake.kernels.siphash import Words
from profilelake.semantics.conditions.reducers import UNIQUE_BYTES_MAX, UNIQUE_VALUES_MAX
from profilelake.semantics.conditions.tree import Reduce
from profilelake.semantics.conditions.values import NANO, SUM_MAX, SUMMED_MAX, text
from profilelake.state.computed import VALUES
from profilelake.traits.columns import (
    EXACT,
    Bools,
    Coded,
    Column,
    Float64s,
    Int64s,
    Numbers,
    decoded,
    nothing,
)
from profilelake.traits.joined import EVENT, NUMBER, VALUE, Counting, Owned

_CENTS: Final = 100


def counted(counting: Counting, count: int) -> Numbers:
    """Return how many events there are."""
    totals = np.bincount(counting.of_kind(EVENT).owners, minlength=count).astype(np.int64)
    np.add.at(totals, counting.buckets.owners, counting.buckets.rows["count"])
    return Numbers(totals.astype(np.float64), np.ones(count, dtype=np.bool_), counting.changes)


def of_numbers(reduce: Reduce, counting: Counting, count: int) -> Numbers:
    """Return a sum, average, minimum or maximum of numbers."""
    if reduce.how in ("min", "max"):
        return _extreme(counting, count, greatest=reduce.how == "max")
    buckets, entries = counting.buckets, counting.of_kind(NUMBER)
    entries = entries.where(np.abs(entries.rows["number"]) <= SUMMED_MAX)
    floor = np.floor(entries.rows["number"])
    billionths = np.rint((entries.rows["number"] - floor) * 1e9)
    owners = np.concatenate([buckets.owners, entries.owners])
    wholes = np.concatenate([buckets.rows["whole"], floor.astype(np.int64)])
    nanos = np.concatenate([buckets.rows["nano"], billionths.astype(np.int64)])
    whole, nano = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    np.add.at(whole, owners, wholes)
    np.add.at(nano, owners, nanos)
    numbers = np.bincount(entries.owners, minlength=count).astype(np.int64)
    np.add.at(numbers, buckets.owners, buckets.rows["numbers"])
    valid = (numbers > 0) & _in_range(whole, wholes, owners)
    shares = np.where(valid, numbers, 1) if reduce.how == "avg" else np.ones(count, dtype=np.int64)
    values = divided(np.where(valid, whole, 0), np.where(valid, nano, 0), shares)
    return Numbers(values, valid, counting.changes)


def _extreme(counting: Counting, count: int, *, greatest: bool) -> Numbers:
    none = -np.inf if greatest else np.inf
    best = np.full(count, none)
    keep = np.maximum if greatest else np.minimum
    buckets, entries = counting.buckets, counting.of_kind(NUMBER)
    keep.at(best, buckets.owners, buckets.rows["greatest" if greatest else "least"])
    keep.at(best, entries.owners, entries.rows["number"])
    valid = np.isfinite(best)
    return Numbers(np.where(valid, best, 0.0), valid, counting.changes)


def _in_range(total: Int64s, parts: Int64s, owners: Int64s) -> Bools:
    """Return where a sum is small enough to have a value; sums that left the range of integers are not."""
    largest = int(np.abs(parts).max(initial=0))
    fits = (total <= SUM_MAX) & (total >= -SUM_MAX)
    if largest * max(len(parts), 1) <= SUM_MAX:
        return fits
    near = np.zeros(len(total))
    np.add.at(near, owners, parts.astype(np.float64))
    # Sums that wrapped around are off by 2^64: floats tell these apart though they are rounded.
    return fits & (np.abs(near) < 2 * float(SUM_MAX))


def divided(whole: Int64s, nano: Int64s, shares: Int64s) -> Float64s:
    """Return (whole + nano / 10^9) / shares, each as the float nearest to the exact quotient.

    A quotient of two whole numbers below 2^53 is rounded once by the division itself. Most amounts are such,
    as whole numbers, hundredths or billionths; for the others Python divides exactly.
    """
    carried = nano // NANO
    whole, nano = whole + carried, nano - carried * NANO
    result = np.zeros(len(whole))
    open_ = np.ones(len(whole), dtype=np.bool_)
    size = np.abs(whole.astype(np.float64))
    for scale in (1, _CENTS, NANO):
        unit = NANO // scale
        exact = open_ & (nano % unit == 0)
        exact &= ((size + 1) * scale < EXACT) & (shares * float(scale) < EXACT)
        rows = np.flatnonzero(exact)
        if len(rows):
            over = (whole[rows] * scale + nano[rows] // unit).astype(np.float64)
            result[rows] = over / (shares[rows] * scale).astype(np.float64)
            open_[rows] = False
    for row in np.flatnonzero(open_).tolist():
        result[row] = (int(whole[row]) * NANO + int(nano[row])) / (NANO * int(shares[row]))
    return result


class Spelt:
    """The distinct values of a set of partials: their texts, and the orders in which ties are broken."""

    def __init__(self, digests: Words, texts: Mapping[bytes, str]) -> None:
        self.codes, first = dense_numbers(digests)
        keys = digests[first].astype(">u8").tobytes()
        try:
            spelt = [texts[keys[at : at + 16]] for at in range(0, len(keys), 16)]
        except KeyError as missing:
            raise Internal(
                f"reducing values: nothing spells out the value {missing.args[0].hex()}"
            ) from missing
        self.texts = pa.array(spelt, pa.string())

    @cached_property
    def json_rank(self) -> Int64s:
        """The place of each value in the order of their JSON texts."""
        return _ranks(pc.sort_indices(self.texts))

    @cached_property
    def text_rank(self) -> Int64s:
        """The place of each value in the order of their texts, those of one text by their JSON."""
        return _ranks(text_order(self.texts))


def text_order(texts: pa.Array) -> pa.Array:
    """Return the order of JSON values by their text, those of one text by their JSON."""
    words = pa.array([text(value) or "" for value in decoded(texts)], pa.string())
    table = pa.table({"text": words, "json": texts})
    return pc.sort_indices(table, [("text", "ascending"), ("json", "ascending")])


def _ranks(order: pa.Array) -> Int64s:
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    return ranks


def of_values(reduce: Reduce, counting: Counting, texts: Mapping[bytes, str], count: int) -> Column:
    """Return what is made of values: the most frequent, first or last one, all of them, or how many."""
    rows, owners = _alike(counting)
    if not len(rows):
        if reduce.counted:
            return Numbers(np.zeros(count), np.ones(count, dtype=np.bool_), counting.changes)
        return nothing(count).until(counting.changes)
    spelt = Spelt(np.column_stack([rows["high"], rows["low"]]), texts)
    codes = spelt.codes.astype(np.int64)
    match reduce.how:
        case "first":
            order = np.lexsort((spelt.json_rank[codes], rows["first"], owners))
        case "last":
            order = np.lexsort((-spelt.json_rank[codes], -rows["last"], owners))
        case "min":
            order = np.lexsort((spelt.text_rank[codes], owners))
        case "max":
            order = np.lexsort((-spelt.text_rank[codes], owners))
        case _:
            codes, owners, often = _grouped(codes, owners, rows["count"], len(spelt.texts))
            if reduce.how == "unique":
                return _unique(reduce, spelt, codes, owners, counting, count)
            enough = often >= reduce.least
            codes, owners, often = codes[enough], owners[enough], often[enough]
            order = np.lexsort((spelt.text_rank[codes], -often, owners))
    chosen = np.full(count, -1, dtype=np.int32)
    ordered = owners[order]
    first = np.ones(len(ordered), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    chosen[ordered[first]] = codes[order][first]
    return Coded(chosen, spelt.texts, counting.changes)


def _alike(counting: Counting) -> Owned:
    """Return buckets and single events alike."""
    entries, owners = counting.of_kind(VALUE)
    if not len(entries):
        return counting.buckets
    single = np.zeros(len(entries), dtype=VALUES)
    single["high"], single["low"] = entries["high"], entries["low"]
    single["count"] = 1
    single["first"] = single["last"] = entries["at"]
    rows = np.concatenate([counting.buckets.rows, single])
    return Owned(rows, np.concatenate([counting.buckets.owners, owners]))


def _grouped(codes: Int64s, owners: Int64s, counts: Int64s, size: int) -> tuple[Int64s, Int64s, Int64s]:
    """Return each value of each subject once, with how often it is there; codes are below `size`."""
    both = owners * size + codes
    order = np.argsort(both)
    both = both[order]
    starts = np.ones(len(both), dtype=np.bool_)
    starts[1:] = both[1:] != both[:-1]
    places = np.flatnonzero(starts)
    return both[places] % size, both[places] // size, np.add.reduceat(counts[order], places)


def _unique(
    reduce: Reduce, spelt: Spelt, codes: Int64s, owners: Int64s, counting: Counting, count: int
) -> Column:
    """Return the distinct values as a JSON array, or their number."""
    sizes = np.bincount(owners, minlength=count)
    if reduce.counted:
        return Numbers(sizes.astype(np.float64), np.ones(count, dtype=np.bool_), counting.changes)
    order = np.lexsort((spelt.text_rank[codes], owners))
    order = order[_in_list(spelt, codes[order], owners[order])]
    sizes = np.bincount(owners[order], minlength=count)
    having = np.flatnonzero(sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes[having])]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), spelt.texts.take(pa.array(codes[order])))
    joined = pc.binary_join(lists, ",")
    arrays = pc.binary_join_element_wise("[", joined, "]", "")
    chosen = np.full(count, -1, dtype=np.int32)
    chosen[having] = np.arange(len(having))
    return Coded(chosen, arrays, counting.changes)


def _in_list(spelt: Spelt, codes: Int64s, owners: Int64s) -> Bools:
    """Return which values, in the order of subjects and of their lists, are in lists that keep their limits."""
    bytes_of = pc.binary_length(spelt.texts).to_numpy().astype(np.int64)
    reached = np.concatenate([[0], np.cumsum(bytes_of[codes] + 1)])
    starts = np.searchsorted(owners, owners)
    kept: Bools = np.arange(len(owners)) - starts < UNIQUE_VALUES_MAX
    kept &= reached[1:] - reached[starts] <= UNIQUE_BYTES_MAX
    return kept
