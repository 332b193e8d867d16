"""What failed events keep of the batch they came in, when some of them are taken out."""

import numpy as np

from log_records import record
from profilelake.landing.parse import parse
from profilelake.landing.requests import Request, batches_of, left_of
from profilelake.semantics.rules import segment_defaults

BATCH = b'{"context":{"a":1},"sentAt":"2026-03-01T10:00:00Z","batch":[{"type":"page"},{"type":"page"},{"type":"page"}]}'
SAID = '{"sentAt":"2026-03-01T10:00:00Z","context":{"a":1}}'
PLAIN = b'{"batch":[{"type":"page"},{"type":"page"}]}'


def test_it_stays_with_the_first_that_is_left() -> None:
    failed = parse([record(BATCH, events=3), record(PLAIN, events=2, offset=900)], segment_defaults()).failed
    assert failed.column("batch").to_pylist() == [SAID, None, None, None, None]
    assert batches_of(failed) == [SAID, SAID, SAID, None, None]
    for keep, batches in (
        ([True, True, True, True, True], [SAID, None, None, None, None]),
        ([False, True, True, True, False], [SAID, None, None]),
        ([False, False, False, False, True], [None]),
        ([False, False, True, False, False], [SAID]),
        ([False] * 5, []),
    ):
        left = left_of(failed, np.array(keep))
        assert left.column("batch").to_pylist() == batches
        assert left.schema == failed.schema


def test_text_that_no_json_can_hold_is_kept_as_far_as_it_can() -> None:
    request = Request.of(record(b"{}", ip="\ud800", sent_at="\udfff"), packed=False)
    assert Request.decode(request.encode()) == request
    assert Request.decode(None) == Request()


def test_what_cannot_be_unpacked_has_no_body() -> None:
    assert Request(encoding="gzip").body(b"no gzip") == b""
    assert Request(encoding="zstd").body(b"no zstd") == b""
    assert Request().body(b"{}") == b"{}"
