"""Work on many files at once ends early where it has to."""

import itertools
import signal
import threading
import time
from pathlib import Path

import pytest

from profilelake.backup.capture import Distant
from profilelake.backup.fetching import Fetcher, each_at_once
from profilelake.backup.pool import Pool
from profilelake.errors import Unavailable
from profilelake.lake.storage import LocalStorage


def test_an_interruption_ends_it_before_the_last_item() -> None:
    begun, waiting = itertools.count(), threading.main_thread().ident
    assert waiting is not None

    def work(item: int) -> None:
        next(begun)
        if item == 9:  # who waits does so by then
            signal.pthread_kill(waiting, signal.SIGINT)
        time.sleep(0.01)

    # Who runs the tests may have had the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            each_at_once(range(400), work, 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert next(begun) < 400


def test_the_first_error_ends_it_and_is_raised() -> None:
    begun = itertools.count()

    def work(item: int) -> None:
        next(begun)
        if item == 0:
            raise ValueError("the first")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="the first"):
        each_at_once(range(400), work, 2)
    assert next(begun) < 400


def test_a_folder_of_backups_that_is_gone_is_not_taken_for_a_table_that_moved_on(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"rows")
    storage = LocalStorage(str(tmp_path))
    there, gone = (Distant(name, str(tmp_path / name), 4, (1, 1)) for name in ("there", "gone"))
    unmounted = tmp_path / "backups"
    with pytest.raises(Unavailable, match=r"backing up .*/there: .*/backups/.*; see that the folder"):
        Fetcher(Pool(unmounted), unmounted / "notes", None).fetch(storage, [there])
    unmounted.mkdir()
    with pytest.raises(FileNotFoundError, match=r"/gone is gone"):
        Fetcher(Pool(unmounted), unmounted / "notes", None).fetch(storage, [gone])
