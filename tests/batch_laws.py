"""The law of computing over a whole lake, for any engine: it says what the reference says, however the lake is cut."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import strategies as st

from condition_worlds import Defined, World, expected
from profilelake.audiences import reading
from profilelake.engines.engine import Engine
from profilelake.plans import account_members, asked, definition_inputs, queried
from profilelake.plans import definitions as plans
from profilelake.semantics.definitions import Json
from profilelake.traits.steps import planned
from world_lakes import account_id, computed, open_lake, profile_id, write
from world_rows import of_columns


@dataclass(frozen=True)
class Bounds:
    """Where commits end, and the limits of the plan."""

    cuts: tuple[int, ...]
    slice_events: int
    rows: dict[str, int]


def bounds() -> st.SearchStrategy[Bounds]:
    """Return ways to cut a lake."""
    few_or_many = st.sampled_from((2, 1000))
    rows = {
        "PART_ROWS": few_or_many,
        "CUT_ROWS": few_or_many,
        "UNIT_ROWS": few_or_many,
        "BUSY_EVENTS": st.sampled_from((1, 1000)),
        # With none that may be looked up, events are folded by set before they come to the profile.
        "SETS_JOINED_MAX": st.sampled_from((0, 1000)),
        "FILE_ROWS": few_or_many,
        "NAMED_MAX": st.sampled_from((0, 1000)),
    }
    cuts = st.lists(st.integers(0, 16), max_size=3).map(tuple)
    return st.builds(Bounds, cuts, st.sampled_from((1, 3, 1000)), st.fixed_dictionaries(rows))


def the_whole_lake_gives_the_answers_of_the_reference(
    world: World, made: list[Defined], at: int, cut: Bounds, engine: Engine | None = None
) -> None:
    world = of_columns(world)
    wanted = expected(made, world, at)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "SLICE_EVENTS", cut.slice_events)
        for name, bound in cut.rows.items():
            for module in (plans, asked, definition_inputs, account_members, queried):
                if hasattr(module, name):
                    patch.setattr(module, name, bound)
        lake = open_lake(Path(folder))
        write(lake, world, [place for place in cut.cuts if place < len(world.calls)])
        plan = planned({one.definition.key: one.held() for one in made})
        found = computed(lake, plan, at, engine, rows_of=world)
        lake.close()
    people = [profile_id(person) for person in world.people]
    accounts = [account_id(number) for number in range(len(world.accounts))]
    for one in made:
        key = one.definition.key
        ids = people if one.definition.target == "users" else accounts
        told = zip(ids, wanted[key], strict=True)
        rows = found[key].to_pydict()
        got = {id: json.loads(value) for id, value in zip(rows["profile_id"], rows["value"], strict=True)}
        trait = one.definition.kind == "trait"
        assert got == {
            id: value for id, value in told if not _none(value) or (trait and _is_value(one, value))
        }


def _none(value: Json) -> bool:
    return value is None or value is False or (value == 0 and not isinstance(value, bool))


def _is_value(one: Defined, value: Json) -> bool:
    """Tell whether 0 or false is a value of its own: of anything but a count."""
    counts = getattr(one.root, "how", None) == "count" or getattr(one.root, "counted", False)
    return value is not None and not counts
