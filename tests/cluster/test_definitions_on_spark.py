"""Definitions on Spark say what the reference says: every spec case about people, and random worlds."""

import pytest
from hypothesis import HealthCheck, given, settings

from batch_laws import Bounds, asked_of_events, bounds, the_whole_lake_gives_the_answers_of_the_reference
from condition_cases import FILES, answers_as_told, cases
from condition_lakes import on_lake, together
from condition_worlds import Defined, World, histories, moments
from profilelake.engines.distributed import SparkEngine


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_case(spark_engine: SparkEngine) -> None:
    answers_as_told(on_lake(spark_engine), together(FILES, cases))


@settings(deadline=None, max_examples=3, suppress_health_check=list(HealthCheck))
@given(histories(16), asked_of_events(), moments(), bounds())
def test_random_worlds(
    spark_engine: SparkEngine, world: World, made: list[Defined], at: int, cut: Bounds
) -> None:
    the_whole_lake_gives_the_answers_of_the_reference(world, made, at, cut, spark_engine)
