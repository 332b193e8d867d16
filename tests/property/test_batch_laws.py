"""What is computed over the whole lake is what the reference says, however the lake is cut."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condition_worlds import Defined, World, definitions, expected, histories, moments
from profilelake.audiences import batch, reading
from profilelake.audiences.batch import compute
from profilelake.audiences.preview import needed, preview
from profilelake.semantics.definitions import Json
from profilelake.traits.steps import planned
from world_lakes import WORKSPACE, open_lake, profile_id, write


def asked_of_events(most: int = 4) -> st.SearchStrategy[list[Defined]]:
    """Return definitions of users that ask for no rows of entities: those are not in the lake."""
    return definitions(most, accounts=False).filter(
        lambda made: all("entity(" not in one.definition.query for one in made)
    )


def _none(value: Json) -> bool:
    return value is None or value is False or (value == 0 and not isinstance(value, bool))


@settings(deadline=None, max_examples=8)
@given(histories(16), asked_of_events(), moments(), st.data())
def test_the_whole_lake_gives_the_answers_of_the_reference(
    world: World, made: list[Defined], at: int, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(world.calls)), max_size=3))
    slice_events = data.draw(st.sampled_from((1, 3, 1000)))
    part_rows = data.draw(st.sampled_from((2, 1000)))
    wanted = expected(made, world, at)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SLICE_EVENTS", slice_events)
        patch.setattr(batch, "PART_ROWS", part_rows)
        lake = open_lake(Path(folder))
        write(lake, world, cuts)
        plan = planned({one.definition.key: one.held() for one in made})
        found = compute(lake, WORKSPACE, plan, at, directory=Path(folder) / "spill")
        lake.close()
        assert not list((Path(folder) / "spill").iterdir())
    ids = [profile_id(person) for person in world.people]
    for one in made:
        key = one.definition.key
        told = zip(ids, wanted[key], strict=True)
        rows = found[key].to_pydict()
        got = {id: json.loads(value) for id, value in zip(rows["profile_id"], rows["value"], strict=True)}
        trait = one.definition.kind == "trait"
        assert got == {
            id: value for id, value in told if not _none(value) or (trait and _is_value(one, value))
        }


def _is_value(one: Defined, value: Json) -> bool:
    """Tell whether 0 or false is a value of its own: of anything but a count."""
    counts = getattr(one.root, "how", None) == "count" or getattr(one.root, "counted", False)
    return value is not None and not counts


@settings(deadline=None, max_examples=5)
@given(histories(16), asked_of_events(), moments())
def test_a_preview_of_few_profiles_is_what_is_computed(world: World, made: list[Defined], at: int) -> None:
    held = {one.definition.key: one.held() for one in made}
    last = made[-1].definition
    others = {key: one for key, one in held.items() if key != last.key}
    with tempfile.TemporaryDirectory() as folder:
        lake = open_lake(Path(folder))
        write(lake, world)
        if made[-1].definition.historical:
            values = compute(lake, WORKSPACE, planned(held), at, directory=Path(folder) / "spill")
            found = preview(lake, WORKSPACE, last, others, at, directory=Path(folder) / "spill")
            assert (found.how, found.profiles) == ("exact", len(world.people))
            assert found.size.low == found.size.count == found.size.high == values[last.key].num_rows
            rows = values[last.key].sort_by("profile_id").to_pydict()
            assert list(found.examples) == list(zip(rows["profile_id"], rows["value"], strict=True))
        lake.close()


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
