"""Laws of the columnar engine: what it is asked about, and how its answers are held to the reference."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal
from unittest import mock

from hypothesis import strategies as st

from condition_subjects import WORKSPACE, columnar, kept, remembered
from condition_worlds import HOUR, Defined, World, definitions, expected, histories, moments
from profilelake.semantics.definitions import Json
from profilelake.state.store import State, Tx
from profilelake.traits import answers
from profilelake.traits.columns import NEVER

Way = Literal["by day", "as of the time", "from the state"]
Found = dict[str, tuple[list[Json], list[int]]]

_WAYS: Final[tuple[Way, ...]] = ("by day", "as of the time", "from the state")


@dataclass(frozen=True)
class Asked:
    """Definitions asked about a world at a time, how partials come about, and a later time."""

    made: list[Defined]
    world: World
    at: int
    way: Way
    slice: int
    later: int


@st.composite
def asked(draw: st.DrawFn, events: int = 12) -> Asked:
    """Return one question to the engine."""
    at = draw(moments())
    beyond = st.integers(1, 90 * HOUR).map(at.__add__)
    return Asked(
        made=draw(definitions()),
        world=draw(histories(events)),
        at=at,
        way=draw(st.sampled_from(_WAYS)),
        slice=draw(st.sampled_from((1, 2, answers.SLICE))),
        later=draw(moments().filter(lambda moment: moment > at) | beyond),
    )


def answers_are_right(one: Asked) -> None:
    """Hold the answers to those of the reference."""
    right = kept(one.made, expected(one.made, one.world, one.at))
    assert {key: values for key, (values, _) in _found(one).items()} == right


def answers_stand(one: Asked) -> None:
    """Hold the time at which an answer is said to change to what the reference says at a later time.

    Partials as of a time know nothing of what comes into a window later, so nothing is said about these.
    """
    if one.way == "as of the time":
        one = replace(one, way="by day")
    after = kept(one.made, expected(one.made, one.world, one.later))
    for key, (values, changes) in _found(one).items():
        for subject, (value, until) in enumerate(zip(values, changes, strict=True)):
            assert one.at < until <= NEVER
            if one.later < until:
                assert after[key][subject] == value, (key, subject)


def _found(one: Asked) -> Found:
    with mock.patch.object(answers, "SLICE", one.slice):
        if one.way == "from the state":
            with _undone() as tx:
                return remembered(tx, one.made, one.world, one.at)
        return columnar(one.made, one.world, one.at, exact=one.way == "as of the time")


class _Undo(Exception):
    """Nothing of an example is to be left in the state."""


@contextmanager
def _undone() -> Iterator[Tx]:
    with suppress(_Undo), _state().write() as tx:
        yield tx
        raise _Undo


@lru_cache(maxsize=1)
def _state() -> State:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    state = State.open(Path(folder) / "state", writable=True)
    state.ensure([WORKSPACE])
    return state
