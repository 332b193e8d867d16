"""Removal takes the rows of the keys it is given, all of them, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_driver import KEY, WORKSPACE, Desk
from profilelake.errors import Corrupt, Invalid
from profilelake.identity.tables import IDENTITY_FACTS
from profilelake.lake.progress import Progress
from profilelake.lake.searching import search
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.register import TABLES
from profilelake.plans.removal import COLUMNS, Keys, Removed, remove
from profilelake.semantics.identifiers import Identifier, ident_id
from upkeep_lakes import digests, engine_in, every_part, rows_of, shop

GONE = "user-1"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = shop(tmp_path)
    yield made
    made.close()


def keys_of(desk: Desk, user: str) -> tuple[list[bytes], list[bytes], list[str], list[str]]:
    """Return sets, identifiers, profiles and messages of one person of the shop."""
    events = [row for row in rows_of(desk.lake, "events") if row["user_id"] == user]
    sets = sorted({row["set_id"] for row in events})
    profiles = sorted({r["profile_id"] for r in rows_of(desk.lake, "set_map") if r["set_id"] in sets})
    number = user.removeprefix("user-")
    named = [
        Identifier("user_id", user),
        Identifier("email", f"{user}@example.org"),
        *(Identifier("anonymous_id", f"device-{number}-{n}") for n in range(2)),
    ]
    idents = [ident_id(KEY, "users", identifier) for identifier in named]
    return sets, idents, profiles, [row["message_id"] for row in events]


def removal(desk: Desk, keys: Keys, **more: object) -> list[Removed]:
    folder = desk.directory
    return remove(engine_in(folder), desk.lake.storage, desk.lake, WORKSPACE, TABLES, keys, **more)  # type: ignore[arg-type]


def test_all_of_a_person_goes_and_the_others_stay(desk: Desk) -> None:
    sets, idents, profiles, messages = keys_of(desk, GONE)
    before = {d.name: rows_of(desk.lake, d.name) for d in TABLES if not d.part}
    removed = removal(desk, Keys.of(sets=sets, idents=idents, profiles=profiles, messages=messages))
    ids, texts = {*sets, *idents}, {*profiles, *messages}

    def held(row: dict[str, object]) -> bool:
        keys = (value for name, value in row.items() if name in COLUMNS)
        return any(
            any(item["ident_id"] in ids for item in value)
            if isinstance(value, list)
            else value in ids or value in texts
            for value in keys
        )

    for name, rows in before.items():
        left = [row for row in rows if not held(row)]
        assert sorted(map(repr, rows_of(desk.lake, name))) == sorted(map(repr, left)), name
    gone = {one.table: one.gone for one in removed}
    assert gone["ws_default.events"] == 4
    assert gone["ws_default.profiles"] == 1
    assert removal(desk, Keys.of(sets=sets, idents=idents, profiles=profiles, messages=messages)) == []
    for table in every_part(desk.lake):
        table.expire()
        table.sweep(min_age_seconds=-3600, dry_run=False)
        found = list(
            search(
                desk.lake.storage,
                table.location(),
                ids=[*sets, *idents],
                texts=[*profiles, *messages],
            )
        )
        assert found == [], table.name


def test_what_is_still_in_old_snapshots_is_found(desk: Desk) -> None:
    *_, messages = keys_of(desk, GONE)
    # The least of a file stands in its footer and in the manifest too.
    sets = [min(row["set_id"] for row in rows_of(desk.lake, "events"))]
    removal(desk, Keys.of(sets=sets))
    events = desk.lake.table(WORKSPACE, EVENTS)
    found = {f.where for f in search(desk.lake.storage, events.location(), ids=sets, texts=[])}
    assert {"column set_id", "its footer", "its bytes"} <= found
    with pytest.raises(Invalid, match="0 values"):
        list(search(desk.lake.storage, events.location(), ids=[], texts=[]))
    (Path(events.location().removeprefix("file://")) / "data" / "torn.parquet").write_bytes(b"PAR1....")
    with pytest.raises(Corrupt, match=r"torn\.parquet"):
        list(search(desk.lake.storage, events.location(), ids=sets, texts=messages))


def test_only_files_that_hold_a_key_are_written_anew(desk: Desk) -> None:
    lake = desk.lake
    events = lake.table(WORKSPACE, EVENTS)
    chosen = min(row["message_id"] for row in rows_of(lake, "events"))
    before = {f.location for f in events.files()}
    removed = removal(desk, Keys.of(messages=[chosen]))
    after = {f.location for f in events.files()}
    assert len(before - after) == len(after - before) == 1
    assert {one.gone for one in removed if one.table.endswith(".events")} == {1}
    assert removal(desk, Keys.of(messages=["never-there"], sets=[bytes(16)])) == []
    assert {f.location for f in events.files()} == after


def test_values_go_and_rows_stay_where_that_is_asked(desk: Desk) -> None:
    sets, *_ = keys_of(desk, GONE)
    hers = {"user_id", "anonymous_id", "traits", "properties"}
    before = rows_of(desk.lake, "events")
    asked = {"events": tuple(sorted(hers))}
    removed = removal(desk, Keys.of(sets=sets), nulled=asked)
    changed = {one.table: one.changed for one in removed}
    assert changed["ws_default.events"] == 4
    wanted = [{**row, **(dict.fromkeys(hers) if row["set_id"] in sets else {})} for row in before]
    assert sorted(map(repr, rows_of(desk.lake, "events"))) == sorted(map(repr, wanted))
    assert removal(desk, Keys.of(sets=sets), nulled=asked) == []
    with pytest.raises(Invalid, match=r"events\.position: it cannot be null"):
        removal(desk, Keys.of(sets=sets), nulled={"events": ("position",)})
    with pytest.raises(Invalid, match=r"events\.nothing: no such column"):
        removal(desk, Keys.of(sets=sets), nulled={"events": ("nothing",)})


def test_rows_that_go_are_counted_where_the_caller_says(desk: Desk) -> None:
    sets, *_ = keys_of(desk, GONE)

    def erased(definition: TableDef, gone: int, held: Progress) -> Progress:
        if definition is not EVENTS:
            return held
        totals = dict(held.totals)
        totals["in_lake"] -= gone
        totals["erased"] = totals.get("erased", 0) + gone
        return replace(held, totals=totals)

    before = desk.lake.table(WORKSPACE, EVENTS).progress()
    removal(desk, Keys.of(sets=sets), account=erased)
    after = desk.lake.table(WORKSPACE, EVENTS).progress()
    assert before is not None
    assert after is not None
    assert after.totals == before.totals | {"in_lake": 8, "erased": 4}
    assert (after.epoch, after.sequence, after.vector) == (before.epoch, before.sequence, before.vector)


def test_a_removal_that_was_cut_short_is_finished(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, idents, profiles, messages = keys_of(desk, GONE)
    keys = Keys.of(sets=sets, idents=idents, profiles=profiles, messages=messages)
    reference = shop(desk.directory / "reference")
    wanted = removal(reference, keys)
    whole = digests(reference.lake)
    reference.close()
    commit, left = LakeTable.commit_rewritten, [0]

    def dying(self: LakeTable, *asked: object) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return commit(self, *asked)  # type: ignore[arg-type]

    monkeypatch.setattr(LakeTable, "commit_rewritten", dying)
    for steps in range(len(wanted)):
        left[0] = 1 if steps else 0
        with pytest.raises(KeyboardInterrupt):
            removal(desk, keys)
    left[0] = len(wanted)
    removal(desk, keys)
    found = digests(desk.lake)
    # These carry when and in which order things were told, which two shops do not share.
    same = {name for name in whole if not name.endswith("_changes") and "updates" not in name}
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    assert list((desk.directory / "lake" / "_jobs").rglob("*.msgpack")) == []


def test_keys_that_are_none_are_refused() -> None:
    with pytest.raises(Invalid, match="16 bytes"):
        Keys.of(sets=[b"short"])


def test_keys_are_told_by_no_text_of_theirs() -> None:
    keys = Keys.of(messages=["jane@example.org"])
    assert b"jane" not in repr(keys).encode()
    assert keys.digest() == Keys.of(messages=["jane@example.org", "jane@example.org"]).digest()


def test_as_many_keys_as_there_may_be_are_looked_for_in_decisions(desk: Desk) -> None:
    held, gone = (n.to_bytes(16, "big") for n in (1 << 100, 1 << 101))
    table = desk.lake.table(WORKSPACE, IDENTITY_FACTS)
    rows = [
        {
            "position": bytes([number]) * 32,
            "decision": "d",
            "by": "somebody",
            "fact": f'["{number}","00{key.hex()}"]',
        }
        for number, key in enumerate((held, gone))
    ]
    schema = IDENTITY_FACTS.schema()
    usual = {pa.string(): "", pa.timestamp("us", "UTC"): 0, pa.int32(): 0, pa.int64(): 0}
    full = [{field.name: usual.get(field.type) for field in schema} | row for row in rows]
    table.add_files(table.files_elsewhere().write(pa.Table.from_pylist(full, schema)), "test")
    keys = Keys.of(idents=[gone, *(n.to_bytes(16, "little") for n in range(1, 200_000))])
    engine = engine_in(desk.directory)
    remove(engine, desk.lake.storage, desk.lake, WORKSPACE, [IDENTITY_FACTS], keys)
    assert [row["fact"] for row in rows_of(desk.lake, "identity_facts")] == [rows[0]["fact"]]
