"""When people and accounts were seen together, from the facts in the lake, all at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity.facts import Standing
from profilelake.kernels import siphash
from profilelake.kernels.dense import dense_numbers
from profilelake.pipeline.fold_facts import Bools, Rows, in_order, one, words
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.state.records import MembershipRecord, SpellRecord


def first_of_spells(links: pa.Table, cuts: Sequence[bytes]) -> Rows:
    """Return the row of the first sighting of each pair of sets between decisions, pair by pair in order.

    An event stands where its first copy does, so of rows of one event the others do not count.
    """
    order, intervals = _intervals(links, cuts)
    people, _ = dense_numbers(words(links.column("set_id")))
    accounts, _ = dense_numbers(words(links.column("account_set_id")))
    pairs = people.astype(np.int64) * (int(accounts.max(initial=0)) + 1) + accounts
    messages = one(pc.dictionary_encode(links.column("message_id"))).indices.to_numpy()
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    order = np.lexsort((places, messages, pairs))
    order = order[_first_of_equal(pairs[order], messages[order])]
    order = order[np.lexsort((places[order], intervals[order], pairs[order]))]
    first: Rows = order[_first_of_equal(pairs[order], intervals[order])]
    return first


def _first_of_equal(*columns: npt.NDArray[Any]) -> Bools:
    """Return where a run of rows begins that are equal in all columns."""
    begins = np.ones(len(columns[0]), dtype=np.bool_)
    begins[1:] = np.any([np.diff(column) != 0 for column in columns], axis=0)
    return begins


def _intervals(links: pa.Table, cuts: Sequence[bytes]) -> tuple[Rows, Rows]:
    """Return rows in the order of their positions, and for each row its interval between `cuts`."""
    fixed = pa.binary(POSITION_BYTES)
    places = pa.chunked_array([pa.array(cuts, fixed), *links.column("position").cast(fixed).chunks], fixed)
    order = in_order(places)
    intervals = np.empty(len(places), dtype=np.int64)
    intervals[order] = np.cumsum(order < len(cuts))
    return order[order >= len(cuts)] - len(cuts), intervals[len(cuts) :]


def memberships(links: pa.Table, held: Standing) -> dict[bytes, MembershipRecord]:
    """Return the records of all pairs of sets, by both their ids."""
    chosen = links.take(pa.array(first_of_spells(links, held.leavings)))
    people, accounts = (siphash.to_bytes(words(chosen.column(name))) for name in ("set_id", "account_set_id"))
    spells = zip(*(chosen.column(name).to_pylist() for name in SpellRecord.__struct_fields__), strict=True)
    found: dict[bytes, MembershipRecord] = {}
    for person, account, spell in zip(people, accounts, spells, strict=True):
        found.setdefault(person + account, MembershipRecord([])).spells.append(SpellRecord(*spell))
    return found


def left(held: Standing) -> dict[bytes, list[bytes]]:
    """Return the decisions to leave that hold, by the identifiers of both."""
    holding = {b"".join(pair): ended.holding() for pair, ended in held.left.items()}
    return {pair: positions for pair, positions in holding.items() if positions}
