"""Every single byte of a log flipped, not only some of every region."""

from pathlib import Path

import pytest
from test_eventlog_flips import check_segments, check_watermark, log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

__all__ = ["log"]


def test_every_byte_of_a_segment(log: Path) -> None:
    check_segments(log, 1)


def test_every_byte_of_the_watermark_file(log: Path) -> None:
    check_watermark(log, 1)
