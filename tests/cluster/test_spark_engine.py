"""The laws of an engine, on Spark."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from engine_laws import KilledOnce, always_killed, breaks, check_spread, doubled, no_room, refuses, waits
from profilelake.engines._lanes import spark_hash
from profilelake.engines.distributed import Progress, SparkEngine
from profilelake.engines.engine import Engine
from profilelake.errors import Internal, Invalid, Unavailable

ROWS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 6)), max_size=30).map(tuple)
UNITS = st.lists(
    st.lists(st.tuples(st.sampled_from(["people", "numbers"]), ROWS), max_size=3).map(tuple), max_size=4
)


class TestEach:
    def test_answers_are_in_the_order_of_the_units(self, engine: Engine) -> None:
        assert engine.each("double", list(range(10)), doubled) == [
            str(2 * unit).encode() for unit in range(10)
        ]
        assert engine.each("double", [], doubled) == []


class TestSpread:
    @settings(max_examples=3)
    @given(units=UNITS)
    def test_every_row_comes_to_its_part_once(self, spark_engine: SparkEngine, units: list) -> None:
        check_spread(spark_engine, units, 7)

    def test_many_parts(self, spark_engine: SparkEngine) -> None:
        rows = tuple((id, id * 61 % 24) for id in range(300))
        check_spread(spark_engine, [(("people", rows),), (("numbers", rows[:5]),)], 24)


class TestFailures:
    def test_an_error_of_the_work_is_the_callers_error(self, engine: Engine) -> None:
        with pytest.raises(Invalid, match="give another") as raised:
            engine.each("refuse", [1], refuses)
        assert str(raised.value) == 'unit 1 says "no"\nand ümlauts; give another'

    def test_a_full_disk_can_be_retried(self, spark_engine: SparkEngine) -> None:
        with pytest.raises(Unavailable, match="No space left"):
            spark_engine.each("full", [1], no_room)

    def test_a_mistake_is_told_without_what_it_was_about(self, spark_engine: SparkEngine) -> None:
        with pytest.raises(Internal, match=r"KeyError in engine_laws.py:\d+") as raised:
            spark_engine.each("break", [1], breaks)
        assert "ana@" not in str(raised.value)

    def test_what_a_killed_worker_did_is_done_again(self, spark_engine: SparkEngine, tmp_path: Path) -> None:
        answers = spark_engine.each("kill", [1, 2, 3], KilledOnce(str(tmp_path)))
        assert answers == [b"2", b"4", b"6"]
        assert len(list(tmp_path.iterdir())) >= 6

    def test_workers_killed_again_and_again_are_not_tried_for_ever(self, spark_engine: SparkEngine) -> None:
        with pytest.raises(Unavailable, match="memoryOverhead"):
            spark_engine.each("kill", [1], always_killed)
        assert spark_engine.each("double", [1], doubled) == [b"2"]


class TestWatching:
    def test_progress_is_told(self, spark: SparkSession) -> None:
        seen: list[Progress] = []
        SparkEngine(spark, "local[2]", progress=seen.append).each("wait", [1, 2, 3, 4], waits)
        assert seen
        assert all(0 <= one.done <= one.tasks <= 4 and one.step == "wait" for one in seen)
        assert seen[-1].tasks == 4

    def test_an_interrupted_step_stops_on_the_cluster(self, spark: SparkSession) -> None:
        def interrupt(progress: Progress) -> None:
            if progress.tasks:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            SparkEngine(spark, "local[2]", progress=interrupt).each("wait", list(range(1000)), waits)
        assert spark.sparkContext.statusTracker().getActiveJobsIds() == []

    def test_parts_fall_on_partitions_as_spark_hashes(self, spark: SparkSession) -> None:
        keys = [0, 1, -1, 7, 2**31 - 1, -(2**31)]
        frame = spark.createDataFrame([(key,) for key in keys], "key int").selectExpr("hash(key)")
        assert [row[0] for row in frame.collect()] == spark_hash(np.array(keys, np.int32)).tolist()
