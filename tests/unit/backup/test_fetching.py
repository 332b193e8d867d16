"""Work on many files at once ends early where it has to."""

import itertools
import signal
import threading
import time

import pytest

from profilelake.backup.fetching import each_at_once


def test_an_interruption_ends_it_before_the_last_item() -> None:
    begun, waiting = itertools.count(), threading.main_thread().ident
    assert waiting is not None

    def work(item: int) -> None:
        next(begun)
        if item == 9:  # who waits does so by then
            signal.pthread_kill(waiting, signal.SIGINT)
        time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        each_at_once(range(400), work, 2)
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
