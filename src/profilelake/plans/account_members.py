"""Who belongs to which account today, on any engine: from what was seen together, and who left.

`semantics.memberships` says what that means. Sightings are of sets, so they are brought together by the person's
set first and by the account's set then; each time the owner of the set is put in its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import duckdb
import msgspec
import pyarrow as pa

from profilelake.engines.engine import Cut, Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile, keep, read_kept
from profilelake.engines.keys import parts_by_id, power_of_two
from profilelake.errors import Invalid
from profilelake.identity.facts import decode, standing
from profilelake.kernels.siphash import HASH_BYTES
from profilelake.lake.storage import Storage
from profilelake.pipeline.fold_spells import left
from profilelake.plans.definition_inputs import (
    CUT_ROWS,
    UNIT_ROWS,
    AccountInputs,
    Counts,
    Inputs,
    Unit,
    batches,
    kept_units,
    opened,
    part_of_profile,
    units,
)
from profilelake.semantics.positions import POSITION_BYTES
from profilelake.semantics.rules import IdentityRules

LEFT_MAX: Final = 1 << 20
"""Decisions to leave that hold, of which every task knows all: about 300 MB."""
PARTS_PER_UNIT: Final = 16
"""Into how many parts as many rows are brought as one unit has."""

MEMBERS: Final = pa.schema(
    [("profile_id", pa.string()), ("account_id", pa.string()), ("account_part", pa.int32())]
)
"""A person, an account of theirs, and the part that the account is in."""
MEMBERS_SENT: Final = pa.schema([*MEMBERS, ("part", pa.int32())])
"""The same with the part that the person is in."""
_ID: Final = pa.binary(HASH_BYTES)
_POSITION: Final = pa.binary(POSITION_BYTES)
_LINKS: Final = pa.schema(
    [("set_id", _ID), ("account_set_id", _ID), ("position", _POSITION), ("message_id", pa.string())]
)
_OWNED: Final = pa.schema([("set_id", _ID), ("profile_id", pa.string()), ("part", pa.int32())])
_PEOPLE: Final = pa.schema(
    [("account_set_id", _ID), ("position", _POSITION), ("profile_id", pa.string()), ("part", pa.int32())]
)
_LEFT: Final = pa.schema([("profile_id", pa.string()), ("account_id", pa.string()), ("left_at", _POSITION)])
_NO_RULES: Final = IdentityRules(version=0, types=())
"""Who left does not depend on the rules."""

_SEEN: Final = """
    WITH seen AS (
        -- An event stands where its first copy does.
        SELECT set_id, account_set_id, min(position) AS position FROM links GROUP BY set_id, account_set_id, message_id
    )
    SELECT account_set_id, max(position) AS position, profile_id, part
    FROM seen JOIN sets USING (set_id) GROUP BY ALL
"""
"""Whom the sets of accounts were seen with, and when last."""
_BELONGS: Final = """
    SELECT DISTINCT people.profile_id, sets.profile_id AS account_id, sets.part AS account_part, people.part
    FROM links AS people JOIN sets ON sets.set_id = people.account_set_id
    LEFT JOIN left_last ON left_last.profile_id = people.profile_id AND left_last.account_id = sets.profile_id
    WHERE left_at IS NULL OR position > left_at
"""
"""Who was seen with an account after they left it last."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_files: Final = msgspec.msgpack.Decoder(list[KeptFile]).decode
_Left = tuple[bytes, bytes, bytes]
"""The identifiers of a person and of an account, and the position of the last decision that they left."""
_decode_left: Final = msgspec.msgpack.Decoder(list[_Left]).decode
_decode_owners: Final = msgspec.msgpack.Decoder(dict[bytes, str]).decode


def account_members(
    engine: Engine,
    job: Job,
    inputs: Inputs,
    of: AccountInputs,
    counts: Counts,
    parts: int,
    account_parts: int,
) -> list[KeptFile]:
    """Return files of `MEMBERS_SENT`: who belongs to which account, each pair once or more often.

    People are in `parts` parts by their profile, accounts in `account_parts`.
    """
    storage = job.storage
    left_last = _files(job.step("left", lambda: _left(engine, job, of)))
    by_person = power_of_two(max(counts.links, counts.sets) / UNIT_ROWS * PARTS_PER_UNIT)
    by_account = power_of_two(max(counts.links, counts.accounts) / UNIT_ROWS * PARTS_PER_UNIT)
    seen = job.step(
        "seen",
        lambda: engine.spread(
            "seen",
            [*units("links", of.links), *units("sets", inputs.sets)],
            _BySet(storage, by_person, parts),
            {"links": _LINKS, "sets": _OWNED},
            by_person,
            _Seen(storage, job.folder("seen")),
        ),
    )
    found = job.step(
        "members",
        lambda: engine.spread(
            "members",
            [*kept_units("links", _files(seen)), *units("sets", of.sets)],
            _BySet(storage, by_account, account_parts),
            {"links": _PEOPLE, "sets": _OWNED},
            by_account,
            _Belongs(storage, job.folder("members"), tuple(left_last)),
        ),
    )
    return _files(found)


def _files(answers: Mapping[int, bytes]) -> list[KeptFile]:
    return [file for body in answers.values() for file in _decode_files(body)]


# ---- who was seen with whom --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _BySet:
    """Spreads sightings and the owners of sets by set: that of the person, or of the account where that is known."""

    storage: Storage
    parts: int
    parts_of_owners: int

    def __call__(self, unit: Unit) -> Iterator[Cut]:
        if unit.file is not None:
            for rows in read_kept(self.storage, unit.file, rows=CUT_ROWS):
                seen = rows.cast(_PEOPLE)
                yield Cut(unit.input, seen, parts_by_id(seen.column("account_set_id"), self.parts))
            return
        select, schema = unit.select, _LINKS
        if unit.input == "sets":
            part = part_of_profile(self.parts_of_owners)
            select, schema = f"SELECT *, {part} FROM ({select})", _OWNED  # noqa: S608 - made here
        with opened(self.storage) as connection:
            for rows in batches(connection, select):
                told = rows.cast(schema)
                yield Cut(unit.input, told, parts_by_id(told.column("set_id"), self.parts))


@dataclass(frozen=True, slots=True)
class _Seen:
    """Keeps whom the sets of accounts were seen with."""

    storage: Storage
    folder: str

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        rows = _PEOPLE.empty_table()
        if tables["links"].num_rows:
            rows = _joined(self.storage, _SEEN, tables).cast(_PEOPLE)
        return _encode(keep(self.storage, self.folder, rows, part))


@dataclass(frozen=True, slots=True)
class _Belongs:
    """Keeps who belongs to accounts today. `left_last` are files of who left which, and when last."""

    storage: Storage
    folder: str
    left_last: tuple[KeptFile, ...]

    def __call__(self, part: int, tables: Mapping[str, pa.Table]) -> bytes:
        rows = MEMBERS_SENT.empty_table()
        if tables["links"].num_rows:
            left = [rows for file in self.left_last for rows in read_kept(self.storage, file)]
            left_last = pa.concat_tables([_LEFT.empty_table(), *left])
            rows = _joined(self.storage, _BELONGS, {**tables, "left_last": left_last}).cast(MEMBERS_SENT)
        return _encode(keep(self.storage, self.folder, rows, part))


def _joined(storage: Storage, select: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    with opened(storage) as connection:
        for name, rows in tables.items():
            connection.register(name, rows)
        return connection.sql(select).to_arrow_table()


# ---- who left ----------------------------------------------------------------------------------


def _left(engine: Engine, job: Job, of: AccountInputs) -> list[bytes]:
    """Keep who left which account, and when last, as profiles are today."""
    storage = job.storage
    (body,) = engine.each("left", [of.left], _Decided(storage))
    decided = _decode_left(body)
    owners: dict[bytes, str] = {}
    if decided:
        for found in engine.each("left owners", of.identifiers, _Owners(storage, _named(decided))):
            owners |= _decode_owners(found)
    return [_encode(keep(storage, job.folder("left"), _left_last(decided, owners)))]


def _named(decided: Sequence[_Left]) -> tuple[bytes, ...]:
    return tuple(sorted({ident for user, account, _ in decided for ident in (user, account)}))


def _left_last(decided: Sequence[_Left], owners: Mapping[bytes, str]) -> pa.Table:
    """Return who left which account, and when last."""
    last: dict[tuple[str, str], bytes] = {}
    for user, account, position in decided:
        if user in owners and account in owners:
            pair = owners[user], owners[account]
            last[pair] = max(position, last.get(pair, b""))
    rows = [(*pair, position) for pair, position in last.items()]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _LEFT, strict=True)]
    return pa.table(arrays, schema=_LEFT)


@dataclass(frozen=True, slots=True)
class _Decided:
    """Returns the last decision that holds of each person's and account's identifiers that they left."""

    storage: Storage

    def __call__(self, select: str) -> bytes:
        with opened(self.storage) as connection:
            return _encode(_decided(connection, select))


def _decided(connection: duckdb.DuckDBPyConnection, select: str) -> list[_Left]:
    facts = connection.sql(select).fetchall()
    held = standing(((position, decode(fact.encode())) for position, fact in facts), _NO_RULES)
    decided = [
        (pair[:HASH_BYTES], pair[HASH_BYTES:], max(positions)) for pair, positions in left(held).items()
    ]
    if len(decided) > LEFT_MAX:
        raise Invalid(
            f"computing definitions about accounts: {len(decided):,} decisions hold that somebody left,"
            f" at most {LEFT_MAX:,} can be looked at; compute those about users by their keys"
        )
    return decided


@dataclass(frozen=True, slots=True)
class _Owners:
    """Returns the profiles of some identifiers, as far as there are any."""

    storage: Storage
    named: tuple[bytes, ...]

    def __call__(self, select: str) -> bytes:
        with opened(self.storage) as connection:
            return _encode(_owners(connection, select, self.named))


def _owners(connection: duckdb.DuckDBPyConnection, select: str, named: tuple[bytes, ...]) -> dict[bytes, str]:
    connection.register("named", pa.table({"ident_id": pa.array(named, pa.binary())}))
    return dict(connection.sql(f"FROM ({select}) SEMI JOIN named USING (ident_id)").fetchall())


# ---- of some accounts, here ---------------------------------------------------------------------


def members_here(
    connection: duckdb.DuckDBPyConnection,
    links: str,
    left: str,
    identifiers: str,
    sets: str,
    of_accounts: pa.Table,
) -> pa.Table:
    """Return who belongs to some accounts (`profile_id`, `account_id`), each pair once.

    `links`, `left`, `identifiers` and `sets` (of people) are SELECTs as the tasks of `account_members` read them;
    `of_accounts` has the sets of the accounts (`set_id`, `profile_id`).
    """
    connection.register("of_accounts", of_accounts)
    seen = f"FROM ({links}) AS seen SEMI JOIN of_accounts ON of_accounts.set_id = seen.account_set_id"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE links AS {seen}")
    owned = f"SELECT *, 0::INTEGER AS part FROM ({sets}) SEMI JOIN links USING (set_id)"  # noqa: S608 - made here
    connection.execute(f"CREATE OR REPLACE TEMP TABLE sets AS {owned}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE people_seen AS {_SEEN}")
    decided = _decided(connection, left)
    owners = _owners(connection, identifiers, _named(decided)) if decided else {}
    connection.register("left_last", _left_last(decided, owners))
    connection.execute("CREATE OR REPLACE TEMP TABLE sets AS SELECT *, 0::INTEGER AS part FROM of_accounts")
    connection.execute("CREATE OR REPLACE TEMP TABLE links AS FROM people_seen")
    return connection.sql(f"SELECT profile_id, account_id FROM ({_BELONGS})").to_arrow_table()  # noqa: S608 - made here
