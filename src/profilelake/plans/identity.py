"""Who is who over a whole lake, on any engine: from the tables of facts to rows of sets and identifiers.

The meaning is that of `pipeline.rebuild.fold_facts`, which resolves each part of the components; here is
the line of steps that cuts a lake into parts.
"""

from dataclasses import dataclass

from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile
from profilelake.identity.facts import Standing
from profilelake.plans.components import Limits, find_components
from profilelake.plans.degrees import find_apart
from profilelake.plans.facts import FactFiles, gather_facts, set_files
from profilelake.plans.members import Links
from profilelake.plans.resolving import resolve_parts
from profilelake.plans.sizes import Sizes
from profilelake.plans.values import gather_values


@dataclass(frozen=True)
class Resolved:
    """What was decided, as kept rows of `plans.rows`.

    `known` to `links` are parts of slots of set ids, as `parts_by_id(ids, set_parts)` numbers them, and
    `values` of slots of identifiers' ids, by `ident_parts`: `KeptFile.part` is that number. All others are
    by parts of components. `OWNED` has no texts: `plans.values.valued` joins rows of a part with its values.
    """

    set_parts: int
    ident_parts: int
    known: list[KeptFile]
    writes: list[KeptFile]
    statements: list[KeptFile]
    links: list[KeptFile]
    values: list[KeptFile]
    sets: list[KeptFile]
    owned: list[KeptFile]
    founded: list[KeptFile]
    windows: list[KeptFile]
    quarantine: list[KeptFile]
    values_lost: int
    """Identifiers of sets that have no value in the lake, and so were left out."""


def resolve(
    engine: Engine,
    job: Job,
    files: FactFiles,
    held: Standing,
    untrusted: frozenset[str] = frozenset(),
    *,
    sizes: Sizes | None = None,
    limits: Limits | None = None,
) -> Resolved:
    """Decide who is who from everything in `files` under the decisions in `held`.

    Steps that the job remembers are not run again; `sizes` and `limits` say how finely all is cut. `untrusted` are the sources whose sets quarantine nobody
    that a trusted source attests.

    Raises:
        Invalid: a component, or what rules block, is too large for a task; the message says what to do.
        Unavailable: as the engine does.
    """
    sizes = sizes or Sizes()
    facts, set_parts = gather_facts(engine, job, files, held, sizes)
    sets = set_files(facts)
    members = facts.counts.get("members", 0)
    values, ident_parts = gather_values(engine, job, files, sets, members, held, sizes)
    lost = values.files.get("lost", [])
    values_lost = values.counts.get("lost", 0)
    if lost:
        # Of an identifier whose value is lost no more is known than that it was there.
        values, ident_parts = gather_values(engine, job, files, sets, members, held, sizes, lost)
    apart = find_apart(engine, job, values, ident_parts, sets, held, untrusted, lost)
    alone = apart.files.get("apart", [])
    found = find_components(
        engine,
        job,
        [one.known for one in sets],
        Links.under(held.rules, job.storage, [*alone, *lost]),
        Links.COLUMNS,
        sets_per_part=sizes.sets_per_part,
        limits=limits,
    )
    decided = resolve_parts(
        engine,
        job,
        sets,
        found,
        values.files.get("values", []),
        ident_parts,
        held,
        alone,
        lost,
        several=bool(facts.counts.get("several", 0)),
        sets_per_task_max=sizes.sets_per_task_max,
    )
    return Resolved(
        set_parts=set_parts,
        ident_parts=ident_parts,
        known=facts.files.get("known", []),
        writes=facts.files.get("writes", []),
        statements=facts.files.get("statements", []),
        links=facts.files.get("links", []),
        values=values.files.get("values", []),
        sets=decided.files.get("sets", []),
        owned=decided.files.get("owned", []),
        founded=decided.files.get("founded", []),
        windows=decided.files.get("windows", []),
        quarantine=[*values.files.get("quarantine", []), *apart.files.get("quarantine", [])],
        values_lost=values_lost,
    )
