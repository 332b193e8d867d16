"""What is computed over the whole lake is what the reference says, however the lake is cut."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import settings

from account_laws import the_lake_gives_what_is_live
from batch_laws import Bounds, bounds, the_whole_lake_gives_the_answers_of_the_reference
from computed_laws import Step, lives
from condition_worlds import Defined, World, definitions, histories, moments
from profilelake.audiences import reading
from profilelake.engines import jobs
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.plans import definitions as plans
from profilelake.plans.preview import preview
from profilelake.traits.steps import needed, planned
from world_lakes import WORKSPACE, computed, open_lake, write
from world_rows import asking, entities, of_columns, only_rows_of, results


@settings(max_examples=8)
@drawn(histories(16), definitions(), moments(), bounds())
def test_the_whole_lake_gives_the_answers_of_the_reference(
    world: World, made: list[Defined], at: int, cut: Bounds
) -> None:
    the_whole_lake_gives_the_answers_of_the_reference(world, made, at, cut)


@settings(max_examples=4)
@drawn(lives())
def test_the_lake_gives_what_is_live_of_people_and_accounts(steps: list[Step]) -> None:
    the_lake_gives_what_is_live(steps)


@settings(max_examples=8)
@drawn(histories(16), definitions(), moments())
def test_a_preview_of_few_profiles_is_what_is_computed(world: World, made: list[Defined], at: int) -> None:
    held = {one.definition.key: one.held() for one in made}
    last = made[-1].definition
    # A preview is of definitions as they can hold together: an entity is one of people, or one of accounts.
    world = of_columns(only_rows_of(world, last.target))
    with tempfile.TemporaryDirectory() as folder:
        lake = open_lake(Path(folder))
        write(lake, world)
        if made[-1].definition.historical:
            values = computed(lake, planned(held), at, rows_of=world)
            others = {key: one for key, one in held.items() if key != last.key}
            others |= entities(last.target)
            found = preview(
                lake,
                WORKSPACE,
                last,
                others,
                at,
                directory=Path(folder) / "spill",
                ask=asking(world, Path(folder)),
            )
            counted = world.people if last.target == "users" else world.accounts
            assert (found.how, found.profiles) == ("exact", len(counted))
            assert found.size.low == found.size.count == found.size.high == values[last.key].num_rows
            rows = values[last.key].sort_by("profile_id").to_pydict()
            assert list(found.examples) == list(zip(rows["profile_id"], rows["value"], strict=True))
        lake.close()


@settings(max_examples=4)
@drawn(histories(16).filter(lambda world: len(world.calls) > 5), definitions(), moments())
def test_cut_short_and_called_again_on_a_larger_engine_it_gives_the_same(
    world: World, made: list[Defined], at: int
) -> None:
    about_accounts = any(one.definition.target == "accounts" for one in made)
    last = "job.people.done" if about_accounts else "job.fold.done"

    def dies(place: str) -> None:
        if place == last:
            raise KeyboardInterrupt

    world = of_columns(world)
    plan = planned({one.definition.key: one.held() for one in made})
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SLICE_EVENTS", 1)
        patch.setattr(plans, "SETS_JOINED_MAX", 0)
        lake = open_lake(Path(folder))
        write(lake, world, range(16))
        small, large = (EmbeddedEngine(Path(folder) / "engine", tasks) for tasks in (1, 8))
        wanted = computed(lake, plan, at, large, rows_of=world)
        queried, given = results(world, Path(folder))
        asked = plans.Asked(plan, at, queried=queried)
        with pytest.MonkeyPatch.context() as dying:
            dying.setattr(jobs, "reach", dies)
            with pytest.raises(KeyboardInterrupt):
                plans.compute(small, lake, WORKSPACE, asked, results=given)
        _, found = plans.compute(large, lake, WORKSPACE, asked, results=given)
        values = {key: rows.sort_by("profile_id") for key, rows in found.values().items()}
        lake.close()
    assert found.events <= len(world.calls)
    assert values == {key: rows.sort_by("profile_id") for key, rows in wanted.items()}


@drawn(definitions(accounts=False))
def test_only_what_is_asked_for_is_computed(made: list[Defined]) -> None:
    plan = planned({one.definition.key: one.held() for one in made})
    for each in plan:
        chosen = needed(plan, {each.held.definition.key})
        keys = {one.held.definition.key for one in chosen}
        assert each.held.definition.key in keys
        for one in chosen:
            assert one.reads & {other.held.definition.key for other in plan} <= keys
        assert chosen == tuple(one for one in plan if one in chosen)
