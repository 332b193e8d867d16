"""Cases about conditions as one lake: those asked at one time are computed together, on any engine.

Each case has people of its own, and definitions whose keys begin with its number.
"""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Final

from condition_cases import ASKED, Case, Engine, nothing
from condition_worlds import Account, Call, Defined, Person, World
from profilelake.engines import engine as engines
from profilelake.semantics.conditions.parse import parse
from profilelake.semantics.definitions import Json
from profilelake.traits.steps import planned
from world_lakes import account_id, computed, open_lake, profile_id, write

SETS_APART: Final = 100
"""More sets than a case has."""
_TRAIT: Final = re.compile(r"trait\('([^']*)'\)")


def on_lake(engine: engines.Engine | None = None) -> Engine:
    """Return what answers cases by a computation over a lake; on this machine where no engine is given."""
    return partial(_by_lake, engine)


def together(files: Sequence[str], read: Callable[[str], Sequence[Case]]) -> list[Case]:
    """Return the cases of all files, each under a name of its own."""
    return [replace(case, name=f"{file}: {case.name}") for file in files for case in read(file)]


def _by_lake(engine: engines.Engine | None, told: Sequence[Case]) -> list[Json]:
    found: dict[int, Json] = {}
    order = sorted(range(len(told)), key=lambda number: told[number].at)
    for at, numbers in groupby(order, key=lambda number: told[number].at):
        cases = [_OnLake(number, told[number]) for number in numbers]
        people: list[Person] = []
        accounts: list[Account] = []
        for case in cases:
            case.first_account = len(accounts)
            accounts += [
                replace(account, users=tuple(len(people) + user for user in account.users))
                for account in case.accounts
            ]
            people += case.people
        world = World(tuple(call for case in cases for call in case.calls), tuple(people), tuple(accounts))
        made = {one.definition.key: one.held() for case in cases for one in case.made}
        with tempfile.TemporaryDirectory() as folder:
            lake = open_lake(Path(folder))
            # Some commits, so that there are files to divide.
            write(lake, world, [len(world.calls) // 3, 2 * len(world.calls) // 3])
            values = computed(lake, planned(made), at, engine, rows_of=world)
            lake.close()
        for case in cases:
            rows = values[case.key(ASKED)].to_pydict()
            texts = dict(zip(rows["profile_id"], rows["value"], strict=True))
            text = texts.get(case.asked())
            found[case.number] = nothing(case.made[-1].root) if text is None else json.loads(text)
    return [found[number] for number in range(len(told))]


class _OnLake:
    """One case, told of people and in words of its own."""

    def __init__(self, number: int, case: Case) -> None:
        self.number = number
        self.first_account = 0
        """Where its accounts begin among those of the lake."""
        world, first = case.world(), SETS_APART * number
        self._keys = {one.definition.key for one in case.definitions()}
        self.calls: list[Call] = [replace(call, set=first + call.set) for call in world.calls]
        self.people: list[Person] = [
            replace(
                person, sets=tuple(first + one for one in person.sets), traits=self._traits(person.traits)
            )
            for person in world.people
        ]
        self.accounts: list[Account] = [
            replace(account, traits=self._traits(account.traits)) for account in world.accounts
        ]
        self.made = [self._own(one) for one in case.definitions()]

    def asked(self) -> str:
        """Return the id of the profile that it is about."""
        return account_id(self.first_account) if self.accounts else profile_id(self.people[0])

    def _traits(self, traits: Mapping[str, Json]) -> dict[str, Json]:
        return {self.key(name): value for name, value in traits.items()}

    def key(self, name: str) -> str:
        """Return what a definition, or a trait that one hides, is called."""
        return f"c{self.number}_{name}" if name in self._keys else name

    def _own(self, one: Defined) -> Defined:
        query = _TRAIT.sub(lambda found: f"trait('{self.key(found[1])}')", one.definition.query)
        definition = replace(one.definition, key=self.key(one.definition.key), query=query)
        return replace(one, definition=definition, root=parse(query))
