"""Every case of the specification that a plan has a say in, through the plans on two engines, table by table."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from identity_cases import CASES, POLICIES
from identity_histories import world
from planned_cases import Written, of_world, written
from planned_identity import SMALL
from planned_tables import Told, empty_lake, tables_by_plan
from plans_together import together
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.plans.digests import Digest

Read: TypeAlias = Callable[[], Written]
"""Reads a case."""
AT_ONCE = 32
"""Plans that share jobs; each has a thread in the driver."""
IDENTITY: Mapping[str, Read] = {
    f"{path.stem}-{demotion}": partial(written, path, demotion) for path in CASES for demotion in POLICIES
}
WORLDS: Mapping[str, Read] = {
    f"world-{seed}": partial(lambda seed: of_world(world(seed)), seed) for seed in range(20)
}


def differing(folder: Path, cases: Mapping[str, Read], engine: Engine) -> tuple[list[str], dict[str, int]]:
    """Return the cases of which some table differs from this machine's, and how many rows each table had in all.

    There the case is cut into many small parts, here it is one; both must say what the reference says.
    """
    unequal, rows = [], dict[str, int]()
    for names in _some(list(cases)):
        told = folder / "told"
        told.mkdir()
        with empty_lake(told) as lake:
            made = [Told.of(told / name, cases[name]()) for name in names]
            here, _ = together(
                EmbeddedEngine(told / "engine"),
                [partial(tables_by_plan, lake=lake, told=one) for one in made],
            )
            there, _ = together(
                engine, [partial(tables_by_plan, lake=lake, told=one, cutting=SMALL) for one in made]
            )
        unequal += _unequal(names, here, there)
        for one in here:
            for table, digest in one.items():
                rows[table] = rows.get(table, 0) + digest.rows
        shutil.rmtree(told)
    return unequal, rows


def _some(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[first : first + AT_ONCE] for first in range(0, len(names), AT_ONCE))


def _unequal(
    names: Sequence[str], here: Sequence[Mapping[str, Digest]], there: Sequence[Mapping[str, Digest]]
) -> list[str]:
    return [
        f"{name}: {table}"
        for name, one, other in zip(names, here, there, strict=True)
        for table in one.keys() | other.keys()
        if one.get(table, Digest()) != other.get(table, Digest())
    ]
