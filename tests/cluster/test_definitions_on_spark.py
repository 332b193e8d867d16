"""Definitions on Spark say what the reference says: every spec case, memberships, and random worlds of people and accounts."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from account_laws import the_lake_gives_what_is_live, the_tables_say_who_belongs_to_accounts
from batch_laws import Bounds, bounds, the_whole_lake_gives_the_answers_of_the_reference
from computed_laws import Step, lives
from condition_cases import FILES, answers_as_told, cases
from condition_lakes import on_lake, together
from condition_worlds import Defined, World, definitions, histories, moments
from profile_cases import cases as cases_of_profiles
from profilelake.engines.distributed import SparkEngine


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_case(spark_engine: SparkEngine) -> None:
    answers_as_told(on_lake(spark_engine), together(FILES, cases))


@pytest.mark.timeout(600)
def test_every_case_about_memberships(spark_engine: SparkEngine, tmp_path: Path) -> None:
    the_tables_say_who_belongs_to_accounts(cases_of_profiles("memberships"), tmp_path, spark_engine)


@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(histories(16), definitions(), moments(), bounds())
def test_random_worlds(
    spark_engine: SparkEngine, world: World, made: list[Defined], at: int, cut: Bounds
) -> None:
    the_whole_lake_gives_the_answers_of_the_reference(world, made, at, cut, spark_engine)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(lives())
def test_random_lives_of_people_and_accounts(spark_engine: SparkEngine, steps: list[Step]) -> None:
    the_lake_gives_what_is_live(steps, spark_engine)
