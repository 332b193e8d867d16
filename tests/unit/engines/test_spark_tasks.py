"""What runs in Spark's Python workers, without Spark: cut, sorted by part, gathered."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine_laws
from engine_laws import INPUTS, Unit, check_spread, cut, gather, rows_of
from profilelake.engines import _spark_tasks
from profilelake.engines._lanes import lanes, spark_hash
from profilelake.engines._spark_tasks import CutTask, EachTask, GatherTask, TaskFailed, Units, failure_in
from profilelake.engines.engine import Cut
from profilelake.errors import Internal, Invalid, Unavailable

PARTS = 7
ROWS = st.lists(st.tuples(st.integers(0, 99), st.integers(0, PARTS - 1)), max_size=40).map(tuple)
PIECES = st.tuples(st.sampled_from(["people", "numbers"]), ROWS)
UNITS = st.lists(st.lists(PIECES, max_size=4).map(tuple), max_size=5)


class Sorting:
    """An engine that moves blobs as Spark does, in one list."""

    name = "sorting"
    tasks = 1

    def __init__(self, batch: int = 3) -> None:
        self.batch = batch

    def each(self, _: str, units: Sequence[Any], work: Any) -> list[bytes]:
        task = sent(EachTask(Units.of(units), work))
        batches = list(task([numbers(*range(len(units)))]))
        return [batch["answer"][0].as_py() for batch in batches]

    def spread(
        self,
        _: str,
        units: Sequence[Any],
        cut: Any,
        inputs: Mapping[str, pa.Schema],
        parts: int,
        gather: Any,
    ) -> dict[int, bytes]:
        named = tuple(inputs.items())
        cutting = sent(CutTask(Units.of(units), cut, named, lanes(parts, 3)))
        blobs = pa.Table.from_batches(cutting([numbers(*range(len(units)))]), _spark_tasks._BLOBS)
        assert all(size.as_py() <= _spark_tasks.BLOB_BYTES_MAX for size in pc.binary_length(blobs["rows"]))
        batches = blobs.sort_by("part").to_batches(max_chunksize=self.batch)
        answers = [answer for batch in [GatherTask(gather, named)(batches)] for answer in batch]
        return {answer["number"][0].as_py(): answer["answer"][0].as_py() for answer in answers}

    def close(self) -> None: ...


def sent(task: Any) -> Any:
    """Return a task as it arrives elsewhere."""
    return pickle.loads(pickle.dumps(task))  # noqa: S301


def numbers(*units: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(units, pa.int64())], names=["id"])


class TestSpread:
    @settings(max_examples=25)
    @given(units=UNITS, batch=st.integers(1, 20))
    def test_every_row_comes_to_its_part_once(self, units: list[Unit], batch: int) -> None:
        check_spread(Sorting(batch), units, PARTS)

    @settings(max_examples=25)
    @given(units=UNITS, blob=st.integers(1, 3000), cut=st.integers(1, 5000), batch=st.integers(1, 3000))
    def test_whatever_the_limits_are(self, units: list[Unit], blob: int, cut: int, batch: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_spark_tasks, "BLOB_BYTES_MAX", blob)
            patch.setattr(_spark_tasks, "CUT_BYTES", cut)
            patch.setattr(_spark_tasks, "BATCH_BYTES", batch)
            engine = Sorting()
            engine.spread = _unlimited(engine)  # type: ignore[method-assign]
            check_spread(engine, units, PARTS)

    def test_a_blob_stays_small(self) -> None:
        rows = rows_of("people", [4] * 400_000)
        one = Cut("people", rows, np.zeros(rows.num_rows, np.int32))

        def cut_one(_: int) -> Iterator[Cut]:
            yield one

        task = CutTask(Units.of([0]), cut_one, tuple(INPUTS.items()), lanes(1, 1))
        sizes = [len(blob) for batch in task([numbers(0)]) for blob in batch["rows"].to_pylist()]
        assert 1 < len(sizes) < 20
        assert max(sizes) <= _spark_tasks.BLOB_BYTES_MAX

    def test_memory_of_blobs_is_aligned(self) -> None:
        """Kernels read numbers where they lie."""

        def look(part: int, tables: Mapping[str, pa.Table]) -> bytes:
            for chunk in tables["numbers"]["id"].chunks:
                assert chunk.buffers()[1].address % 8 == 0
            return b""

        units = [(("numbers", tuple((id, id % 3) for id in range(50))),)]
        assert set(Sorting().spread("look", units, cut, INPUTS, 3, look)) == {0, 1, 2}

    def test_parts_out_of_order_are_never_answered_in_pieces(self) -> None:
        named = tuple(INPUTS.items())
        cutting = CutTask(Units.of([(("numbers", ((1, 0), (2, 1))),)]), cut, named, lanes(2, 2))
        (batch,) = cutting([numbers(0)])
        backwards = batch.take(pa.array([1, 0]))
        with pytest.raises(TaskFailed) as raised:
            list(GatherTask(gather, named)([backwards]))
        assert "gathering part 0 after part 1" in str(failure_in(str(raised.value)))

    @pytest.mark.parametrize("parts", [[0], [0, 2], [0, -1]])
    def test_parts_that_do_not_fit_are_refused(self, parts: list[int]) -> None:
        def cut_wrong(_: int) -> Iterator[Cut]:
            yield Cut("numbers", rows_of("numbers", [1, 2]), np.array(parts, np.int32))

        task = CutTask(Units.of([0]), cut_wrong, tuple(INPUTS.items()), lanes(2, 2))
        with pytest.raises(TaskFailed, match="Internal"):
            list(task([numbers(0)]))


def _unlimited(engine: Sorting) -> Any:
    """Spread as `Sorting` does; a row that is larger than a blob may be is a blob by itself."""

    def spread(name: str, units: Any, cut: Any, inputs: Any, parts: int, gather: Any) -> dict[int, bytes]:
        named = tuple(inputs.items())
        cutting = CutTask(Units.of(units), cut, named, lanes(parts, 2))
        batches = list(cutting([numbers(*range(len(units)))]))
        blobs = pa.Table.from_batches(batches, _spark_tasks._BLOBS).sort_by("part")
        answers = GatherTask(gather, named)(blobs.to_batches(max_chunksize=engine.batch))
        return {answer["number"][0].as_py(): answer["answer"][0].as_py() for answer in answers}

    return spread


class TestErrors:
    @pytest.mark.parametrize(
        ("work", "kind", "text"),
        [
            (engine_laws.refuses, Invalid, 'unit 1 says "no"\nand ümlauts; give another'),
            (
                engine_laws.no_room,
                Unavailable,
                "a task could not go on: [Errno 28] No space left on device: 'spill'",
            ),
        ],
    )
    def test_errors_come_through_text(self, work: Any, kind: type[Exception], text: str) -> None:
        with pytest.raises(TaskFailed) as raised:
            Sorting().each("fail", [1], work)
        told = failure_in(
            f"Job aborted: PythonException: Traceback ...\n  {raised.value}\n  at org.apache.spark"
        )
        assert type(told) is kind
        assert str(told) == text

    def test_mistakes_are_told_by_their_place(self) -> None:
        with pytest.raises(TaskFailed) as raised:
            Sorting().each("fail", [1], engine_laws.breaks)
        told = failure_in(str(raised.value))
        assert isinstance(told, Internal)
        assert "KeyError in engine_laws.py:" in str(told)
        assert "ana@" not in str(raised.value)

    def test_long_texts_are_cut(self) -> None:
        def long(_: int) -> bytes:
            raise Invalid("x" * 10_000)

        with pytest.raises(TaskFailed) as raised:
            list(EachTask(Units.of([1]), long)([numbers(0)]))
        assert len(str(raised.value)) < 1000

    def test_other_text_is_no_error_of_a_task(self) -> None:
        assert failure_in("java.lang.IllegalStateException at 12") is None
        assert failure_in("profilelake-task-error [broken] end") is None


class TestUnits:
    @settings(max_examples=30)
    @given(units=st.lists(st.text() | st.integers(), max_size=200))
    def test_each_is_what_it_was(self, units: list[object]) -> None:
        packed = Units.of(units)
        assert [packed[number] for number in range(len(units))] == units

    def test_too_many_bytes_are_refused(self) -> None:
        with pytest.raises(Invalid, match="cut the work into fewer units"):
            Units.of([np.random.default_rng(1).bytes(_spark_tasks.UNITS_BYTES_MAX + 1)])


class TestLanes:
    def test_the_hash_is_sparks(self) -> None:
        # What `select hash(0), hash(1), hash(42), hash(-1)` says.
        assert spark_hash(np.array([0, 1, 42, -1], np.int32)).tolist() == [
            933211791,
            -559580957,
            29417773,
            -1604776387,
        ]

    @settings(max_examples=50)
    @given(parts=st.integers(1, 3000), share=st.integers(1, 5))
    def test_every_partition_has_as_many_parts_as_the_next(self, parts: int, share: int) -> None:
        partitions = max(1, parts // share)
        fall = np.mod(spark_hash(lanes(parts, partitions)), partitions)
        counts = np.bincount(fall, minlength=partitions)
        assert counts.max() - counts.min() <= 1
        assert (np.diff(fall) >= 0).all()
