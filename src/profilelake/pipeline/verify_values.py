"""Hold what definitions are worth against the events: state, tables and journal must say the same."""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Final

import duckdb
import pyarrow as pa

from profilelake.audiences import definitions_now
from profilelake.audiences.definitions_now import Known
from profilelake.audiences.evaluating import ACCOUNTS_PER_SLICE, SLICE_PROFILES
from profilelake.audiences.life import COMPUTING, LIVE
from profilelake.audiences.loading import elsewhere, subjects
from profilelake.audiences.plan import AUDIENCES__SHOWN
from profilelake.landing.tables import EVENTS
from profilelake.pipeline import fold_announced
from profilelake.pipeline.differences import Difference, compare_rows
from profilelake.pipeline.progress import load_applied
from profilelake.semantics.identifiers import public_id
from profilelake.semantics.rules import COLLECTIONS, Collection
from profilelake.state.computed import DefinitionRecord, decode_computed
from profilelake.state.records import ProfileRecord, decode_profile
from profilelake.state.store import Db, Tx
from profilelake.traits.answers import answers
from profilelake.traits.fold import fold
from profilelake.traits.happened import COLUMNS
from profilelake.traits.merging import merge
from profilelake.traits.partials import Numbered, Partials
from profilelake.traits.steps import Plan

READ_ROWS: Final = 200_000
"""Events of the lake that are folded together."""
Values = Mapping[tuple[str, str], str]
"""What definitions are worth, by definition and public id of the profile."""


def values_wrong(connection: duckdb.DuckDBPyConnection, tx: Tx, workspace: str) -> list[Difference]:
    """Return where announced values are not what events say, or are told differently in different places.

    Definitions that are not live yet, and those that this program cannot compute, are left out of the first.
    """
    decided = fold_announced.decided(connection)
    records = definitions_now.records(tx, workspace)
    if not (decided or records):
        return []
    held = _held(tx, workspace, records)
    told = {(r.definition, r.profile_id): r.value for r in fold_announced.announced(connection, decided)}
    shown = {(row[0], row[1]): row[2] for row in connection.sql(AUDIENCES__SHOWN).fetchall()}
    wanted, live = _computed(connection, tx, workspace, records)
    return [
        *compare_rows("tables of computed values", shown, held),
        *compare_rows("journal of computed values", told, held),
        *compare_rows(
            "computed values", {place: value for place, value in held.items() if place[0] in live}, wanted
        ),
    ]


def _held(tx: Tx, workspace: str, records: Mapping[str, DefinitionRecord]) -> Values:
    keys = {record.number: key for key, record in records.items()}
    heads = dict(tx.items(workspace, Db.COMPUTED))
    sets = tx.sets(workspace, heads)
    return {
        (keys[number], public_id(COLLECTIONS[sets[profile].collection], profile)): value.value
        for profile, body in heads.items()
        for number, value in decode_computed(body).values.items()
    }


def _computed(
    connection: duckdb.DuckDBPyConnection, tx: Tx, workspace: str, records: Mapping[str, DefinitionRecord]
) -> tuple[Values, set[str]]:
    """Return what live definitions must be worth at pipeline time, and which these are."""
    known = Known.of(definitions_now.held(tx, workspace))
    plan = tuple(
        planned
        for planned in known.plan
        if (record := records.get(planned.held.definition.key)) is not None
        and (record.status == LIVE or (record.status == COMPUTING and not record.sweeping))
    )
    if not plan:
        return {}, set()
    at = load_applied(tx, workspace, "").watermark
    steps = {step.digest: step for planned in plan for step in planned.steps.values()}
    numbered = [Numbered(number, step) for number, step in enumerate(steps.values(), 1)]
    numbers = {one.step.digest: one.number for one in numbered}
    names = ", ".join(COLUMNS)
    events = connection.table(EVENTS.name).select(names).to_arrow_reader(READ_ROWS)
    schema = pa.schema([EVENTS.schema().field(name) for name in COLUMNS])
    parts = (fold(pa.Table.from_batches([part]).cast(schema), numbered, at=at) for part in events)
    partials: Partials = reduce(merge, parts, Partials())
    found: dict[tuple[str, str], str] = {}
    for collection in COLLECTIONS:
        mine: Plan = tuple(planned for planned in plan if planned.held.definition.target == collection)
        for profiles in _slices(tx, workspace, collection) if mine else ():
            computed = tx.decoded(workspace, Db.COMPUTED, profiles, decode_computed)
            whole, _ = subjects(
                tx, workspace, profiles, mine, collection, elsewhere(known, records), computed
            )
            ids = [public_id(collection, key) for key in profiles]
            for key, answer in answers(mine, numbers, partials, whole, at).items():
                for profile_id, value in zip(ids, answer.values.to_pylist(), strict=True):
                    if value is not None:
                        found[key, profile_id] = value
    return found, {planned.held.definition.key for planned in plan}


def _slices(tx: Tx, workspace: str, collection: Collection) -> Iterator[dict[bytes, ProfileRecord]]:
    most = SLICE_PROFILES if collection == "users" else ACCOUNTS_PER_SLICE
    profiles: dict[bytes, ProfileRecord] = {}
    for key, value in tx.items(workspace, Db.PROFILE):
        record = decode_profile(value)
        if COLLECTIONS[record.collection] != collection:
            continue
        profiles[key] = record
        if len(profiles) == most:
            yield profiles
            profiles = {}
    if profiles:
        yield profiles
