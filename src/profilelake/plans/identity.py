"""Who is who over a whole lake, on any engine: from the tables of facts to rows of sets and identifiers.

The meaning is that of `pipeline.rebuild.fold_facts`, which resolves each part of the components; here is
the line of steps that cuts a lake into parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import KeptFile
from profilelake.identity.facts import Standing
from profilelake.plans.facts import FactFiles


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
    engine: Engine, job: Job, files: FactFiles, held: Standing, untrusted: frozenset[str] = frozenset()
) -> Resolved:
    """Decide who is who from everything in `files` under the decisions in `held`.

    Steps that the job remembers are not run again. `untrusted` are the sources whose sets quarantine nobody
    that a trusted source attests.

    Raises:
        Invalid: a component, or what rules block, is too large for a task; the message says what to do.
        Unavailable: as the engine does.
    """
    raise NotImplementedError


Report = Callable[[str], None]
