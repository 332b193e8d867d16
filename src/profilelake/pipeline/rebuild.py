"""What identity and profiles must be, from the facts in the lake alone.

The batch form of identity: the same kernel and rules as the live one, on everything at once.
`pipeline.fold_tables` and `pipeline.fold_state` say it as current tables and as online state, which
`verify` holds the live result against and `rebuild` puts in place.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profilelake.identity import facts
from profilelake.identity.degree import Degrees, high_degrees
from profilelake.identity.facts import Fact, Standing
from profilelake.identity.plan import IDENTITY__FACTS
from profilelake.identity.problem import Cleaned, Translated, is_among, numbered_problem
from profilelake.kernels import identity as kernel
from profilelake.kernels import siphash
from profilelake.pipeline.fold_facts import Bools, Facts, Numbers, Rows, read, received_at
from profilelake.semantics.consent import DEFAULT_POLICY, Policy
from profilelake.semantics.identity import common_window
from profilelake.semantics.rules import Collection, IdentityRules


@dataclass(frozen=True, slots=True)
class Entries:
    """What the kernel took: each set once (once in each window), in position order.

    `sets[e]` is the row of the set of entry e; sets that only retracted events show have none.
    `windows[e]` is the number of its window, 0 where rules have none; `sightings[e]` is its row there.
    """

    sets: Rows
    windows: Rows
    sightings: Rows


@dataclass(frozen=True)
class Fold:
    """Identity and profiles of one collection, as of the facts that were read.

    `by_identifier` (whose `ident_row` is a row of `facts.identifiers`) and `resolution` are by rows of
    sets, whatever `entries` there were: a set's profile is that of its anchor, its first profile that of
    its first entry. `refusal_profile` has for each refusal the profile that its entry ended in.
    `owners[i]` is the profile of identifier i, -1 for none, `linked_at[i]` when it came to have one (in
    microseconds, 0 unless rules have windows). `degrees` are those that may be past the limit; their
    types are numbers into `types`, all types ever sent. `held` are the decisions in force, `policy` brings
    together what the sets of a profile say of consent.
    """

    facts: Facts
    held: Standing
    policy: Policy
    by_identifier: Translated
    entries: Entries
    resolution: kernel.Resolution
    refusal_profile: Numbers
    owners: Numbers
    linked_at: Rows
    types: pa.Array
    degrees: Degrees

    @property
    def rules(self) -> IdentityRules:
        """The rules in force."""
        return self.held.rules

    @property
    def collection(self) -> Collection:
        """Which collection this is."""
        return self.facts.collection

    @property
    def sets(self) -> pa.Table:
        """All that is known of each set, in columns."""
        return self.facts.sets

    @property
    def members(self) -> pa.Table:
        """The identifiers of sets, one row each, with the `row` of the set."""
        return self.facts.members

    @property
    def translated(self) -> Translated:
        """What `by_identifier` says, by rows of `members`."""
        known, numbers = self.by_identifier, self.facts.numbers
        cleaned = Cleaned(known.cleaned.type_code[numbers], known.cleaned.blocked[numbers])
        return Translated(known.problem, self.facts.first_rows[known.ident_row], cleaned)

    def anchors(self) -> Rows:
        """Return for each set the row of `members` of its anchor, -1 where nothing in it may link."""
        return _taken(self.facts.first_rows, self.anchor_identifiers())

    def anchor_identifiers(self) -> Rows:
        """Return for each set the identifier that is its anchor, -1 where nothing in it may link."""
        problem = self.by_identifier.problem
        anchors = np.full(len(problem.set_offsets) - 1, -1, dtype=np.int64)
        some = np.flatnonzero(np.diff(problem.set_offsets))
        anchors[some] = self.by_identifier.ident_row[problem.set_idents[problem.set_offsets[some]]]
        return anchors


def standing_of(connection: duckdb.DuckDBPyConnection, default_rules: IdentityRules) -> Standing:
    """Return the decisions that hold, from the table that keeps them all."""
    return facts.standing(decisions(connection), default_rules)


def decisions(connection: duckdb.DuckDBPyConnection) -> list[tuple[bytes, Fact]]:
    """Return all decisions ever made with their positions, in order."""
    rows = connection.sql(IDENTITY__FACTS).fetchall()
    return [(position, facts.decode(fact.encode())) for position, fact in rows]


def fold(
    connection: duckdb.DuckDBPyConnection,
    held: Standing,
    untrusted: frozenset[str] = frozenset(),
    policy: Policy = DEFAULT_POLICY,
) -> list[Fold]:
    """Resolve and fold everything the attached tables hold under `held`, collection by collection.

    `untrusted` are the sources whose sets quarantine nobody that a trusted source attests.
    """
    return [fold_facts(known, held, untrusted, policy) for known in read(connection, held)]


def fold_facts(
    known: Facts, held: Standing, untrusted: frozenset[str], policy: Policy = DEFAULT_POLICY
) -> Fold:
    """Return the fold of one collection's facts, read with the retractions of `held`."""
    types = pa.array(sorted(pc.unique(known.identifiers.types).to_pylist()), pa.string())
    degrees = degrees_of(known, types, untrusted, held.rules)
    met = known.identifiers.ids[degrees.ident]
    beyond = met[np.isin(degrees.ident, degrees.beyond(held.rules.degree_max))]
    apart = np.concatenate([beyond[~is_among(beyond, _words(held.released))], _words(held.quarantined)])
    return fold_apart(known, held, apart, types, degrees, policy)


def fold_apart(
    known: Facts,
    held: Standing,
    apart: siphash.Words,
    types: pa.Array,
    degrees: Degrees,
    policy: Policy = DEFAULT_POLICY,
) -> Fold:
    """Return the fold where it is known which identifiers are `apart`, by degree or decision: they link nobody."""
    identifiers = known.identifiers
    by_identifier = numbered_problem(
        known.offsets,
        known.numbers,
        identifiers,
        held.rules,
        known.collection,
        set_time=np.empty(0, dtype=np.int64),
        unlinks=_words(ident for one in held.unlinks for ident in _pairs(held, one)),
        quarantined=apart,
    )
    window = common_window(held.rules, known.collection)
    entries = _entries(known, window)
    problem = _problem_of_entries(known, by_identifier.problem, entries)
    found = kernel.resolve(problem)
    owners = np.full(len(identifiers.ids), -1, dtype=np.int32)
    owners[by_identifier.ident_row] = found.ident_profile
    linked_at = np.zeros(len(identifiers.ids), dtype=np.int64)
    if window is not None:
        linked_at[by_identifier.ident_row] = _linked_at(problem, found)
    return Fold(
        facts=known,
        held=held,
        policy=policy,
        by_identifier=by_identifier,
        entries=entries,
        resolution=_by_sets(found, by_identifier.problem, entries),
        refusal_profile=found.set_first_profile[found.refusal_set],
        owners=owners,
        linked_at=linked_at,
        types=types,
        degrees=degrees,
    )


# ---- decisions ---------------------------------------------------------------------------------


def degrees_of(known: Facts, types: pa.Array, untrusted: frozenset[str], rules: IdentityRules) -> Degrees:
    """Return the degrees in the sets that count of the identifiers that may be past the limit."""
    codes = pc.index_in(known.identifiers.types, value_set=types).to_numpy(zero_copy_only=False)
    offsets, numbers, trusted = known.offsets, known.numbers, trusted_sets(known, untrusted)
    if not known.counts.all():
        sizes = np.diff(offsets)
        offsets = np.append(0, np.cumsum(sizes[known.counts]))
        numbers, trusted = numbers[np.repeat(known.counts, sizes)], trusted[known.counts]
    return high_degrees(offsets, codes.astype(np.int32), numbers, trusted, rules.degree_max)


def trusted_sets(known: Facts, untrusted: frozenset[str]) -> Bools:
    """Return which sets were first seen in an event of a source that strangers cannot write to."""
    if not untrusted:
        return np.ones(len(known.set_ids), dtype=np.bool_)
    open_to_strangers = pc.is_in(
        known.sightings.column("first_source_id"), value_set=pa.array(sorted(untrusted), pa.string())
    )
    trusted: Bools = ~np.array(open_to_strangers, dtype=np.bool_)[known.first_sighting]
    return trusted


def _pairs(held: Standing, one: bytes) -> Iterable[bytes]:
    """Return the pairs of an identifier with those after it: each pair stands in both directions."""
    for other in held.unlinks[one]:
        if one < other:
            yield from (one, other)


def _words(ids: Iterable[bytes]) -> siphash.Words:
    return np.frombuffer(b"".join(ids), dtype=np.uint64).reshape(-1, 2)


# ---- what the kernel takes ---------------------------------------------------------------------


def _entries(known: Facts, window: int | None) -> Entries:
    """Return each set that counts at its first sighting, in each window where there are any."""
    if window is None:
        chosen = np.flatnonzero(known.counts)
        return Entries(chosen, np.zeros(len(chosen), dtype=np.int64), known.first_sighting[chosen])
    positions = known.sightings.column("first_position").take(pa.array(known.counted))
    windows = received_at(positions) // window
    # Positions ascend, so the first of equal pairs is the first sighting.
    pairs = np.column_stack([known.counted_sets, windows])
    first = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    return Entries(known.counted_sets[first], windows[first], known.counted[first])


def _problem_of_entries(known: Facts, problem: kernel.Problem, entries: Entries) -> kernel.Problem:
    """Return the problem of resolving these entries of its sets."""
    if problem.type_window.any():
        positions = known.sightings.column("first_position").take(pa.array(entries.sightings))
        problem = replace(problem, set_time=received_at(positions))
    sets = len(problem.set_offsets) - 1
    if len(entries.sets) == sets and (entries.sets == np.arange(sets)).all():
        return problem
    starts, sizes = problem.set_offsets[entries.sets], np.diff(problem.set_offsets)[entries.sets]
    offsets = np.append(0, np.cumsum(sizes))
    rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
    return replace(problem, set_offsets=offsets, set_idents=problem.set_idents[rows])


# ---- what the kernel found ---------------------------------------------------------------------


def _by_sets(found: kernel.Resolution, sets: kernel.Problem, entries: Entries) -> kernel.Resolution:
    """Say by rows of sets what was found by entries."""
    count = len(sets.set_offsets) - 1
    profile, first_profile = (np.full(count, -1, dtype=np.int32) for _ in range(2))
    some = np.flatnonzero(np.diff(sets.set_offsets))
    # Also a set that is no evidence belongs to its anchor.
    profile[some] = found.ident_profile[sets.set_idents[sets.set_offsets[some]]]
    # Backwards, so that of several entries of a set the first one stays.
    first_profile[entries.sets[::-1]] = found.set_first_profile[::-1]
    rows = entries.sets.astype(np.int32)
    return replace(
        found,
        set_profile=profile,
        set_first_profile=first_profile,
        founding_set=rows[found.founding_set],
        merge_set=rows[found.merge_set],
        refusal_set=rows[found.refusal_set],
    )


def _linked_at(problem: kernel.Problem, found: kernel.Resolution) -> Rows:
    """Return when each identifier of the problem came to be owned at all, 0 for never."""
    linked_at = np.zeros(len(problem.ident_type), dtype=np.int64)
    entry = np.repeat(np.arange(len(problem.set_offsets) - 1), np.diff(problem.set_offsets))
    refused = found.refusal_set.astype(np.int64) * len(linked_at) + found.refusal_ident
    joined = np.flatnonzero(~np.isin(entry * len(linked_at) + problem.set_idents, refused))
    # Backwards, so that the earliest stays.
    linked_at[problem.set_idents[joined][::-1]] = problem.set_time[entry[joined]][::-1]
    return linked_at


def _taken(values: Rows, rows: Rows) -> Rows:
    return np.where(rows < 0, -1, values[rows]) if len(values) else rows
