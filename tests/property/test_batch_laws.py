"""What is computed over the whole lake is what the reference says, however the lake is cut."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from account_laws import the_lake_gives_what_is_live
from batch_laws import Bounds, bounds, the_whole_lake_gives_the_answers_of_the_reference
from computed_laws import Step, lives
from condition_worlds import Defined, World, definitions, histories, moments
from profilelake.audiences import reading
from profilelake.audiences.preview import preview
from profilelake.engines import jobs
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.plans import definitions as plans
from profilelake.traits.steps import needed, planned
from world_lakes import WORKSPACE, computed, open_lake, write


@settings(deadline=None, max_examples=8)
@given(histories(16), definitions(), moments(), bounds())
def test_the_whole_lake_gives_the_answers_of_the_reference(
    world: World, made: list[Defined], at: int, cut: Bounds
) -> None:
    the_whole_lake_gives_the_answers_of_the_reference(world, made, at, cut)


@settings(deadline=None, max_examples=4)
@given(lives())
def test_the_lake_gives_what_is_live_of_people_and_accounts(steps: list[Step]) -> None:
    the_lake_gives_what_is_live(steps)


@settings(deadline=None, max_examples=5)
@given(histories(16), definitions(accounts=False), moments())
def test_a_preview_of_few_profiles_is_what_is_computed(world: World, made: list[Defined], at: int) -> None:
    held = {one.definition.key: one.held() for one in made}
    last = made[-1].definition
    others = {key: one for key, one in held.items() if key != last.key}
    with tempfile.TemporaryDirectory() as folder:
        lake = open_lake(Path(folder))
        write(lake, world)
        if made[-1].definition.historical:
            values = computed(lake, planned(held), at)
            found = preview(lake, WORKSPACE, last, others, at, directory=Path(folder) / "spill")
            assert (found.how, found.profiles) == ("exact", len(world.people))
            assert found.size.low == found.size.count == found.size.high == values[last.key].num_rows
            rows = values[last.key].sort_by("profile_id").to_pydict()
            assert list(found.examples) == list(zip(rows["profile_id"], rows["value"], strict=True))
        lake.close()


@settings(deadline=None, max_examples=4)
@given(histories(16).filter(lambda world: len(world.calls) > 5), definitions(), moments())
def test_cut_short_and_called_again_on_a_larger_engine_it_gives_the_same(
    world: World, made: list[Defined], at: int
) -> None:
    about_accounts = any(one.definition.target == "accounts" for one in made)
    last = "job.people.done" if about_accounts else "job.fold.done"

    def dies(place: str) -> None:
        if place == last:
            raise KeyboardInterrupt

    asked = plans.Asked(planned({one.definition.key: one.held() for one in made}), at)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SLICE_EVENTS", 1)
        patch.setattr(plans, "SETS_JOINED_MAX", 0)
        lake = open_lake(Path(folder))
        write(lake, world, range(16))
        small, large = (EmbeddedEngine(Path(folder) / "engine", tasks) for tasks in (1, 8))
        wanted = computed(lake, asked.plan, at, large)
        with pytest.MonkeyPatch.context() as dying:
            dying.setattr(jobs, "reach", dies)
            with pytest.raises(KeyboardInterrupt):
                plans.compute(small, lake, WORKSPACE, asked)
        _, found = plans.compute(large, lake, WORKSPACE, asked)
        values = {key: rows.sort_by("profile_id") for key, rows in found.values().items()}
        lake.close()
    assert found.events <= len(world.calls)
    assert values == {key: rows.sort_by("profile_id") for key, rows in wanted.items()}


@given(definitions(accounts=False))
def test_only_what_is_asked_for_is_computed(made: list[Defined]) -> None:
    plan = planned({one.definition.key: one.held() for one in made})
    for each in plan:
        chosen = needed(plan, {each.held.definition.key})
        keys = {one.held.definition.key for one in chosen}
        assert each.held.definition.key in keys
        for one in chosen:
            assert one.reads & {other.held.definition.key for other in plan} <= keys
        assert chosen == tuple(one for one in plan if one in chosen)
