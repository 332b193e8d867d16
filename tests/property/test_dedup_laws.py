"""The de-duplication index against a model that keeps everything in a dictionary.

Whatever the sizes of memory, runs and steps, however arrivals are cut into micro-batches, and
wherever the process is started anew or a transaction fails, the answers are those of the model; and
the answers to arrivals that were judged before are those they got then.
"""

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.landing import _dedup_runs, dedup
from profilelake.landing.dedup import ENTRY, DedupIndex, Entries, Verdict
from profilelake.state.store import State

W = "default"
MASK = (1 << 64) - 1


class Arrival(NamedTuple):
    """One event: the order of the last four fields is the order of positions."""

    message: int
    content: int
    at: int
    region: int
    log: int
    index: int

    @property
    def position(self) -> tuple[int, ...]:
        return self[2:]


@dataclass
class Known:
    content: int
    positions: list[tuple[int, ...]]


@dataclass
class Model:
    """What the index means: one arrival after the other, everything remembered for ever."""

    known: dict[int, Known] = field(default_factory=dict)

    def judge(self, arrival: Arrival) -> Verdict:
        known = self.known.get(arrival.message)
        if known is None:
            self.known[arrival.message] = Known(arrival.content, [arrival.position])
            return Verdict.ACCEPTED
        if arrival.position in known.positions:
            first = arrival.position == known.positions[0]
            return Verdict.ACCEPTED if first else Verdict.EARLIER_COPY
        if arrival.content != known.content:
            return Verdict.CONFLICT
        if arrival.position < known.positions[-1]:
            known.positions.append(arrival.position)
            return Verdict.EARLIER_COPY
        return Verdict.DUPLICATE

    def rows(self) -> int:
        return sum(len(known.positions) for known in self.known.values())


def hash_of(message: int, *, even: bool) -> tuple[int, int]:
    if not even:
        return message // 3, message  # equal and crowded first words
    mixed = (message + 1) * 0x9E3779B97F4A7C15 & MASK
    mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & MASK
    return mixed, mixed * 0x94D049BB133111EB & MASK


def entries(arrivals: list[Arrival], *, even: bool) -> Entries:
    made = np.zeros(len(arrivals), dtype=ENTRY)
    for row, arrival in enumerate(arrivals):
        made[row] = (
            *hash_of(arrival.message, even=even),
            arrival.at,
            arrival.log,
            arrival.region,
            arrival.index,
            arrival.content,
        )
    return made


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        message=st.integers(0, 12),
        content=st.sampled_from([0, 0, 0, 0, 0xFFFFFFFF]),
        at=st.integers(1, 6).map(lambda at: at << 40),
        region=st.integers(0, 1).map(lambda region: region * 0xFFFFFFFF),
        log=st.integers(0, 2).map(lambda log: log << 62 | log),
        index=st.integers(0, 40),
    ),
    max_size=60,
    unique_by=lambda arrival: arrival.position,
)
STEPS = st.lists(st.sampled_from(["go on", "go on", "go on", "start", "fail", "again", "many"]), max_size=40)


@settings(max_examples=60)
@given(
    arrivals=ARRIVALS,
    steps=STEPS,
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=10),
    even=st.booleans(),
    memory_max=st.integers(1, 30),
    fan_in=st.integers(2, 4),
    step_rows=st.sampled_from([1, 3, 200]),
    work_per_row=st.integers(3, 12),
)
def test_every_history_is_judged_as_the_model_judges_it(
    arrivals: list[Arrival],
    steps: list[str],
    sizes: list[int],
    even: bool,
    memory_max: int,
    fan_in: int,
    step_rows: int,
    work_per_row: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setattr(dedup, "MEMORY_ROWS_MAX", memory_max)
        patch.setattr(dedup, "FAN_IN", fan_in)
        patch.setattr(dedup, "WORK_PER_ROW", work_per_row)
        patch.setattr(dedup, "STEP_ROWS", step_rows)
        patch.setattr(dedup, "SEEN_DELETES_MAX", 2)
        patch.setattr(_dedup_runs, "STEP_ROWS", step_rows)
        patch.setattr(_dedup_runs, "READ_PAGES", 1)
        patch.setattr(_dedup_runs, "WRITEBACK_BYTES", 1)
        run = History(Path(home), arrivals, even=even)
        for number, step in enumerate([*steps, *["go on"] * len(arrivals), "start", "again"]):
            run.step(step, sizes[number % len(sizes)])
        run.close()


class History:
    """Takes the arrivals through an index and the model, step by step."""

    def __init__(self, home: Path, arrivals: list[Arrival], *, even: bool) -> None:
        self._left, self._even, self._directory = list(arrivals), even, home / "dedup"
        self._judged: list[tuple[Arrival, Verdict]] = []
        self._model, self._sequence = Model(), 0
        self._many = 100
        self._state = State.open(home / "state", writable=True)
        self._state.ensure([W])
        self._start()

    def close(self) -> None:
        self._state.close()

    def step(self, step: str, size: int) -> None:
        if step == "start":
            self._start()
            return
        if step == "again":
            self._apply([arrival for arrival, _ in self._judged], [v for _, v in self._judged])
            return
        if step == "many":
            batch = [Arrival(self._many + n, 0, 7 << 40, 0, self._many, n) for n in range(size * 60)]
            self._many += len(batch)
        else:
            batch, self._left = self._left[:size], self._left[size:]
        if step == "fail":
            self._left = batch + self._left
            self._fail(batch)
            return
        verdicts = [self._model.judge(arrival) for arrival in batch]
        self._apply(batch, verdicts)
        self._judged += zip(batch, verdicts, strict=True)

    def _start(self) -> None:
        with self._state.read(W) as tx:
            self._index = DedupIndex.load(tx, W, self._directory)
        assert self._index.rows() == self._model.rows()

    def _fail(self, batch: list[Arrival]) -> None:
        with contextlib.suppress(RuntimeError), self._state.write() as tx:
            self._index.add(tx, self._sequence + 1, self._index.judge(entries(batch, even=self._even)))
            raise RuntimeError("power cut")
        self._start()

    def _apply(self, batch: list[Arrival], verdicts: list[Verdict]) -> None:
        self._sequence += 1
        with self._state.write() as tx:
            judged = self._index.judge(entries(batch, even=self._even))
            assert judged.verdicts.tolist() == verdicts
            self._index.add(tx, self._sequence, judged)
        self._index.sweep()
        assert self._index.rows() == self._model.rows()
