"""What the identity journals of Profiles Sync must say after any history."""

from typing import Any

from hypothesis import strategies as st

from pipeline_arrivals import IDENTIFIERS, RULES, Arrival, deliver, in_order, late
from pipeline_driver import KEY, WORKSPACE, Desk, LogBuilder
from pipeline_laws import desk
from profilelake.eventlog import Record
from profilelake.identity import facts
from profilelake.identity.sync_tables import EXTERNAL_ID_MAPPING_UPDATES, ID_GRAPH_UPDATES
from profilelake.lake.tables import TableDef
from profilelake.pipeline.publish import waiting_rows
from profilelake.semantics.identifiers import Identifier, ident_id, parse_public_id, public_id
from profilelake.semantics.rules import IdentityRules, TypeRule
from profilelake.state.store import Db


def waiting(desk: Desk, definition: TableDef) -> list[dict[str, Any]]:
    """Return the rows that wait for the lake, in order."""
    with desk.state.read(WORKSPACE) as tx:
        rows: list[dict[str, Any]] = waiting_rows(tx, WORKSPACE, definition, -1).to_pylist()
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    assert [row["uuid_ts"] for row in rows] == sorted(row["uuid_ts"] for row in rows)
    return rows


def journals_in_the_lake(desk: Desk) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows that the lake has, in order."""
    ids, mappings = (
        desk.lake.load(WORKSPACE, definition.name, "sync").table.scan().to_arrow().sort_by("seq").to_pylist()
        for definition in (ID_GRAPH_UPDATES, EXTERNAL_ID_MAPPING_UPDATES)
    )
    return ids, mappings


def journals_say_what_is(
    desk: Desk, ids: list[dict[str, Any]] | None = None, mappings: list[dict[str, Any]] | None = None
) -> dict[str, str]:
    """Hold the folded journals against the state; return the profile of each id ever given out."""
    ids = waiting(desk, ID_GRAPH_UPDATES) if ids is None else ids
    mappings = waiting(desk, EXTERNAL_ID_MAPPING_UPDATES) if mappings is None else mappings
    folded: dict[str, str] = {}
    for row in ids:
        assert folded.get(row["segment_id"]) != row["canonical_segment_id"], "nothing is announced twice"
        folded[row["segment_id"]] = row["canonical_segment_id"]
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in mappings:
        key = row["external_id_type"], row["external_id_value"]
        # Models take the latest by this time, so it must be the last.
        assert key not in last or last[key]["timestamp"] < row["timestamp"]
        last[key] = row
    with desk.state.read(WORKSPACE) as tx:
        keys = [key for key, _ in tx.items(WORKSPACE, Db.PROFILE)]
        profiles = {key: p for key, p in tx.profiles(WORKSPACE, keys).items() if p.collection == 0}
        assert {public_id("users", key) for key in profiles} <= folded.keys(), "every profile was announced"
        for segment, canonical in folded.items():
            parsed = parse_public_id(segment)
            assert parsed is not None
            record = tx.set(WORKSPACE, parsed[1])
            assert record is not None
            assert record.issued
            if record.profile:
                assert canonical == public_id("users", record.profile)
            else:
                assert folded[canonical] == canonical, "an orphan is where its last owner is"
        for record in tx.idents(WORKSPACE, list(tx.keys(WORKSPACE, Db.IDENT))).values():
            row = last.pop((record.type, record.value), None) if record.collection == 0 else None
            if record.collection == 0 and record.profile:
                assert row is not None
                assert row["__operation"] == "CREATED"
                assert folded[row["segment_id"]] == public_id("users", record.profile)
            else:
                assert row is None or row["__operation"] == "REMOVED"
    assert last == {}
    return folded


identifiers = st.sampled_from(IDENTIFIERS["users"])


def _ident(identifier: Identifier) -> str:
    return ident_id(KEY, "users", identifier).hex()


def _unlink(one: Identifier, other: Identifier, apart: bool) -> facts.Fact:
    return facts.Unlink(by="somebody", collection="users", one=_ident(one), other=_ident(other), apart=apart)


def _quarantine(one: Identifier, held: bool) -> facts.Fact:
    return facts.Quarantine(by="somebody", collection="users", ident=_ident(one), quarantined=held)


def _rules(order: list[str], limits: list[int | None]) -> facts.Fact:
    types = [
        TypeRule(type, priority, limit=limit, blocked_exact=frozenset({"null"}))
        for priority, (type, limit) in enumerate(zip(order, limits, strict=True), start=1)
    ]
    accounts = TypeRule("group_id", 1, collection="accounts", limit=1)
    return facts.NewRules(by="somebody", rules=IdentityRules(version=2, types=(*types, accounts)))


decisions = st.one_of(
    st.builds(_unlink, identifiers, identifiers, st.booleans()),
    st.builds(_quarantine, identifiers, st.booleans()),
    st.builds(
        _rules,
        st.permutations([rule.type for rule in RULES.types if rule.collection == "users"]),
        st.lists(st.sampled_from([1, 2, None]), min_size=3, max_size=3),
    ),
)


@st.composite
def with_decisions(draw: st.DrawFn, arrival: Arrival) -> Arrival:
    """Put decisions between the micro-batches of an arrival, in a log of their own."""
    log = LogBuilder("00000000000000dd")
    batches: list[list[Record]] = []
    at = 0
    for batch in arrival.batches:
        batches.append(batch)
        at = max(at, *(record.received_at for record in batch))
        for fact in draw(st.lists(decisions, max_size=2)):
            at += 1
            batches.append([log.decision(at, fact)])
    return Arrival(batches)


def events_in_order(records: list[Record], data: st.DataObject) -> None:
    """The journals fold to what is, with one row for each identifier."""
    with desk() as live:
        deliver(live, data.draw(in_order(records)))
        journals_say_what_is(live)
        mapped = [
            (row["external_id_type"], row["external_id_value"])
            for row in waiting(live, EXTERNAL_ID_MAPPING_UPDATES)
        ]
        assert len(mapped) == len(set(mapped)), "a merge announces no identifier again"


def late_events_and_decisions(records: list[Record], data: st.DataObject) -> None:
    """They do after each micro-batch, whatever was late and whatever was decided."""
    with desk() as live:
        for batch in data.draw(with_decisions(data.draw(late(records)))).batches:
            live.apply(batch)
            journals_say_what_is(live)


def restarts_and_rebuilds(records: list[Record], data: st.DataObject) -> None:
    """They do in the lake too, and a rebuild adds nothing to what was right."""
    with desk() as live:
        for batch in data.draw(with_decisions(data.draw(late(records)))).batches:
            live.apply(batch)
            data.draw(st.sampled_from([Desk.publish, Desk.restart, Desk.rebuild]))(live)
        live.publish()
        before = journals_in_the_lake(live)
        journals_say_what_is(live, *before)
        live.rebuild()
        live.publish()
        assert journals_in_the_lake(live) == before
