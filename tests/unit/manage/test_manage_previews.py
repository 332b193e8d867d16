"""Previews: few at a time, kept for a day, and never running for ever."""

import asyncio
from pathlib import Path

import pytest

from profilelake.errors import Invalid, NotFound, Unavailable
from profilelake.manage.previews import (
    GONE_SECONDS,
    KEPT_SECONDS,
    RUNNING_MAX,
    Preview,
    Previews,
)

SECOND = 1_000_000
DONE = Preview("", "USERS", "COMPLETED", 0, results=[], size={"count": 7})


class Clock:
    """A clock that is set by hand."""

    now = 0

    def __call__(self) -> int:
        return self.now


def previews(directory: Path, clock: Clock) -> Previews:
    numbers = iter(range(1_000))
    return Previews(directory / "previews", clock, lambda: f"{next(numbers):024x}")


async def done() -> Preview:
    return DONE


async def never() -> Preview:
    await asyncio.Event().wait()
    return DONE


async def refused() -> Preview:
    raise Invalid("accounts cannot be previewed")


async def broken() -> Preview:
    raise ValueError("a fault of ours, with u1@example.com in it")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_preview_is_computed_and_kept(tmp_path: Path) -> None:
    kept = previews(tmp_path, Clock())

    async def main() -> tuple[Preview, Preview, Preview]:
        first, second = kept.start("USERS", done), kept.start("ACCOUNTS", refused)
        assert kept.get(first.id).status == "RUNNING"
        await settle()
        return first, kept.get(first.id), kept.get(second.id)

    first, good, bad = asyncio.run(main())
    assert (good.id, good.status, good.size) == (first.id, "COMPLETED", {"count": 7})
    assert (bad.status, bad.failure_reason) == ("FAILED", "accounts cannot be previewed")
    for id in ("pre_none", "../control.sqlite", "", f"pre_{'0' * 23}g"):
        with pytest.raises(NotFound, match="there is none"):
            kept.get(id)


def test_a_fault_ends_a_preview_and_makes_room_for_others(tmp_path: Path) -> None:
    kept = previews(tmp_path, Clock())

    async def main() -> list[Preview]:
        found = [kept.start("USERS", broken) for _ in range(RUNNING_MAX)]
        await settle()
        kept.start("USERS", done)
        await settle()
        return [kept.get(one.id) for one in found]

    for one in asyncio.run(main()):
        assert (one.status, one.failure_reason) == (
            "FAILED",
            "it could not be computed; the log of the server says why",
        )


def test_few_run_at_a_time_and_one_that_was_left_alone_counts_no_more(tmp_path: Path) -> None:
    clock = Clock()
    kept = previews(tmp_path, clock)

    async def main() -> None:
        started = [kept.start("USERS", never) for _ in range(RUNNING_MAX)]
        with pytest.raises(Unavailable, match="4 previews are being computed, the most is 4"):
            kept.start("USERS", done)
        clock.now = (GONE_SECONDS + 1) * SECOND
        gone = kept.get(started[0].id)
        assert (gone.status, gone.failure_reason) == (
            "FAILED",
            "the process that computed it has ended; ask for it again",
        )
        kept.start("USERS", done)
        await settle()

    asyncio.run(main())


def test_old_ones_are_removed(tmp_path: Path) -> None:
    clock = Clock()
    kept = previews(tmp_path, clock)

    async def main() -> None:
        old = kept.start("USERS", done)
        await settle()
        clock.now = (KEPT_SECONDS + 1) * SECOND
        new = kept.start("USERS", done)
        await settle()
        with pytest.raises(NotFound):
            kept.get(old.id)
        assert kept.get(new.id).status == "COMPLETED"

    asyncio.run(main())
