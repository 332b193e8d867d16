"""What `parse` adds to the meaning of single records: unpacking, chunks, order, and the balance of counts."""

import gzip
import random

import pytest

from log_records import by_landing, by_reference, record
from profilelake.errors import Unavailable
from profilelake.eventlog import Flags, Kind, Record
from profilelake.landing import _bodies
from profilelake.landing import parse as parse_module
from profilelake.landing.parse import EVENTS, FAILED, IDENTIFIERS, parse
from profilelake.landing.tables import EVENTS as EVENTS_TABLE
from profilelake.landing.tables import FAILED_EVENTS
from profilelake.semantics.rules import segment_defaults

RULES = segment_defaults()
BODY = b'{"batch":[{"type":"page","userId":"u","messageId":"m"}]}'


def packed(body: bytes, **facts: object) -> Record:
    return record(body, flags=Flags.GZIP, **facts)


def detail_of(item: Record) -> str:
    events, failed, parsed = by_landing([item], RULES)
    assert (events, len(failed), parsed.exact) == ([], 1, 1)
    assert failed[0]["reason"] == "undecodable_record"
    assert failed[0]["raw"] == item.body
    detail: str = failed[0]["detail"]
    return detail


def test_no_records_give_empty_tables() -> None:
    parsed = parse([], RULES)
    assert (parsed.events.schema, parsed.identifiers.schema, parsed.failed.schema) == (
        EVENTS,
        IDENTIFIERS,
        FAILED,
    )
    assert (
        parsed.events.num_rows == parsed.identifiers.num_rows == parsed.failed.num_rows == parsed.exact == 0
    )


def test_columns_are_those_of_the_tables() -> None:
    given = {field.name: field.type for field in EVENTS}
    for field in EVENTS_TABLE.schema():
        if field.name not in ("set_id", "account_set_id"):
            assert given.pop(field.name) == field.type
    assert not given
    assert {field.name: field.type for field in FAILED} == {f.name: f.type for f in FAILED_EVENTS.schema()}


def test_gzip_of_several_members_is_read_to_its_end() -> None:
    body = gzip.compress(BODY[:20]) + gzip.compress(b"") + gzip.compress(BODY[20:])
    events, failed, parsed = by_landing([packed(body)], RULES)
    assert ([event["message_id"] for event in events], failed, parsed.exact) == (["m"], [], 0)


@pytest.mark.parametrize("cut", [0, 1, 9, 10, 15, -9, -8, -1])
def test_gzip_that_is_cut_off_is_refused(cut: int) -> None:
    assert detail_of(packed(gzip.compress(BODY)[:cut])).startswith("gzip: the data ends too early")


def test_gzip_with_a_wrong_checksum_is_refused() -> None:
    damaged = bytearray(gzip.compress(BODY))
    damaged[-6] ^= 1
    assert "gzip: " in detail_of(packed(bytes(damaged)))


def test_what_is_no_gzip_is_refused() -> None:
    assert "gzip: " in detail_of(packed(BODY))


def test_gzip_with_something_behind_is_refused() -> None:
    assert detail_of(packed(gzip.compress(BODY) + b"x")) == "gzip: other data follows the end"


def test_a_bomb_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bodies, "BODY_BYTES_MAX", 1000)
    assert (
        detail_of(packed(gzip.compress(BODY + b" " * 1000))) == "gzip: more than 1000 bytes after unpacking"
    )
    spread = gzip.compress(BODY + b" " * 600) + gzip.compress(b" " * 600)
    assert detail_of(packed(spread)) == "gzip: more than 1000 bytes after unpacking"
    assert by_landing([packed(gzip.compress(BODY.ljust(1000)))], RULES)[1] == []


def test_an_undecodable_record_keeps_its_body_once() -> None:
    _, failed, _ = by_landing([packed(b"damaged", events=3)], RULES)
    assert [row["raw"] for row in failed] == [b"damaged", b"", b""]
    assert [row["position"][-1] for row in failed] == [0, 1, 2]


def test_rows_keep_the_order_of_records_read_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    records = []
    for offset in range(60):
        users = [str(rng.randrange(9)) for _ in range(rng.randrange(4))]
        items = [f'{{"type":"page","userId":"{user}","anonymousId":"a"}}' for user in users] + ["{}"]
        rng.shuffle(items)
        # Equal keys are left to the reference.
        odd = ',"x":1,"x":2' if rng.random() < 0.4 else ""
        body = f'{{"batch":[{",".join(items)}]{odd}}}'.encode()
        records.append(record(body, events=len(items), offset=offset))
    whole = by_landing(records, RULES)
    assert whole[:2] == by_reference(records, RULES)
    assert 0 < whole[2].exact < len(records)
    for rows in whole[:2]:
        assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)
    monkeypatch.setattr(parse_module, "CHUNK_BYTES", 300)
    assert by_landing(records, RULES)[:2] == whole[:2]


def test_more_identifiers_than_there_is_room_for() -> None:
    entry = '{"id":"%d","type":"phone","collection":"users","encoding":"none"}'
    listed = ",".join(entry % number for number in range(450))
    items = ",".join([f'{{"type":"page","context":{{"externalIds":[{listed}]}}}}'] * 8)
    records = [record(f'{{"batch":[{items}]}}'.encode(), events=8)]
    events, failed, _ = by_landing(records, RULES)
    assert (events, failed) == by_reference(records, RULES)
    assert len(events[0]["users"]) == 450


def test_the_tolerant_flag_asks_the_reference() -> None:
    assert parse([record(BODY, flags=Flags.TOLERANT)], RULES).exact == 1
    assert parse([record(BODY)], RULES).exact == 0


def test_a_count_that_cannot_be_makes_no_room() -> None:
    parsed = parse([record(b"{}", kind=Kind.BATCH, events=1000)], RULES)
    assert parsed.failed.num_rows == 1000


def test_a_record_of_a_newer_program_stops_the_reader() -> None:
    with pytest.raises(Unavailable, match="extraction version 2"):
        parse([record(BODY), record(BODY, extraction_version=2)], RULES)
