"""Steps 6 to 8 of a rebuild: from who is who to the files of current tables and the rows of online state."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import pyarrow as pa

from profilelake.engines.engine import CutUp, Engine, Gather
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile
from profilelake.engines.keys import power_of_two
from profilelake.identity.facts import Standing
from profilelake.identity.tables import IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, SET_MAP
from profilelake.lake.handover import HandedFile, TableFiles
from profilelake.plans import by_ident, by_profile, by_set
from profilelake.plans.by_ident import CutIdents, GatherIdents
from profilelake.plans.by_profile import GatherProfiles
from profilelake.plans.by_set import GatherSets
from profilelake.plans.identity import Resolved
from profilelake.plans.written import CutById, Kept, Made, by_part, made, units
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.consent import Policy

TABLES: Final = (SET_MAP, IDENTIFIERS, IDENTITY_MAP, IDENTITY_REFUSALS, PROFILES)
PROFILES_PER_PART: Final = 1 << 18
"""So many profiles with all that belongs to them are in a task's memory together."""


class Written(msgspec.Struct, frozen=True):
    """What the tasks have written: files that nobody has committed, and rows of the online state.

    `state` are files of `written.STATE`, in an order in which the keys of each database ascend.
    """

    tables: dict[str, list[HandedFile]]
    state: list[KeptFile]
    sets: int
    identifiers: int
    profiles: int


def write_profiles(
    engine: Engine,
    job: Job,
    resolved: Resolved,
    tables: Mapping[str, TableFiles],
    held: Standing,
    policy: Policy,
    parts: int | None = None,
) -> Written:
    """Write everything that follows from who is who: files of the five `TABLES`, rows of the state.

    Steps that the job remembers are not run again. `parts` cuts profiles finer or coarser than their
    number says. Raises as the engine does.
    """
    storage = job.storage
    sets = _step(
        engine,
        job,
        "sets",
        {"sets": resolved.sets, "windows": resolved.windows, "founded": resolved.founded},
        CutById(storage, by_set.COLUMNS, by_set.INPUTS, resolved.set_parts),
        by_set.INPUTS,
        resolved.set_parts,
        GatherSets(
            storage,
            job.folder("sets"),
            tables[SET_MAP.name],
            tables[IDENTITY_REFUSALS.name],
            by_part(resolved.writes),
            by_part(resolved.statements),
            by_part(resolved.links),
            held.rules.version,
            tuple(held.leavings),
        ),
    )
    idents = _step(
        engine,
        job,
        "idents",
        {"owned": resolved.owned, "holding": resolved.sets, "members": resolved.links},
        CutIdents(storage, resolved.ident_parts),
        by_ident.INPUTS,
        resolved.ident_parts,
        GatherIdents(
            storage,
            job.folder("idents"),
            tables[IDENTIFIERS.name],
            tables[IDENTITY_MAP.name],
            by_part(resolved.values),
        ),
    )
    kept = {
        name: [file for one in (*sets, *idents) for file in one.kept.get(name, ())]
        for name in by_profile.INPUTS
    }
    parts = parts or power_of_two(sum(file.rows for file in kept["profiles"]) / PROFILES_PER_PART)
    profiles = _step(
        engine,
        job,
        "profiles",
        kept,
        CutById(storage, by_profile.COLUMNS, by_profile.INPUTS, parts),
        by_profile.INPUTS,
        parts,
        GatherProfiles(storage, job.folder("profiles"), tables[PROFILES.name], policy),
    )
    everything = [*sets, *idents, *profiles]
    return Written(
        tables={
            table.name: [file for one in everything for file in one.tables.get(table.name, ())]
            for table in TABLES
        },
        state=[file for one in everything for file in one.state],
        sets=sum(one.rows for one in sets),
        identifiers=sum(one.rows for one in idents),
        profiles=sum(one.rows for one in profiles),
    )


def _step(
    engine: Engine,
    job: Job,
    name: str,
    files: Mapping[str, Iterable[KeptFile]],
    cut: CutUp[Kept],
    inputs: Mapping[str, pa.Schema],
    parts: int,
    gather: Gather,
) -> list[Made]:
    return made(job.step(name, lambda: engine.spread(name, units(files), cut, inputs, parts, gather)))
