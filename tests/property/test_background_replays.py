"""Law of replays in the background: whatever comes while one is at work, the answer is that of order."""

import random
from pathlib import Path

import pytest

from pipeline_driver import KEY, SECOND, START, Desk, LogBuilder, Message
from profilelake.eventlog import Record
from profilelake.identity import facts, resolve
from profilelake.semantics.identifiers import Identifier, ident_id

EVENTS = 24


def story(chosen: random.Random) -> list[Record]:
    """Return the records of two logs: events of a few people who share identifiers, and some decisions."""
    logs = [LogBuilder("00" * 7 + "01"), LogBuilder("00" * 7 + "02")]
    records = []
    at = START
    for number in range(EVENTS):
        at += chosen.randrange(1, 3) * SECOND
        log = chosen.choice(logs)
        if number > 4 and chosen.random() < 0.15:
            records.append(log.decision(at, decision(chosen)))
            continue
        message: Message = {"type": "identify", "messageId": f"m{number}", "traits": {}}
        if chosen.random() < 0.6:
            message["userId"] = f"u{chosen.randrange(3)}"
        if chosen.random() < 0.5:
            message["traits"]["email"] = f"e{chosen.randrange(4)}@example.com"
        message["anonymousId"] = f"a{chosen.randrange(5)}"
        records.append(log.record(at, [message]))
    return records


def decision(chosen: random.Random) -> facts.Fact:
    one, other = chosen.sample(
        [Identifier("user_id", f"u{n}") for n in range(3)]
        + [Identifier("email", f"e{n}@example.com") for n in range(4)]
        + [Identifier("anonymous_id", f"a{n}") for n in range(5)],
        2,
    )
    ids = [ident_id(KEY, "users", named).hex() for named in (one, other)]
    if chosen.random() < 0.5:
        return facts.Unlink(
            by="test", collection="users", one=ids[0], other=ids[1], apart=chosen.random() < 0.7
        )
    return facts.Quarantine(by="test", collection="users", ident=ids[0], quarantined=chosen.random() < 0.7)


@pytest.mark.parametrize("seed", range(16))
def test_what_comes_during_a_replay_is_taken_in(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(seed)
    records = story(chosen)
    undisturbed = Desk(tmp_path / "undisturbed")
    undisturbed.apply(records)
    expected = undisturbed.state_tables()
    undisturbed.close()

    most = chosen.choice([1, 1, 2, 3, 5])
    monkeypatch.setattr(resolve, "REPLAY_SETS_MAX", most)
    desk = Desk(tmp_path / "disturbed")
    waited = 0
    for batch in arrivals(chosen, records):
        desk.apply(batch)
        waited += len(list(desk.batcher.waiting()))
        match chosen.randrange(4):
            case 0:
                desk.batcher.tend_replays()
            case 1:
                desk.batcher.tend_replays(wait_seconds=30)
            case 2 if chosen.random() < 0.3:
                desk.restart()
    while desk.batcher.tend_replays(wait_seconds=30):
        pass
    found = desk.state_tables()
    assert waited or most > 1, "without a replay that waits this tests nothing"
    assert desk.applied().totals.get("failed", 0) == 0
    assert desk.verify() == []
    desk.close()
    for name, rows in expected.items():
        assert found[name] == rows, name


def arrivals(chosen: random.Random, records: list[Record]) -> list[list[Record]]:
    """Return the records cut into micro-batches, those of the second log a good deal late."""
    first = [record for record in records if record.log_id.endswith("1")]
    second = [record for record in records if record.log_id.endswith("2")]
    batches = []
    while first or second:
        take = chosen.randrange(1, 5)
        source = first if first and (not second or chosen.random() < 0.8) else second
        batches.append(source[:take])
        del source[:take]
    return batches
