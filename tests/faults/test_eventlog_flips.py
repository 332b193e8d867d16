"""One flipped byte, in turn in every region of every file of a log: header, record, body, footer, watermark."""

import shutil
from pathlib import Path

import pytest

from eventlog_puppet import entry, read_all, write_log
from profilelake.eventlog._format import FOOTER_BYTES, HEADER_BYTES
from profilelake.eventlog.embedded import Limits

STRIDE = 7
"""The fast part flips every seventh byte; which ones differs between the files."""
BODIES = [b"first body", b"second body, a bit longer", b"third"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Return the root of a finished log: two segments, three records."""
    root = tmp_path / "log"
    write_log(root, [entry(body) for body in BODIES], limits=Limits(segment_bytes_max=150))
    assert len(list(root.rglob("*.seg"))) == 2
    return root


def test_every_region_of_a_segment(log: Path) -> None:
    check_segments(log, STRIDE)


def test_every_region_of_the_watermark_file(log: Path) -> None:
    check_watermark(log, STRIDE)


def check_segments(log: Path, stride: int) -> None:
    """A flipped byte is named, costs one record at most, and that only if it lies in it."""
    before, vector, _ = read_all(log)
    for number, path in enumerate(sorted(log.rglob("*.seg"))):
        content = path.read_bytes()
        end = len(content) - FOOTER_BYTES
        for place in range(number, len(content), stride):
            path.write_bytes(flipped(content, place))
            after, now, damage = read_all(log)
            offset = int(path.stem) + place - HEADER_BYTES
            inside = HEADER_BYTES <= place < end
            harmed = [r for r in before if inside and r.offset <= offset < r.next_offset]
            assert after == [record for record in before if record not in harmed]
            assert now == vector
            assert [(each.path, each.events) for each in damage] == [(str(path), len(harmed))]
        path.write_bytes(content)
    assert read_all(log) == (before, vector, [])


def check_watermark(log: Path, stride: int) -> None:
    """What the watermark file says wrongly costs nothing: the segments know."""
    before, vector, _ = read_all(log)
    path = next(log.rglob("watermark"))
    content = path.read_bytes()
    # Its header, both marks, and some of the unused rest.
    for place in [*range(0, HEADER_BYTES, stride), *range(1024, 1076), *range(2048, 2100), 3000, 4095]:
        path.write_bytes(flipped(content, place))
        assert read_all(log) == (before, vector, [])
    for spoilt in (b"", content[:100], bytes(4096), b"\xff" * 4096):
        path.write_bytes(spoilt)
        after, now, _ = read_all(log)
        assert (after, now) == (before, vector)
    shutil.rmtree(log)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
