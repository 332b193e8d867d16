"""Rows of given keys leave every table that holds them.

The primitive below erasure: it knows keys, tables and files, not persons and not why. Tasks look into the
files that may hold a key and write those anew that do; one snapshot for each table takes them. What was there
is in older snapshots until they are expired and their files swept.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.errors import Conflict, Invalid
from profilelake.kernels import siphash
from profilelake.kernels.siphash import HASH_BYTES
from profilelake.lake.catalog import Lake
from profilelake.lake.handover import TableFiles
from profilelake.lake.progress import Progress
from profilelake.lake.rewriting import Held, Mask, Rewritten, rewrite
from profilelake.lake.sql import LiveFile
from profilelake.lake.storage import Storage
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import TableDef
from profilelake.ops.failpoints import reach
from profilelake.plans.committing import with_files

KEYS_MAX: Final = 1_000_000
"""Keys that leave at once: each task is sent all of them."""
_HEX: Final = re.compile(rf"(?=([0-9a-f]{{{2 * HASH_BYTES}}}))")
"""Every place in a text where an id may begin."""
ATTEMPTS_MAX: Final = 5
"""How often a table is looked at again because its files were compacted meanwhile."""

Kind: TypeAlias = Literal["sets", "idents", "profiles", "messages", "hex"]
COLUMNS: Final[Mapping[str, Kind]] = {
    "set_id": "sets",
    "account_set_id": "sets",
    "ident_id": "idents",
    "anchor": "idents",
    "identifiers": "idents",
    "refused": "idents",
    "profile_id": "profiles",
    "first_profile_id": "profiles",
    "from_profile_id": "profiles",
    "to_profile_id": "profiles",
    "segment_id": "profiles",
    "canonical_segment_id": "profiles",
    "message_id": "messages",
    "first_message_id": "messages",
    "last_message_id": "messages",
    "triggering_event_id": "messages",
    "fact": "hex",
}
"""Columns that hold keys, whatever their table. `identifiers` and `refused` are lists of structs with an
`ident_id` (the `identifiers` of profiles are text and told by `profile_id`); `fact` has ids in hex."""

Account = Callable[[TableDef, int, Progress], Progress]
"""From a table, how many of its rows go, and its progress, to the progress that says where they are counted now.
Erasure moves events from `in_lake` to `erased` here."""


class Keys(msgspec.Struct, frozen=True):
    """What is to go: ids one behind the other, profile ids, and hashes of message ids, which may name somebody."""

    sets: bytes = b""
    idents: bytes = b""
    profiles: list[str] = []
    messages: bytes = b""
    salt: bytes = b""

    @classmethod
    def of(
        cls,
        *,
        sets: Sequence[bytes] = (),
        idents: Sequence[bytes] = (),
        profiles: Sequence[str] = (),
        messages: Sequence[str] = (),
    ) -> "Keys":
        """Take keys as they are.

        Raises:
            Invalid: more than `KEYS_MAX`, or an id that is none.
        """
        count = len(sets) + len(idents) + len(profiles) + len(messages)
        if count > KEYS_MAX:
            raise Invalid(f"removing {count} keys: at most {KEYS_MAX} at once; remove them in parts")
        if any(len(key) != HASH_BYTES for key in (*sets, *idents)):
            raise Invalid(f"removing keys: ids of sets and identifiers have {HASH_BYTES} bytes")
        named = sorted(set(messages))
        # The same keys give the same salt, so that a command that is repeated is the same job.
        salt = hashlib.sha256("\0".join(named).encode()).digest()[:HASH_BYTES]
        hashed = siphash.hash_strings(salt, b"m", pa.chunked_array([pa.array(named, pa.string())]))
        return cls(
            sets=b"".join(sorted(set(sets))),
            idents=b"".join(sorted(set(idents))),
            profiles=sorted(set(profiles)),
            messages=b"".join(sorted(siphash.to_bytes(hashed))) if named else b"",
            salt=salt,
        )

    def digest(self) -> str:
        """Return what names these keys and tells none of them."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()

    def sorted_bytes(self, kind: Kind) -> list[bytes]:
        """Return the keys of a kind as files and row groups have them in their bounds."""
        if kind == "profiles":
            return [profile.encode() for profile in self.profiles]
        packed = {"sets": self.sets, "idents": self.idents}.get(kind, b"")
        return [packed[place : place + HASH_BYTES] for place in range(0, len(packed), HASH_BYTES)]

    def any_of(self, kind: Kind) -> bool:
        """Tell whether there are keys of a kind."""
        if kind == "hex":
            return bool(self.sets or self.idents)
        return bool(getattr(self, kind))


class Removed(msgspec.Struct, frozen=True):
    """What became of one table."""

    table: str
    files: int
    gone: int
    changed: int


@dataclass(frozen=True)
class _Holding:
    """Tells which rows hold a key, and have a value in one of the columns that are to lose theirs if any are."""

    keys: Keys
    kinds: Mapping[str, Kind]
    nulled: tuple[str, ...]

    @property
    def columns(self) -> Sequence[str]:
        return [*self.kinds, *(name for name in self.nulled if name not in self.kinds)]

    def may_hold(self, group: pq.RowGroupMetaData) -> bool:
        places = {group.column(place).path_in_schema: place for place in range(group.num_columns)}
        return any(self._may_hold(group, places.get(name), kind) for name, kind in self.kinds.items())

    def _may_hold(self, group: pq.RowGroupMetaData, place: int | None, kind: Kind) -> bool:
        known = None if place is None else group.column(place).statistics
        if known is None or not known.has_min_max or kind in ("messages", "hex"):
            return True
        return _between(self._bounded[kind], _as_bytes(known.min), _as_bytes(known.max))

    def __call__(self, rows: pa.Table, first: int) -> Mask:  # noqa: ARG002 - as in `Judge`
        mask = np.zeros(rows.num_rows, dtype=np.bool_)
        valued = np.zeros(rows.num_rows, dtype=np.bool_)
        for name in rows.column_names:
            column = rows.column(name).combine_chunks()
            if name in self.kinds:
                mask |= self._holding(column, self.kinds[name])
            if name in self.nulled:
                valued |= _numpy(pc.is_valid(column))
        return mask & valued if self.nulled else mask

    def _holding(self, column: pa.Array | pa.ChunkedArray, kind: Kind) -> Mask:
        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_list(values.type):
            mask = np.zeros(len(values), dtype=np.bool_)
            mask[pc.list_parent_indices(values).to_numpy()[self._in_struct(values.flatten())]] = True
            return mask
        if kind == "hex":
            return np.array([self._in_text(text) for text in values.to_pylist()], dtype=np.bool_)
        if kind == "messages":
            hashed = siphash.hash_strings(self.keys.salt, b"m", pa.chunked_array([values]))
            found = pc.and_(pc.is_valid(values), pc.is_in(siphash.to_arrow(hashed), self._values(kind)))
        else:
            found = pc.is_in(values, self._values(kind))
        return _numpy(found)

    def _in_text(self, text: str | None) -> bool:
        """Tell whether a key is anywhere in a text. Texts are decisions of people, so there are few."""
        return any(found[1] in self._hex for found in _HEX.finditer(text or ""))

    def _in_struct(self, items: pa.StructArray) -> Mask:
        mask = _numpy(pc.is_in(items.field("ident_id"), self._values("idents")))
        if items.type.get_field_index("against_profile_id") >= 0:
            mask |= _numpy(pc.is_in(items.field("against_profile_id"), self._values("profiles")))
        return mask

    def _values(self, kind: Kind) -> pa.Array:
        if kind == "profiles":
            return pa.array(self.keys.profiles, pa.string())
        packed: bytes = getattr(self.keys, kind)
        return pa.Array.from_buffers(
            pa.binary(HASH_BYTES), len(packed) // HASH_BYTES, [None, pa.py_buffer(packed)]
        )

    @cached_property
    def _bounded(self) -> dict[Kind, list[bytes]]:
        return {kind: self.keys.sorted_bytes(kind) for kind in ("sets", "idents", "profiles")}

    @cached_property
    def _hex(self) -> frozenset[str]:
        ids = [*self.keys.sorted_bytes("sets"), *self.keys.sorted_bytes("idents")]
        return frozenset(key.hex() for key in ids)


@dataclass(frozen=True)
class _Removing:
    """The work: from a file to what it has become; nothing where it holds no key."""

    storage: Storage
    files: TableFiles
    holding: _Holding

    def __call__(self, held: Held) -> bytes:
        done = rewrite(self.files, self.storage, held, self.holding, self.holding.nulled)
        return b"" if done is None else msgspec.msgpack.encode(done)


def remove(
    engine: Engine,
    storage: Storage,
    lake: Lake,
    workspace: str,
    definitions: Sequence[TableDef],
    keys: Keys,
    *,
    nulled: Mapping[str, Sequence[str]] | None = None,
    account: Account = lambda _, __, held: held,
) -> list[Removed]:
    """Let no row of these tables hold one of the keys; return what became of each table that held any.

    Of the tables named in `nulled` such rows stay, without values in the columns given there. May be
    stopped anywhere and repeated: a table holds all of its old rows or none of them.

    Raises:
        Invalid: a column cannot be without a value, or is none of its table.
        Conflict: files are compacted faster than they are rewritten, or another process took the job over; what was
            committed stays.
        Corrupt, Unavailable: as `rewriting.rewrite`, or another process does the same; what was committed stays.
    """
    found = []
    for definition in definitions:
        chosen = tuple((nulled or {}).get(definition.name, ()))
        _check(definition, chosen)
        kinds = _kinds(definition, keys)
        if not kinds:
            continue
        holding = _Holding(keys, kinds, chosen)
        if definition.kind == "current":
            current = lake.current_table(workspace, definition)
            # Rows of a log would count anew in a file that is written anew; so the base has them first.
            while current.merge():
                pass
            current.cut_merged()
            current.log.forget_removed()
            table = current.base
        else:
            table = lake.table(workspace, definition)
        removed = _remove(engine, storage, table, holding, account)
        table.forget_removed()
        if removed.files:
            found.append(removed)
    return found


def _remove(
    engine: Engine,
    storage: Storage,
    table: LakeTable,
    holding: _Holding,
    account: Account,
) -> Removed:
    for _ in range(ATTEMPTS_MAX):
        units = [Held.of(file) for file in candidates(table, holding.keys, holding.kinds)]
        if not units:
            return Removed(table.name, 0, 0, 0)
        work = _Removing(storage, table.files_elsewhere(), holding)

        def begin(units: Sequence[Held] = units) -> Job:
            files = sorted(unit.location for unit in units)
            return Job(storage, "removal", [table.name, holding.keys.digest(), list(holding.nulled), files])

        def run(job: Job, units: Sequence[Held] = units, work: _Removing = work) -> list[Rewritten]:
            answers = job.step("rewrite", lambda: engine.each("rewrite", units, work))
            return [msgspec.msgpack.decode(one, type=Rewritten) for one in answers.values() if one]

        with with_files(begin, run, lambda done: [file.location for one in done for file in one.files]) as (
            job,
            done,
        ):
            gone = sum(one.gone for one in done)
            job.check()
            try:
                table.commit_rewritten(done, partial(account, table.definition, gone))
            except Conflict:
                job.finish()
                continue
            reach("plan.removal.committed")
            job.finish()
        return Removed(table.name, len(done), gone, sum(one.changed for one in done))
    raise Conflict(
        f"removing rows of {table.name}: its files were compacted {ATTEMPTS_MAX} times meanwhile; run it again"
    )


def _kinds(definition: TableDef, keys: Keys) -> dict[str, Kind]:
    """Return the columns of a table that may hold one of the keys."""
    kinds: dict[str, Kind] = {}
    for column in definition.columns:
        kind = COLUMNS.get(column.name)
        if kind is None or not keys.any_of(kind):
            continue
        if column.name in ("identifiers", "refused") and not pa.types.is_list(column.type):
            continue
        kinds[column.name] = kind
    if "refused" in (column.name for column in definition.columns) and keys.profiles:
        kinds["refused"] = "idents"
    return kinds


def _check(definition: TableDef, nulled: Sequence[str]) -> None:
    columns = {column.name: column for column in definition.columns}
    for name in nulled:
        if name not in columns or columns[name].required:
            raise Invalid(
                f"removing values of {definition.name}.{name}: {'no such column' if name not in columns else 'it cannot be null'}"
            )


def candidates(table: LakeTable, keys: Keys, kinds: Mapping[str, Kind]) -> Iterator[LiveFile]:
    """Yield the files that may hold a key, by the bounds of their columns."""
    ids = {name: table.field_id(name) for name in kinds}
    bounded: dict[Kind, list[bytes]] = {
        kind: keys.sorted_bytes(kind) for kind in ("sets", "idents", "profiles")
    }
    for file in table.files():
        data_file = file.entry.data_file
        lower, upper = data_file.lower_bounds or {}, data_file.upper_bounds or {}
        for name, kind in kinds.items():
            low, high = lower.get(ids[name]), upper.get(ids[name])
            if (
                low is None
                or high is None
                or kind in ("messages", "hex")
                or _between(bounded[kind], low, high)
            ):
                yield file
                break


def _between(ordered: Sequence[bytes], low: bytes, high: bytes) -> bool:
    """Tell whether any of these keys lies between two bounds, which may be cut short."""
    place = bisect_left(ordered, low)
    return place < len(ordered) and ordered[place] <= high


def _as_bytes(bound: bytes | str) -> bytes:
    return bound.encode() if isinstance(bound, str) else bound


def _numpy(found: pa.Array | pa.ChunkedArray) -> Mask:
    return np.asarray(pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=np.bool_)
