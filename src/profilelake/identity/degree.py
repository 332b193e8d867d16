"""How many others an identifier meets: whoever meets too many links nobody.

The meaning is that of `semantics.facts.quarantined`; here on whole columns, and for one identifier.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from profilelake.kernels.identity import Int32s, Int64s

Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Degrees:
    """Identifiers and the number of distinct values of `type` they met; one row each."""

    ident: Int32s
    degree: Int64s
    type: Int32s

    def beyond(self, degree_max: int | None) -> Int32s:
        """Return the identifiers that met more than `degree_max`."""
        return self.ident[:0] if degree_max is None else self.ident[self.degree > degree_max]


def high_degrees(
    offsets: Int64s, types: Int32s, idents: Int32s, trusted: Bools, degree_max: int | None
) -> Degrees:
    """Return the degrees of all identifiers that may have met more than `degree_max` others of one type.

    Set s holds the members `offsets[s]` to `offsets[s + 1]`; `idents` numbers them, and `types[i]` is the
    type of identifier i (any type that was sent, whether or not a rule knows it). A set that is not `trusted` does not
    count for an identifier that a trusted set shows. Costs almost nothing where nobody comes near.
    """
    nobody = np.empty(0, dtype=np.int32)
    sizes = np.diff(offsets)
    # Nobody meets more values of one type than there are other members in its sets.
    met_at_most = np.bincount(idents, weights=np.repeat(sizes - 1, sizes))
    near = met_at_most > (np.inf if degree_max is None else degree_max)
    if not near.any():
        return Degrees(nobody, nobody.astype(np.int64), nobody)
    set_of = np.repeat(np.arange(len(sizes)), sizes)
    attested = np.zeros(len(near), dtype=np.bool_)
    attested[idents[trusted[set_of]]] = True
    one = np.flatnonzero(near[idents] & (trusted[set_of] | ~attested[idents]))
    one, other = _pairs(one, set_of, offsets, sizes)
    different = types[idents[one]] != types[idents[other]]
    one, other = one[different], other[different]
    met = np.unique(np.column_stack([idents[one], types[idents[other]], idents[other]]), axis=0)
    # Rows stand by (identifier, type), so each run of equal pairs is one count.
    starts = np.flatnonzero(np.append(True, (met[1:, :2] != met[:-1, :2]).any(axis=1))[: len(met)])
    degree = np.diff(np.append(starts, len(met)))
    ident, type = met[starts, 0], met[starts, 1]
    # The greatest count of each identifier; of equal ones that of the first type.
    order = np.lexsort((type, -degree, ident))
    first = order[np.append(True, np.diff(ident[order]) != 0)[: len(order)]]
    return Degrees(ident[first].astype(np.int32), degree[first], type[first].astype(np.int32))


def degree_of(ident: bytes, sets: Iterable[tuple[Iterable[tuple[bytes, str]], bool]]) -> tuple[int, str]:
    """Return how many distinct values of which one other type an identifier meets; (0, "") for none.

    `sets` are the sets that contain it, each as (id, type) of its members and whether it is trusted.
    """
    known = [(tuple(members), trusted) for members, trusted in sets]
    attested = any(trusted for _, trusted in known)
    met: dict[str, set[bytes]] = {}
    for members, trusted in known:
        if attested and not trusted:
            continue
        own = next(type for id, type in members if id == ident)
        for id, type in members:
            if type != own:
                met.setdefault(type, set()).add(id)
    degree, type = min(((-len(ids), type) for type, ids in met.items()), default=(0, ""))
    return -degree, type


def several_of_one_type(offsets: Int64s, types: Int32s, idents: Int32s) -> Int64s:
    """Return for each identifier by how much its sets may raise its degree beyond one each."""
    sizes = np.diff(offsets)
    extra = np.zeros(len(sizes), dtype=np.int64)
    set_of = np.repeat(np.arange(len(sizes)), sizes)
    width = int(types.max(initial=0)) + 1
    pairs, repeats = np.unique(set_of * width + types[idents], return_counts=True)
    np.maximum.at(extra, pairs // width, repeats - 1)
    extra[sizes < 3] = 0
    return np.bincount(idents, weights=extra[set_of], minlength=len(types)).astype(np.int64)


def _pairs(rows: Int64s, set_of: Int64s, offsets: Int64s, sizes: Int64s) -> tuple[Int64s, Int64s]:
    """Return each of these member rows with each row of its set, itself among them."""
    here = set_of[rows]
    repeats = sizes[here]
    starts = np.cumsum(repeats) - repeats
    place = np.arange(repeats.sum()) - np.repeat(starts, repeats)
    return np.repeat(rows, repeats), np.repeat(offsets[here], repeats) + place
