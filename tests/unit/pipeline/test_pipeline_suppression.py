"""Landing as the judge over suppressed people: what is dropped, counted, and what happens when it cannot know."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_driver import KEY, START, Desk, LogBuilder, Message
from profilelake.errors import Unavailable
from profilelake.eventlog import Flags, Kind
from profilelake.pipeline import batch
from profilelake.profiles.fold import fold_traits
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.semantics.rules import segment_defaults
from profilelake.workspaces.suppressions import hash_identifier

LOG = "00000000000000aa"


class Listed:
    """A list that tests change, and that may be out of reach."""

    def __init__(self) -> None:
        self.version = 0
        self.ids: set[bytes] = set()
        self.broken = False

    def __call__(self) -> tuple[int, set[bytes]]:
        if self.broken:
            raise Unavailable("reading the suppressions: test", retry_after_seconds=1)
        return self.version, self.ids

    def suppress(self, type: str, value: str) -> None:
        self.version += 1
        self.ids = self.ids | {hash_identifier(KEY, segment_defaults(), "users", type, value).ident_id}


@pytest.fixture
def listed() -> Listed:
    return Listed()


@pytest.fixture
def desk(tmp_path: Path, listed: Listed) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.setup = replace(made.setup, suppressed=listed)
    made.restart()
    yield made
    made.close()


def totals(desk: Desk) -> dict[str, int]:
    return {name: count for name, count in desk.applied().totals.items() if count}


def page(name: str, **more: Any) -> Message:
    return {"type": "page", "userId": name, "messageId": f"m-{name}", **more}


def users(desk: Desk) -> list[str]:
    return sorted(json.loads(row[2])["user_id"][0] for row in desk.state_tables()["profiles"])


def dead(desk: Desk) -> list[dict[str, Any]]:
    desk.publish()
    rows: list[dict[str, Any]] = desk.lake.table("default", batch.FAILED_EVENTS).scan().to_pylist()
    return rows


def test_events_of_suppressed_people_do_not_land_and_are_counted(desk: Desk, listed: Listed) -> None:
    log = LogBuilder(LOG)
    listed.suppress("user_id", "gone")
    listed.suppress("email", "gone@x")
    desk.apply(
        [
            log.record(START, [page("a"), page("gone"), page("b")]),
            log.record(START + 1, [page("c", traits={"email": " Gone@X"}), page("d")]),
            log.record(START + 2, [page("gone")]),
        ]
    )
    assert totals(desk) == {"in_lake": 3, "suppressed": 3}
    assert users(desk) == ["a", "b", "d"]
    assert desk.verify() == []


def test_what_collect_took_out_counts_as_suppressed(desk: Desk) -> None:
    log = LogBuilder(LOG)
    taken = gzip.compress(json.dumps({"batch": [None, page("a"), None]}).encode())
    desk.apply(
        [
            log.record(START, [{}] * 3, body=taken, flags=Flags.GZIP | Flags.SUPPRESSED),
            log.record(START + 1, [{}], body=b"null", kind=Kind.PAGE, flags=Flags.SUPPRESSED),
            log.record(
                START + 2,
                [{}],
                body=b'{"batch":[NaN,null]}',
                flags=Flags.SUPPRESSED | Flags.TOLERANT,
                events=2,
            ),
        ]
    )
    # NaN is null to the tolerant parser, and still no event that collect has taken out.
    assert totals(desk) == {"in_lake": 1, "suppressed": 4, "failed": 1}


def test_null_without_the_flag_is_a_failed_event(desk: Desk) -> None:
    desk.apply([LogBuilder(LOG).record(START, [{}], body=b'{"batch":[null]}')])
    assert totals(desk) == {"failed": 1}


def test_failed_events_of_suppressed_people_are_not_kept(desk: Desk, listed: Listed) -> None:
    listed.suppress("user_id", "gone")
    bad = {"type": "track", "userId": "gone"}
    nested: Any = "x"
    for _ in range(150):
        nested = [nested]
    desk.apply(
        [
            LogBuilder(LOG).record(
                START,
                [
                    bad,
                    {**bad, "type": "nonsense"},
                    {**bad, "traits": 7},
                    {**bad, "properties": {"text": "x" * 40_000}},
                    {**bad, "properties": nested},
                    {"type": "track", "userId": "other"},
                ],
            )
        ]
    )
    assert totals(desk) == {"suppressed": 5, "failed": 1}
    assert [json.loads(row["raw"])["userId"] for row in dead(desk)] == ["other"]


def test_ids_of_suppressed_events_are_not_remembered(desk: Desk, listed: Listed) -> None:
    log = LogBuilder(LOG)
    listed.suppress("user_id", "gone")
    desk.apply([log.record(START, [page("gone")])])
    listed.version, listed.ids = listed.version + 1, set()
    desk.apply([log.record(START + 1, [page("gone")])])
    assert totals(desk) == {"in_lake": 1, "suppressed": 1}
    listed.suppress("user_id", "gone")
    desk.apply([log.record(START + 2, [page("gone")])])
    assert totals(desk) == {"in_lake": 1, "suppressed": 2}


def test_nothing_lands_while_the_list_cannot_be_read(desk: Desk, listed: Listed) -> None:
    listed.suppress("user_id", "gone")
    arrived = [LogBuilder(LOG).record(START, [page("gone"), page("a")])]
    listed.broken = True
    with pytest.raises(Unavailable):
        desk.apply(arrived)
    assert totals(desk) == {}
    listed.broken = False
    desk.apply(arrived)
    assert totals(desk) == {"in_lake": 1, "suppressed": 1}


def test_a_crash_before_the_commit_lands_by_the_list_of_the_second_time(
    desk: Desk, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = [LogBuilder(LOG).record(START, [page("gone"), page("a")])]

    def crash(name: str) -> None:
        if name == "state.before_commit":
            raise Unavailable("crash", retry_after_seconds=1)

    with monkeypatch.context() as broken:
        broken.setattr(batch, "reach", crash)
        with pytest.raises(Unavailable):
            desk.apply(arrived)
    listed.suppress("user_id", "gone")
    desk.restart()
    desk.apply(arrived)
    assert totals(desk) == {"in_lake": 1, "suppressed": 1}
    assert users(desk) == ["a"]
    assert desk.verify() == []


@pytest.mark.parametrize("kind", [Kind.BATCH, Kind.LINES])
def test_a_record_set_aside_is_kept_without_them(
    desk: Desk, listed: Listed, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """A fault of ours keeps whole bodies, so they are cleaned of suppressed people first."""

    def failing(work: Any, events: Any) -> Any:
        if events.num_rows:
            raise ZeroDivisionError("a bug")
        return fold_traits(work, events)

    monkeypatch.setattr(batch, "fold_traits", failing)
    listed.suppress("user_id", "gone")
    messages = [page("gone"), page("a"), page("b")]
    body = b"\n".join(json.dumps(one).encode() for one in messages) if kind is Kind.LINES else None
    ip = "ab:" if kind is Kind.LINES else ""
    desk.apply([LogBuilder(LOG).record(START, messages, body=body, kind=kind, ip=ip)])
    assert totals(desk) == {"failed": 2, "suppressed": 1}
    kept = b"".join(row["raw"] or b"" for row in dead(desk))
    assert b"gone" not in kept
    assert b'"b"' in kept


def test_every_identifier_of_an_event_counts(desk: Desk, listed: Listed) -> None:
    listed.ids = {
        ident_id(KEY, "accounts", Identifier("group_id", "g")),
        ident_id(KEY, "users", Identifier("phone", "1")),
        ident_id(KEY, "users", Identifier("user_id", "old")),
    }
    listed.version = 1
    phone = {"id": "1", "type": "phone", "collection": "users", "encoding": "none"}
    desk.apply(
        [
            LogBuilder(LOG).record(
                START,
                [
                    {"type": "group", "userId": "a", "groupId": "g"},
                    page("b", context={"externalIds": [phone]}),
                    {"type": "alias", "userId": "c", "previousId": "old"},
                    {"type": "alias", "userId": "d", "previousId": "older"},
                    page("old"),
                    page("g"),
                ],
            )
        ]
    )
    assert totals(desk) == {"in_lake": 2, "suppressed": 4}
    assert users(desk) == ["d", "g"]
