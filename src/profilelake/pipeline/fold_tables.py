"""The current tables that the facts in the lake say, whole, from a `Fold`.

Columns only: nothing here is done profile by profile in Python.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from profilelake.identity.problem import CAUSES, rules_by_strength
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP
from profilelake.kernels import siphash
from profilelake.pipeline.fold_facts import Rows, one, received_at
from profilelake.pipeline.fold_profiles import (
    Belongings,
    Owned,
    Said,
    Seen,
    Written,
    profiles_table,
    public_ids,
    repeated,
    slots,
    taken,
)
from profilelake.pipeline.fold_statements import Members, last_statements
from profilelake.pipeline.rebuild import Fold
from profilelake.profiles.tables import PROFILES


def tables(folded: Fold) -> dict[str, pa.Table]:
    """Return the whole current tables of one collection, by name."""
    founding = folded.facts.set_ids[folded.resolution.founding_set]
    names = public_ids(folded.collection, founding)
    return {
        SET_MAP.name: _set_map(folded, names),
        IDENTIFIERS.name: _identifiers(folded),
        IDENTITY_MAP.name: _identity_map(folded, names),
        IDENTITY_REFUSALS.name: _identity_refusals(folded, names),
        PROFILES.name: _profiles(folded, founding),
    }


def whole_tables(folds: Sequence[Fold]) -> dict[str, pa.Table]:
    """Return the current tables of all collections, by name."""
    parts = [tables(folded) for folded in folds]
    return {name: pa.concat_tables([part[name] for part in parts]) for name in parts[0]}


def _set_map(folded: Fold, names: pa.Array) -> pa.Table:
    ids = folded.facts.set_ids
    return pa.table(
        [
            siphash.to_arrow(ids),
            repeated(folded.collection, len(ids), pa.string()),
            taken(siphash.to_arrow(folded.facts.identifiers.ids), folded.anchor_identifiers()),
            taken(names, folded.resolution.set_profile),
            taken(names, folded.resolution.set_first_profile),
            slots(ids),
        ],
        schema=SET_MAP.schema(),
    )


def _identifiers(folded: Fold) -> pa.Table:
    schema = IDENTIFIERS.schema()
    known = folded.facts.identifiers
    columns = ["first_position", "first_message_id", "first_source_id"]
    seen = folded.facts.sightings.select(columns).take(pa.array(folded.facts.first_seen()))
    return pa.table(
        [
            siphash.to_arrow(known.ids),
            repeated(folded.collection, len(known.ids), pa.string()),
            known.types,
            known.values,
            seen.column("first_source_id"),
            seen.column("first_message_id"),
            pa.array(received_at(seen.column("first_position"))).cast(schema.field("created_at").type),
            seen.column("first_position").cast(schema.field("position").type),
            slots(known.ids),
        ],
        schema=schema,
    )


def _identity_map(folded: Fold, names: pa.Array) -> pa.Table:
    owned = np.flatnonzero(folded.owners >= 0)
    ids = folded.facts.identifiers.ids[owned]
    return pa.table(
        [
            siphash.to_arrow(ids),
            repeated(folded.collection, len(owned), pa.string()),
            taken(names, folded.owners[owned]),
            slots(ids),
        ],
        schema=IDENTITY_MAP.schema(),
    )


def _identity_refusals(folded: Fold, names: pa.Array) -> pa.Table:
    schema, resolution = IDENTITY_REFUSALS.schema(), folded.resolution
    listed = schema.field("refused").type
    # In the order in which they happened inside each set, which may have several entries.
    order = np.argsort(resolution.refusal_set, kind="stable")
    rows, starts = np.unique(resolution.refusal_set[order], return_index=True)
    known = folded.facts.identifiers
    refused_rows = folded.by_identifier.ident_row[resolution.refusal_ident[order]]
    causes = pa.array([CAUSES.get(code) for code in range(max(CAUSES) + 1)], pa.string())
    types = pa.array([rule.type for rule in rules_by_strength(folded.rules, folded.collection)], pa.string())
    refused = pa.StructArray.from_arrays(
        [
            siphash.to_arrow(known.ids[refused_rows]),
            one(known.types.take(pa.array(refused_rows))),
            taken(names, folded.refusal_profile[order]),
            causes.take(pa.array(resolution.refusal_cause[order])),
            taken(types, resolution.refusal_type[order]),
        ],
        fields=list(listed.value_type),
    )
    ids = folded.facts.set_ids[rows]
    offsets = pa.array(np.append(starts, len(order)), pa.int32())
    return pa.table(
        [
            siphash.to_arrow(ids),
            repeated(folded.collection, len(rows), pa.string()),
            pa.ListArray.from_arrays(offsets, refused, type=listed),
            repeated(folded.rules.version, len(rows), pa.int32()),
            slots(ids),
        ],
        schema=schema,
    )


def _profiles(folded: Fold, founding: siphash.Words) -> pa.Table:
    return profiles_table(belongings(folded, founding))


def belongings(folded: Fold, founding: siphash.Words) -> Belongings:
    """Return what belongs to the profiles that live."""
    facts = folded.facts
    alive = np.flatnonzero(folded.resolution.survivor == np.arange(len(founding)))
    # The last place stands for the number of nobody, -1.
    place = np.full(len(founding) + 1, -1, dtype=np.int64)
    place[alive] = np.arange(len(alive))
    profile = place[folded.resolution.set_profile]
    mine = np.flatnonzero(profile >= 0)
    owner = place[folded.owners]
    owned = np.flatnonzero(owner >= 0)
    writer = profile[facts.traits.column("row").to_numpy()]
    written = np.flatnonzero(writer >= 0)
    return Belongings(
        folded.collection,
        founding[alive],
        Seen(
            profile[mine],
            received_at(facts.sightings.column("first_position"))[facts.first_sighting[mine]],
            received_at(facts.sightings.column("last_position"))[facts.last_sighting[mine]],
            facts.events[mine],
        ),
        Owned(
            owner[owned],
            facts.identifiers.types.take(pa.array(owned)),
            facts.identifiers.values.take(pa.array(owned)),
        ),
        Written(
            writer[written],
            facts.traits if len(written) == len(writer) else facts.traits.take(pa.array(written)),
        ),
        _said(folded, profile),
    )


def _said(folded: Fold, profile: Rows) -> Said | None:
    facts = folded.facts
    if not facts.statements.num_rows:
        return None
    sizes = np.diff(facts.offsets)
    members = Members(np.repeat(np.arange(len(sizes)), sizes), facts.numbers, facts.identifiers.types)
    return Said(last_statements(facts.statements), profile, members, folded.policy)
