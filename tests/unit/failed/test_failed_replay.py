"""Failed events from the table back into the log: found, judged, sent, and known to have been sent."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline_driver import SECOND, START, WORKSPACE, Desk, LogBuilder, Message
from profilelake.errors import NotFound
from profilelake.eventlog import Damage, Flags, Kind, Record
from profilelake.eventlog.embedded import LogReader, LogWriter
from profilelake.failed import replay as replaying
from profilelake.failed.edits import Edits
from profilelake.failed.find import Failed, FailedEvents, Wanted
from profilelake.failed.journal import Journal, Replay
from profilelake.failed.replay import Judge, Judged, Outcome, records, send
from profilelake.failed.results import results
from profilelake.pipeline import batch, publish
from profilelake.profiles.fold import fold_traits
from profilelake.semantics import events, json_text
from profilelake.semantics.reasons import REASONS
from profilelake.semantics.rules import segment_defaults
from profilelake.state.store import Db

LOG = "00000000000000aa"
GOOD = {"type": "track", "event": "A", "userId": "u"}
NAMELESS = {"type": "track", "userId": "u"}


class Shop(Desk):
    """A desk, its log, and what there is to see of failed events."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.log = LogBuilder(LOG)
        self.at = START
        self.journal = Journal(directory / "replays.sqlite")

    def send(self, *messages: Message, **facts: Any) -> Record:
        self.at += 1
        return self.log.record(self.at, messages, **facts)

    def landed(self, *sent: Record) -> FailedEvents:
        self.apply(sent)
        self.publish()
        return self.failed()

    def failed(self) -> FailedEvents:
        return FailedEvents(self.lake, WORKSPACE, str(self.directory / "spill"))

    def judge(self, *, set: list[str] = [], rename: list[str] = [], new: bool = False) -> Judge:  # noqa: B006
        return Judge(segment_defaults(), Edits.parse(rename, [], set), new, self.now)

    def replay(self, judged: list[Judged]) -> list[Replay]:
        """Send judged events and have the pipeline apply them; return the journal's entries."""
        self.now += SECOND
        clock = lambda: self.now  # noqa: E731
        writer = lambda: LogWriter(self.directory / "log", region="local", clock=clock)  # noqa: E731
        assert send(records(judged), writer, self.journal, WORKSPACE, clock) == len(judged)
        self.take_up()
        found = self.journal.of([each.failed.position for each in judged])
        return [replays[-1] for replays in found.values()]

    def take_up(self) -> None:
        reader = LogReader(self.directory / "log", clock=self.clock)
        slice = reader.read(self.batcher.vector(), bytes_max=1 << 20, events_max=100, wait_max_seconds=0)
        reader.close()
        self.batcher.apply(slice)
        self.publish()

    def results(self, replays: list[Replay]) -> list[tuple[str, str | None]]:
        committed = {log: offset for log, (offset, _) in self.published().vector.items()}
        found = results(self.lake, WORKSPACE, replays, committed)
        return [(found[replay].state, found[replay].reason) for replay in replays]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.close()


def everything(found: FailedEvents, wanted: Wanted = Wanted()) -> list[Failed]:  # noqa: B008
    return list(found.read(found.positions(wanted, newest_first=False)))


def test_it_is_found_by_all_that_is_known_of_it(shop: Shop) -> None:
    found = shop.landed(
        shop.send(NAMELESS | {"messageId": "1"}, {"type": "page"}, source_id="shop"),
        shop.send(NAMELESS | {"messageId": "x' OR 1=1 --"}, source_id="till"),
    )
    rows = everything(found)
    assert [row.reason for row in rows] == ["missing_event_name", "no_identifier", "missing_event_name"]
    assert found.counts(Wanted()) == {"missing_event_name": 2, "no_identifier": 1}
    one, two, three = (row.position for row in rows)
    for wanted, expected in (
        (Wanted(reason="no_identifier"), [two]),
        (Wanted(source="till"), [three]),
        (Wanted(source="till' OR 1=1 --"), []),
        (Wanted(message_id="x' OR 1=1 --"), [three]),
        (Wanted(since=START + 2), [three]),
        (Wanted(until=START + 2), [one, two]),
        (Wanted(positions=(three, one)), [one, three]),
        (Wanted(reason="missing_event_name", source="shop"), [one]),
    ):
        assert found.positions(wanted, newest_first=False) == expected
    assert found.positions(Wanted(), newest_first=True, limit=2) == [three, two]
    assert found.positions(Wanted(), newest_first=True, after=two) == [one]
    with pytest.raises(NotFound, match="there is none at this position"):
        list(found.read([bytes(32)]))


def test_every_reason_of_landing_has_a_case(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def folding(work: Any, accepted: Any) -> Any:
        if "bug" in accepted.column("message_id").to_pylist():
            raise ZeroDivisionError("a bug")
        return fold_traits(work, accepted)

    monkeypatch.setattr(batch, "fold_traits", folding)
    gap = Damage(f"/x/{LOG}/{0:020}.seg", 10**6, 10**6 + 50, 1, "checksum differs")
    shop.apply([shop.send(GOOD | {"messageId": "1"}, GOOD | {"messageId": "1", "event": "B"})], [gap])
    shop.apply([shop.send(GOOD | {"messageId": "bug"})])
    shop.publish()
    assert shop.failed().counts(Wanted()).keys() == REASONS.keys() - events.REASONS.keys()


def test_it_is_sent_again_with_all_its_request_said(shop: Shop) -> None:
    body = {
        "sentAt": "2026-03-01T10:00:00Z",
        "context": {"app": {"name": "shop"}, "library": {"name": "web"}},
        "integrations": {"A": True},
        "batch": [
            GOOD | {"messageId": "0"},
            NAMELESS | {"timestamp": "2026-03-01T09:59:00Z", "properties": {"n": 1}},
            NAMELESS | {"context": {"app": None}},
        ],
    }
    raw = json.dumps(body).replace('"n": 1', '"n": 12345678901234567890.10').encode()
    found = shop.landed(
        shop.log.record(
            START, [], body=gzip.compress(raw), events=3, flags=Flags.GZIP | Flags.BROWSER, ip="192.0.2.7"
        )
    )
    judge = shop.judge(set=['event="Fixed"'])
    replays = shop.replay([judge.judge(failed, failed.event) for failed in everything(found)])
    assert shop.results(replays) == [("accepted", None), ("accepted", None)]
    rows = shop.lake.table(WORKSPACE, batch.FAILED_EVENTS).scan().num_rows
    assert rows == 2
    stored = {
        row["message_id"]: row
        for row in shop.lake.load(WORKSPACE, "events").table.scan().to_arrow().to_pylist()
    }
    first, second = (stored[f"pl-{failed.position.hex()}"] for failed in everything(found))
    assert first["context"] == '{"app":{"name":"shop"},"library":{"name":"web"},"ip":"192.0.2.7"}'
    assert second["context"] == '{"app":null,"library":{"name":"web"},"ip":"192.0.2.7"}'
    assert (first["properties"], first["integrations"]) == ('{"n":12345678901234567890.10}', '{"A":true}')
    # It happened a minute before it was sent, and is stored so, whenever it is replayed.
    assert int(first["timestamp"].timestamp() * 1e6) == START - 60_000_000
    assert int(second["timestamp"].timestamp() * 1e6) == START
    assert (first["source_id"], first["event"]) == ("shop", "Fixed")


def test_a_replay_that_is_repeated_stores_nothing_twice(shop: Shop) -> None:
    found = shop.landed(shop.send(NAMELESS, NAMELESS | {"messageId": "own"}))
    judge = shop.judge(set=['event="Fixed"'])
    judged = [judge.judge(failed, failed.event) for failed in everything(found)]
    shop.replay(judged)
    again = shop.replay(judged)
    assert shop.results(again) == [("duplicate_or_suppressed", None)] * 2
    assert shop.applied().totals["in_lake"] == 2
    other = shop.judge(set=['event="Otherwise"'])
    third = shop.replay([other.judge(failed, failed.event) for failed in everything(found)[:2]])
    assert shop.results(third) == [("failed", "message_id_conflict")] * 2
    assert [len(replays) for replays in shop.journal.of([j.failed.position for j in judged]).values()] == [
        3,
        3,
    ]
    assert shop.verify() == []


def test_conflicts_need_an_id_of_their_own(shop: Shop) -> None:
    found = shop.landed(
        shop.send(
            GOOD | {"messageId": "1"}, GOOD | {"messageId": "1", "event": "B", "integrations": {"X": False}}
        )
    )
    (failed,) = everything(found)
    assert failed.event is not None
    assert shop.judge().judge(failed, failed.event).reason == "message_id_conflict"
    replays = shop.replay([shop.judge(new=True).judge(failed, failed.event)])
    assert shop.results(replays) == [("accepted", None)]
    stored = shop.lake.load(WORKSPACE, "events").table.scan().to_arrow().to_pylist()
    assert sorted((row["event"], row["message_id"], row["integrations"]) for row in stored) == [
        ("A", "1", None),
        ("B", f"pl-{failed.position.hex()}", '{"X":false}'),
    ]
    assert stored[0]["timestamp"] == stored[1]["timestamp"]
    again = shop.replay([shop.judge(new=True).judge(failed, failed.event)])
    assert shop.results(again) == [("duplicate_or_suppressed", None)]


def test_what_a_fault_of_ours_met_is_sent_again_event_by_event(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folding(work: Any, accepted: Any) -> Any:
        if accepted.num_rows:
            raise ZeroDivisionError("a bug")
        return fold_traits(work, accepted)

    with monkeypatch.context() as patched:
        patched.setattr(batch, "fold_traits", folding)
        body = json.dumps(
            {"context": {"a": 1}, "batch": [GOOD, NAMELESS, GOOD | {"messageId": "own"}]}
        ).encode()
        found = shop.landed(
            shop.log.record(START, [], body=gzip.compress(body), events=3, flags=Flags.GZIP),
            shop.log.record(START + 1, [], body=b'{"event":"B","userId":"v"}', events=1, kind=Kind.TRACK),
        )
    rows = everything(found)
    assert [row.reason for row in rows] == ["processing_error"] * 4
    judged = [shop.judge().judge(row, row.event) for row in rows]
    assert [each.reason for each in judged] == [None, "missing_event_name", None, None]
    replays = shop.replay([each for each in judged if each.reason is None])
    assert shop.results(replays) == [("accepted", None)] * 3
    stored = shop.lake.load(WORKSPACE, "events").table.scan().to_arrow().to_pylist()
    assert {(row["message_id"], row["context"]) for row in stored} == {
        (f"pl-{rows[0].position.hex()}", '{"a":1}'),
        ("own", '{"a":1}'),
        (f"pl-{rows[3].position.hex()}", None),
    }


@pytest.mark.parametrize(
    ("message", "edits", "reason", "detail"),
    [
        (NAMELESS, [], "missing_event_name", ""),
        (NAMELESS, ['event="A"', "userId=null"], "no_identifier", ""),
        (NAMELESS, ['event="A"', "context=7"], "invalid_field", "context is not an object"),
        (NAMELESS | {"context": "web"}, ["context.a=1"], "invalid_field", "context is no object, so context.a"),
        (GOOD | {"properties": {"x": "y" * 40_000}}, [], "event_too_large", " bytes"),
        (7, [], "not_an_object", "no event can be read in it; write one with --edit"),
    ],
)  # fmt: skip
def test_what_would_fail_again_is_told(
    shop: Shop, message: Any, edits: list[str], reason: str, detail: str
) -> None:
    (failed,) = everything(shop.landed(shop.send(message)))
    judged = shop.judge(set=edits).judge(failed, failed.event)
    assert judged.reason == reason
    assert detail in judged.detail
    outcome = Outcome()
    for _ in range(replaying.EXAMPLES_MAX + 2):
        outcome.note(judged)
    assert outcome.failing == {reason: replaying.EXAMPLES_MAX + 2}
    assert len(outcome.examples[reason]) == replaying.EXAMPLES_MAX


def test_one_that_waits_is_told_so(shop: Shop) -> None:
    (failed,) = everything(shop.landed(shop.send(NAMELESS)))
    clock = lambda: shop.now  # noqa: E731
    judged = [shop.judge(set=['event="A"']).judge(failed, failed.event)]
    writer = lambda: LogWriter(shop.directory / "log", region="local", clock=clock)  # noqa: E731
    send(records(judged), writer, shop.journal, WORKSPACE, clock)
    (replay,) = shop.journal.of([failed.position])[failed.position]
    assert shop.results([replay]) == [("waiting", None)]
    shop.take_up()
    assert shop.results([replay]) == [("accepted", None)]


def test_nothing_to_send_leaves_no_log(shop: Shop) -> None:
    assert send([], lambda: pytest.fail("opened"), shop.journal, WORKSPACE, lambda: 0) == 0
    assert shop.journal.of([bytes(32)]) == {}


def test_records_are_bounded_and_of_one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(source: str, size: int) -> Judged:
        failed = Failed(bytes(32), 0, "unknown_type", "", None, source, "local", b"", None)
        return Judged(failed, "x" * size)

    monkeypatch.setattr(replaying, "RECORD_EVENTS_MAX", 3)
    monkeypatch.setattr(replaying, "RECORD_BYTES_MAX", 100)
    sent = [
        judged("a" if number % 2 else "b", size)
        for number, size in enumerate([10] * 10 + [60, 60, 99, 300, 1])
    ]
    made = list(records(sent))
    assert sorted(id(each) for record in made for each in record) == sorted(map(id, sent))
    for record in made:
        assert len({each.failed.source_id for each in record}) == 1
        assert len(record) <= 3
        assert sum(len(each.text) for each in record) <= 100 or len(record) == 1


def test_events_kept_of_a_plain_batch_are_json_text(shop: Shop) -> None:
    (failed,) = everything(shop.landed(shop.send(NAMELESS | {"messageId": "m", "context": {"a": 1}})))
    assert failed.event is not None
    assert json.loads(json_text.dump(failed.event)) == NAMELESS | {
        "messageId": "m",
        "context": {"a": 1},
        "timestamp": "2026-03-01T10:00:10.000001Z",
    }


def test_rows_that_an_older_program_left_are_published(shop: Shop) -> None:
    record = shop.send(NAMELESS | {"messageId": "old"})
    shop.apply([record, shop.send(NAMELESS | {"messageId": "new"})])
    key = publish.outbox_key(shop.applied().sequence, batch.FAILED_EVENTS)
    with shop.state.write() as tx:
        rows = dict(tx.items(WORKSPACE, Db.OUTBOX))[key]
        older = pa.ipc.open_stream(rows).read_all().drop_columns(["request", "batch"])
        tx.put(WORKSPACE, Db.OUTBOX, key, publish.pack(older))
    shop.publish()
    assert [row.message_id for row in everything(shop.failed())] == ["old", "new"]
    assert shop.verify() == []
