"""Bodies packed with zstd, whole and damaged."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from log_records import by_landing, record
from profilelake.eventlog import Flags, Kind, Record
from profilelake.landing import _bodies
from profilelake.landing._bodies import Damaged, unpack
from profilelake.semantics.events import Lines
from profilelake.semantics.rules import segment_defaults

BODY = b'{"type":"page","userId":"u"}\n' * 2000


def packed(body: bytes, *, events: int = 2000) -> Record:
    return record(body, kind=Kind.LINES, flags=Flags.ZSTD, events=events, ip=Lines("n").encode())


def test_what_was_packed_comes_out() -> None:
    assert unpack(packed(zstd(BODY))) == BODY
    assert unpack(packed(b"")) == b""


@pytest.mark.parametrize(
    "spoil", [lambda body: body[:-1], lambda body: body[:7], lambda body: body + b"x", lambda _: b"x"]
)
def test_damage_is_told_and_costs_only_this_record(spoil: Callable[[bytes], bytes]) -> None:
    damaged = packed(spoil(zstd(BODY)))
    with pytest.raises(Damaged, match="zstd"):
        unpack(damaged)
    whole = packed(zstd(BODY))._replace(offset=1)
    events, failed, _ = by_landing([damaged, whole], segment_defaults())
    assert (len(events), len(failed)) == (2000, 2000)
    assert {row["reason"] for row in failed} == {"undecodable_record"}


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bodies, "BODY_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(_bodies, "_ZSTD_STEP", 1 << 16)
    with pytest.raises(Damaged, match="more than 1048576 bytes"):
        unpack(packed(zstd(b"\0" * (1 << 28))))


def zstd(body: bytes) -> bytes:
    out: bytes = pa.compress(body, "zstd", asbytes=True)
    return out
