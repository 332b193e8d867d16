"""The steps from each format of a data directory to the next.

What is here has run on the directories of users: add to the end, change nothing. A step may be
killed anywhere and is then run again from its beginning, so it must take what it meets half done.
A change of the online state alone is no step: the state has a format of its own, and is made again
by `profilelake rebuild`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from profilelake.settings import Layout


@dataclass(frozen=True, slots=True)
class Step:
    """What brings a directory of format `to - 1` to format `to`.

    A `quick` one takes no longer than a start of the server may, and is done there unasked.
    """

    to: int
    about: str
    quick: bool
    run: Callable[[Layout], None]


def _tell_more(layout: Layout) -> None:
    """Do nothing to the files: with this format a directory tells which program wrote it."""


STEPS: Final = (Step(2, "tell which program wrote the directory", quick=True, run=_tell_more),)
