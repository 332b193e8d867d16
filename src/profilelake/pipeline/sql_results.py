"""The result of a SQL definition, held against what profiles had by it, and the difference applied.

A profile that the result no longer has loses its value, or its rows of an entity. Each part is a micro-batch of
its own, so that events do not wait for a large result.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, takewhile
from typing import Final

import msgspec

from profilelake.audiences import definitions_now
from profilelake.audiences.announcing import Announcing, timer_position
from profilelake.audiences.life import WITHDRAWN
from profilelake.audiences.sql_contract import SqlValues
from profilelake.errors import Conflict
from profilelake.kernels.one_hash import siphash128
from profilelake.ops.failpoints import reach
from profilelake.pipeline.progress import PROGRESS, load_applied
from profilelake.semantics.definitions import Held
from profilelake.semantics.identifiers import ident_prefix, normalised, parse_public_id
from profilelake.semantics.rules import COLLECTIONS, Collection, IdentityRules
from profilelake.state.computed import (
    ComputedRecord,
    DefinitionRecord,
    decode_computed,
    entity_rows_key,
    put_computed,
)
from profilelake.state.heads import decode_set_head
from profilelake.state.records import NOBODY
from profilelake.state.store import Db, State, Tx

LOOKED_UP: Final = 10_000
"""Ids that are looked up in one read transaction."""
PART: Final = 2_000
"""Profiles that one micro-batch changes; the others of the pipeline wait that long."""
SCANNED: Final = 50_000
"""Profiles that one read transaction goes through."""
CAUSE: Final = "sql"


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a result: its rows, ids that nobody has, and profiles that are worth something else now."""

    rows: int
    unknown: int
    changed: int


def apply_result(
    state: State,
    workspace: str,
    held: Held,
    values: SqlValues,
    *,
    identifier_key: bytes,
    rules: IdentityRules,
    at: int,
) -> Applied:
    """Let profiles be worth what a query said at a time (microseconds), and announce what changed.

    Where two ids are one profile, the greater one counts. An id that nobody has is left out: its profile has
    the value when the query runs after its first event. A crash leaves a part undone, which the next run does.

    Raises:
        Conflict: the definition is another one by now.
    """
    wanted: dict[bytes, str] = {}
    unknown = 0
    target = held.definition.target
    for start in range(0, len(values.ids), LOOKED_UP):
        part = slice(start, start + LOOKED_UP)
        with state.read(workspace) as tx:
            found = _profiles(tx, workspace, target, values.id_type, values.ids[part], identifier_key, rules)
        for profile, value in zip(found, values.values[part], strict=True):
            if profile is None:
                unknown += 1
            elif held.definition.kind == "entity" and profile in wanted:
                wanted[profile] = f"{wanted[profile][:-1]},{value[1:]}"
            else:
                wanted[profile] = value
    number = _number(state, workspace, held)
    is_entity = held.definition.kind == "entity"
    before = _entity_rows(state, workspace, number) if is_entity else _values(state, workspace, number)
    apply = _apply_rows if is_entity else _apply_values
    changed = 0
    for part_of in _parts(before, wanted):
        changed += apply(state, workspace, held, part_of, at)
        reach("sql.applied")
    return Applied(len(values.ids), unknown, changed)


def forget_rows(state: State, workspace: str) -> bool:
    """Forget rows of entities that were dropped or disabled, as many as one transaction may; tell whether any went."""
    with state.read(workspace) as tx:
        if not tx.count(workspace, Db.ENTITY) or not _rows_over(tx, workspace, 1):
            return False
    with state.write() as tx:
        for key in _rows_over(tx, workspace, PART):
            tx.delete(workspace, Db.ENTITY, key)
    return True


def _rows_over(tx: Tx, workspace: str, most: int) -> list[bytes]:
    """Return keys of rows that no definition is worth any more."""
    over = (r.number for r in definitions_now.records(tx, workspace).values() if r.status in WITHDRAWN)
    starts = [entity_rows_key(number, b"") for number in over]
    rows = (takewhile(partial(_begins, start), tx.keys(workspace, Db.ENTITY, start)) for start in starts)
    return list(islice(chain.from_iterable(rows), most))


def _begins(start: bytes, key: bytes) -> bool:
    return key.startswith(start)


def _profiles(
    tx: Tx,
    workspace: str,
    target: Collection,
    id_type: str,
    ids: list[str],
    identifier_key: bytes,
    rules: IdentityRules,
) -> list[bytes | None]:
    """Return the profile of each id, None where there is none."""
    if id_type == "profile_id":
        parsed = [parse_public_id(id) for id in ids]
        keys = [b"" if one is None or one[0] != target else one[1] for one in parsed]
        sets = tx.sets(workspace, {key for key in keys if key})
        return [sets[key].profile or None if key in sets else None for key in keys]
    prefix = ident_prefix(target, id_type)
    hashed = [
        siphash128(identifier_key, prefix + normalised(rules, target, id_type, id).encode()) for id in ids
    ]
    idents = tx.idents(workspace, set(hashed))
    return [
        idents[key].profile if key in idents and idents[key].profile != NOBODY else None for key in hashed
    ]


def _parts(
    before: Iterable[tuple[bytes, str]], wanted: Mapping[bytes, str]
) -> Iterator[dict[bytes, str | None]]:
    """Yield which profiles are to have what else than `before`, at most `PART` at a time."""
    differing: dict[bytes, str | None] = {}
    seen: set[bytes] = set()
    for key, value in before:
        seen.add(key)
        if wanted.get(key) != value:
            differing[key] = wanted.get(key)
    differing |= {key: value for key, value in wanted.items() if key not in seen}
    ordered = iter(sorted(differing.items()))
    while part := dict(islice(ordered, PART)):
        yield part


def _values(state: State, workspace: str, number: int) -> Iterator[tuple[bytes, str]]:
    """Yield what profiles are worth by a definition."""
    for key, value in _items(state, workspace, Db.COMPUTED, b""):
        held = decode_computed(value).values.get(number)
        if held is not None:
            yield key, held.value


def _entity_rows(state: State, workspace: str, number: int) -> Iterator[tuple[bytes, str]]:
    """Yield the rows of an entity that profiles are linked with."""
    start = entity_rows_key(number, b"")
    for key, value in _items(state, workspace, Db.ENTITY, start):
        if not key.startswith(start):
            return
        yield key[len(start) :], value.decode()


def _items(state: State, workspace: str, db: Db, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield all entries from a key on, `SCANNED` in one read transaction, so that none is long."""
    following = start
    while True:
        with state.read(workspace) as tx:
            rows = list(islice(tx.items(workspace, db, following), SCANNED))
        yield from rows
        if len(rows) < SCANNED:
            return
        following = rows[-1][0] + b"\0"


def _number(state: State, workspace: str, held: Held) -> int:
    with state.read(workspace) as tx:
        return definitions_now.records(tx, workspace)[held.definition.key].number


def _apply_values(state: State, workspace: str, held: Held, part: Mapping[bytes, str | None], at: int) -> int:
    """Let profiles be worth what a query said, and announce it; return how many."""
    definition = held.definition
    with state.write() as tx:
        record = _record(tx, workspace, held)
        applied = load_applied(tx, workspace, "")
        applied.sequence += 1
        now = max(at, applied.watermark)
        announcing = Announcing(tx, workspace, applied.sequence, now)
        known = tx.profiles(workspace, part)
        computed = tx.decoded(workspace, Db.COMPUTED, part, decode_computed)
        before: dict[bytes, int] = {}
        items: dict[bytes, ComputedRecord] = {}
        for key, value in part.items():
            one = computed.get(key) or ComputedRecord(0, {})
            if key not in known if value is not None else record.number not in one.values:
                continue  # merged away meanwhile; the next run finds who has the id now
            before[key] = one.due
            collection = known[key].collection if key in known else COLLECTIONS.index(definition.target)
            announcing.change(
                one,
                number=record.number,
                definition=definition.key,
                kind=definition.kind,
                version=held.version,
                collection=COLLECTIONS[collection],
                profile=key,
                value=value,
                told=value,
                cause=CAUSE,
                position=timer_position(at, key),
            )
            # What other definitions say of the profile may hang on this one: its time has come.
            one.due = now
            items[key] = one
        put_computed(tx, workspace, items, before)
        announcing.flush()
        members = record.members + announcing.members[record.number]
        definitions_now.put_records(
            tx, workspace, {definition.key: msgspec.structs.replace(record, members=members)}
        )
        tx.put_meta(workspace, PROGRESS, applied)
        return announcing.count


def _apply_rows(state: State, workspace: str, held: Held, part: Mapping[bytes, str | None], at: int) -> int:
    """Keep the rows that profiles are linked with by now, and have these evaluated; return how many."""
    with state.write() as tx:
        number = _record(tx, workspace, held).number
        for key, rows in part.items():
            place = entity_rows_key(number, key)
            if rows is None:
                tx.delete(workspace, Db.ENTITY, place)
            else:
                tx.put(workspace, Db.ENTITY, place, rows.encode())
        applied = load_applied(tx, workspace, "")
        now = max(at, applied.watermark)
        # Of a profile that lives on in another one, that other is to be evaluated.
        heads = tx.decoded(workspace, Db.SET, part, decode_set_head)
        living = {heads[key].profile if key in heads else key for key in part} - {NOBODY}
        computed = tx.decoded(workspace, Db.COMPUTED, living, decode_computed)
        before = {key: one.due for key, one in computed.items()}
        items = {key: computed.get(key) or ComputedRecord(0, {}) for key in living}
        for one in items.values():
            one.due = now
        put_computed(tx, workspace, items, before)
    return len(part)


def _record(tx: Tx, workspace: str, held: Held) -> DefinitionRecord:
    record = definitions_now.records(tx, workspace).get(held.definition.key)
    if record is None or record.version != held.version or record.status in WITHDRAWN:
        raise Conflict(f"running the query of {held.definition.key}: it has changed meanwhile; it runs again")
    return record
