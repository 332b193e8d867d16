"""Many small plans on one engine: what all of them ask next is asked as one job.

A job of a cluster costs a second however little there is to do, and a case of a few events has fifteen steps. So
each plan runs in a thread of its own, on a seat. When every plan waits for an answer, all that they asked goes to
the engine together, each plan's parts behind those of the one before, and the answers go back to their seats.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from profilelake.engines.engine import Cut, CutUp, Engine, Gather, Work

Result = TypeVar("Result")


@dataclass
class _Asked:
    """What one plan asked of its engine; without `gather` it is `each`."""

    name: str
    units: Sequence[Any]
    work: Any
    inputs: Mapping[str, pa.Schema] = field(default_factory=dict)
    parts: int = 0
    gather: Gather | None = None
    answer: Any = None
    error: BaseException | None = None

    @property
    def kind(self) -> object:
        """What must be equal of all that is asked together."""
        return self.gather is None, tuple((name, schema.to_string()) for name, schema in self.inputs.items())


class _Seat:
    """The engine as one plan sees it."""

    def __init__(self, together: "_Together", number: int) -> None:
        self._together, self._number = together, number
        self.name = together.engine.name
        self.tasks = 1

    def each(self, name: str, units: Sequence[Any], work: Work[Any]) -> list[bytes]:
        found: list[bytes] = self._together.ask(self._number, _Asked(name, units, work))
        return found

    def spread(
        self,
        name: str,
        units: Sequence[Any],
        cut: CutUp[Any],
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Gather,
    ) -> dict[int, bytes]:
        asked = _Asked(name, units, cut, inputs, parts, gather)
        found: dict[int, bytes] = self._together.ask(self._number, asked)
        return found

    def close(self) -> None:
        """The engine is somebody else's."""


@dataclass(frozen=True)
class _EachOf:
    works: Mapping[int, Work[Any]]

    def __call__(self, unit: tuple[int, Any]) -> bytes:
        return self.works[unit[0]](unit[1])


@dataclass(frozen=True)
class _CutOf:
    cuts: Mapping[int, CutUp[Any]]
    starts: Mapping[int, int]

    def __call__(self, unit: tuple[int, Any]) -> Iterator[Cut]:
        for cut in self.cuts[unit[0]](unit[1]):
            parts = (cut.parts + self.starts[unit[0]]).astype(np.int32)
            yield Cut(cut.input, cut.rows, parts)


@dataclass(frozen=True)
class _GatherOf:
    starts: Sequence[int]
    gathers: Sequence[Gather]

    def __call__(self, part: int, rows: Mapping[str, pa.Table]) -> bytes:
        place = bisect_right(self.starts, part) - 1
        return self.gathers[place](part - self.starts[place], rows)


class _Together:
    def __init__(self, engine: Engine, seats: int) -> None:
        self.engine = engine
        self.jobs = 0
        self._changed = threading.Condition()
        self._running = seats
        self._waiting: dict[int, _Asked] = {}

    def ask(self, seat: int, asked: _Asked) -> Any:
        """Wait until the engine has answered."""
        with self._changed:
            self._waiting[seat] = asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting.get(seat) is not asked)
        if asked.error is not None:
            raise asked.error
        return asked.answer

    def left(self) -> None:
        """A plan has ended."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def serve(self) -> None:
        """Answer until no plan is left."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._waiting) == self._running)
                if not self._running:
                    return
                waiting = dict(sorted(self._waiting.items()))
            alike: dict[object, dict[int, _Asked]] = {}
            for seat, asked in waiting.items():
                alike.setdefault(asked.kind, {})[seat] = asked
            for group in alike.values():
                self._answer(group)
            with self._changed:
                self._waiting.clear()
                self._changed.notify_all()

    def _answer(self, group: Mapping[int, _Asked]) -> None:
        self.jobs += 1
        try:
            first = next(iter(group.values()))
            (self._each if first.gather is None else self._spread)(first.name, group)
        except BaseException as error:  # noqa: BLE001 - every plan that asked is told
            for asked in group.values():
                asked.error = error

    def _each(self, name: str, group: Mapping[int, _Asked]) -> None:
        units = [(seat, unit) for seat, asked in group.items() for unit in asked.units]
        works = {seat: asked.work for seat, asked in group.items()}
        answers = iter(self.engine.each(name, units, _EachOf(works)))
        for asked in group.values():
            asked.answer = [next(answers) for _ in asked.units]

    def _spread(self, name: str, group: Mapping[int, _Asked]) -> None:
        units = [(seat, unit) for seat, asked in group.items() for unit in asked.units]
        ends = np.cumsum([asked.parts for asked in group.values()]).tolist()
        starts = [0, *ends[:-1]]
        cut = _CutOf(
            {seat: asked.work for seat, asked in group.items()}, dict(zip(group, starts, strict=True))
        )
        gather = _GatherOf(starts, [asked.gather for asked in group.values() if asked.gather is not None])
        inputs = next(iter(group.values())).inputs
        answers = self.engine.spread(name, units, cut, inputs, ends[-1], gather)
        for asked in group.values():
            asked.answer = {}
        by_place = list(group.values())
        for part, answer in sorted(answers.items()):
            place = bisect_right(starts, part) - 1
            by_place[place].answer[part - starts[place]] = answer


def together(engine: Engine, plans: Sequence[Callable[[Engine], Result]]) -> tuple[list[Result], int]:
    """Run plans side by side on one engine; return what each returned, in order, and how many jobs it took.

    The first error of a plan is raised when all have ended.
    """
    shared = _Together(engine, len(plans))
    found: dict[int, Result] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            found[number] = plans[number](_Seat(shared, number))
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            errors.append(error)
        finally:
            shared.left()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(plans))]
    for thread in threads:
        thread.start()
    shared.serve()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [found[number] for number in range(len(plans))], shared.jobs
