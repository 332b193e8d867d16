"""Whom a writer believes about the time when it starts."""

from pathlib import Path

import pytest

from profilelake.eventlog._clock import (
    ANCHOR_AGE_MAX,
    ANCHOR_NAME,
    CORRECTION_MAX,
    SETTLE,
    Anchor,
    Stamps,
    forget_clock,
)
from profilelake.eventlog._files import Files

SECOND = 1_000_000
YEAR = 365 * 86400 * SECOND
WALL = 1_700_000_000 * SECOND


class Clocks:
    """A wall clock and a steady clock, of which the first can be set wrong."""

    def __init__(self) -> None:
        self.steady = 50 * SECOND
        self.skew = 0

    def wall(self) -> int:
        return WALL + self.steady + self.skew

    def stamps(self, newest: int = 0, offset: int | None = None) -> Stamps:
        return Stamps(newest, self.wall, lambda: self.steady, offset)


def test_what_the_living_believe_is_found_until_it_is_old(tmp_path: Path) -> None:
    anchor = Anchor(tmp_path, Files())
    assert anchor.read(0) is None
    anchor.write(WALL, 100)
    assert Anchor(tmp_path, Files()).read(100 + ANCHOR_AGE_MAX) == WALL
    assert anchor.read(101 + ANCHOR_AGE_MAX) is None
    assert anchor.read(99) is None, "the steady clock has started again"
    anchor.write(-WALL, 200)
    assert anchor.read(200) == -WALL
    forget_clock(tmp_path)
    forget_clock(tmp_path / "nothing")
    assert anchor.read(200) is None


def test_nothing_is_believed_of_another_boot_or_of_a_damaged_file(tmp_path: Path) -> None:
    anchor = Anchor(tmp_path, Files())
    anchor.write(WALL, 100)
    whole = (tmp_path / ANCHOR_NAME).read_bytes()
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / ANCHOR_NAME).write_bytes(flipped)
        assert anchor.read(100) is None
    (tmp_path / ANCHOR_NAME).write_bytes(whole[:-1])
    assert anchor.read(100) is None
    (tmp_path / ANCHOR_NAME).write_bytes(whole)
    anchor._boot = bytes(16)
    assert anchor.read(100) is None


def test_a_place_that_cannot_be_written_is_nobodys_fault(tmp_path: Path) -> None:
    Anchor(tmp_path / "missing", Files()).write(WALL, 100)
    unknown = Anchor(tmp_path, Files())
    unknown._boot = b""
    unknown.write(WALL, 100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("years", [10, -10])
def test_a_writer_that_starts_under_a_wrong_clock_waits_and_goes_on_when_it_is_right(years: int) -> None:
    clocks = Clocks()
    first = clocks.stamps()
    assert first.trouble() is None
    newest = first.take(1)
    clocks.skew = years * YEAR
    second = clocks.stamps(newest, first.offset)
    assert "wall clock" in str(second.trouble())
    clocks.skew = 0
    clocks.steady += SECOND
    assert second.trouble() is None
    assert newest < second.take(1) <= clocks.wall()


def test_a_machine_that_boots_in_the_past_goes_on_once_its_clock_is_set() -> None:
    clocks = Clocks()
    newest = clocks.wall()
    clocks.skew = -50 * YEAR
    stamps = clocks.stamps(newest)
    assert "behind" in str(stamps.trouble())
    clocks.skew = 0
    clocks.steady += 30 * SECOND
    # Its clock was known to be wrong, so the leap to the right time is none to distrust.
    assert stamps.trouble() is None


def test_a_correction_is_accepted_after_a_while_and_a_leap_of_hours_is_not() -> None:
    clocks = Clocks()
    stamps = clocks.stamps()
    assert stamps.trouble() is None
    clocks.skew = CORRECTION_MAX - SECOND
    assert "ahead" in str(stamps.trouble())
    clocks.steady += SETTLE
    assert stamps.trouble() is None
    clocks.skew += 2 * CORRECTION_MAX
    for _ in range(3):
        clocks.steady += SETTLE
        assert "restart the server" in str(stamps.trouble())
