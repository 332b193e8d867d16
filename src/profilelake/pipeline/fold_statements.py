"""What sets and profiles allow, from the statements in the lake, all at once.

`semantics.consent` says what it means; here everything is columns with numbers for sets, categories
and identifiers.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.pipeline.fold_facts import Bools, Numbers, Rows, position_words
from profilelake.semantics.consent import DEVICE_TYPES, Policy
from profilelake.state.records import ConsentRecord


@dataclass(frozen=True, slots=True)
class Statements:
    """The last statement of each set that made any.

    `sets` are their rows, ascending, and `ranks` their order. Statement s stands in row `rows[s]` of
    `writes`. Its set knows the category `categories[known_category[k]]` for each k with
    `known_statement[k] == s`; `allowed[k]` says whether it is allowed.
    """

    writes: pa.Table
    sets: Rows
    ranks: Rows
    rows: Rows
    categories: pa.Array
    known_statement: Rows
    known_category: Rows
    allowed: Bools

    def records(self, set_keys: list[bytes]) -> dict[bytes, ConsentRecord]:
        """Return what the online state must hold, by set."""
        columns = ("timestamp", "position", "source_id", "message_id")
        chosen = self.writes.select(columns).take(pa.array(self.rows))
        told = zip(*(column.to_pylist() for column in chosen.columns), strict=True)
        found = [
            ConsentRecord(timestamp, position, source_id, message_id, {})
            for timestamp, position, source_id, message_id in told
        ]
        names = self.categories.take(pa.array(self.known_category)).to_pylist()
        for statement, name, allowed in zip(
            self.known_statement.tolist(), names, self.allowed.tolist(), strict=True
        ):
            found[statement].allowed[name] = allowed
        return {set_keys[row]: record for row, record in zip(self.sets.tolist(), found, strict=True)}


def last_statements(writes: pa.Table) -> Statements:
    """Return the last statement of each set; `writes` have the `row` of their set."""
    row = writes.column("row").to_numpy()
    ranks = _ranks(writes)
    sets, of_write = np.unique(row, return_inverse=True)
    last = np.zeros(len(sets), dtype=np.int64)
    np.maximum.at(last, of_write, ranks)
    saying = np.flatnonzero(ranks == last[of_write])
    rows = np.zeros(len(sets), dtype=np.int64)
    rows[of_write[saying]] = saying
    column = writes.column("category")
    categories = pa.array(sorted(pc.unique(column.drop_null()).to_pylist()), pa.string())
    category = pc.index_in(column, value_set=categories)
    named = np.flatnonzero(category.is_valid().to_numpy())
    codes = np.zeros(len(row), dtype=np.int64)
    codes[named] = category.drop_null().to_numpy()
    pairs = of_write.astype(np.int64) * max(len(categories), 1) + codes
    known = np.unique(pairs[named])
    allowing = np.intersect1d(saying, np.flatnonzero(writes.column("allowed").to_numpy()))
    return Statements(
        writes=writes,
        sets=sets,
        ranks=last,
        rows=rows,
        categories=categories,
        known_statement=known // max(len(categories), 1),
        known_category=known % max(len(categories), 1),
        allowed=np.isin(known, pairs[allowing]),
    )


def _ranks(writes: pa.Table) -> Rows:
    """Return the place of each statement in the order of all, from 0; equal for rows of one statement."""
    keys = [*position_words(writes.column("position")).T[::-1], writes.column("timestamp").to_numpy()]
    order = np.lexsort(keys)
    rises = np.zeros(len(order), dtype=np.bool_)
    for key in keys:
        rises[1:] |= key[order][1:] != key[order][:-1]
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.cumsum(rises)
    return ranks


@dataclass(frozen=True, slots=True)
class Members:
    """The identifiers of sets: member m is the identifier `idents[m]` of the set in row `sets[m]`.

    `types` are those of the identifiers, by number.
    """

    sets: Rows
    idents: Numbers
    types: pa.Array


def allowed_by_profile(
    statements: Statements, profile: Rows, members: Members, policy: Policy
) -> tuple[Rows, pa.Array, pa.Array]:
    """Return what profiles allow: rows of profile (ascending), category (ascending) and value.

    `profile` has the profile of each set, -1 for none.
    """
    owner = profile[statements.sets]
    holds = _holding(statements, owner, members, policy) & (owner >= 0)
    size = max(len(statements.categories), 1)
    pairs = owner[statements.known_statement] * size + statements.known_category
    owned = owner[statements.known_statement] >= 0
    known = np.unique(pairs[owned])
    telling = owned & holds[statements.known_statement] & statements.allowed
    allowing = np.bincount(np.searchsorted(known, pairs[telling]), minlength=len(known))
    holding = np.bincount(owner[holds], minlength=int(owner.max(initial=-1)) + 1)
    profiles = known // size
    value = np.where(allowing == holding[profiles], 1, 0)
    if policy == "conflict":
        value[(allowing > 0) & (allowing < holding[profiles])] = 2
    texts = pa.array(["false", "true", "conflict"]).take(pa.array(value))
    return profiles, statements.categories.take(pa.array(known % size)), texts


def _holding(statements: Statements, owner: Rows, members: Members, policy: Policy) -> Bools:
    """Return which statements give way to no later one of their profile."""
    statement, tie = _ties(statements, members, policy)
    pairs = owner[statement] * (int(tie.max(initial=0)) + 1) + tie
    _, group = np.unique(pairs, return_inverse=True)
    last = np.zeros(int(group.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(last, group, statements.ranks[statement])
    holds = np.ones(len(statements.sets), dtype=np.bool_)
    holds[statement[last[group] != statements.ranks[statement]]] = False
    return holds


def _ties(statements: Statements, members: Members, policy: Policy) -> tuple[Rows, Rows]:
    """Return what makes statements be of one place, as rows of statement and tie; tie 0 is that of no other."""
    count = len(statements.sets)
    everything = np.arange(count)
    if policy == "latest":
        return everything, np.zeros(count, dtype=np.int64)
    at = np.searchsorted(statements.sets, members.sets)
    said = np.zeros(len(members.sets), dtype=np.bool_)
    inside = at < count
    said[inside] = statements.sets[at[inside]] == members.sets[inside]
    if policy == "most_restrictive":
        devices = pc.is_in(members.types, value_set=pa.array(sorted(DEVICE_TYPES)))
        said &= np.asarray(devices, dtype=np.bool_)[members.idents]
    statement, tie = at[said], members.idents[said].astype(np.int64) + 1
    without = np.setdiff1d(everything, statement)
    return np.append(statement, without), np.append(tie, np.zeros(len(without), dtype=np.int64))
