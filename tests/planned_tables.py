"""All that tasks of a rebuild make of tables of facts, and the digest of each table and of the online state."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from fold_cases import WEB, fact_tables
from lake_examples import open_lake
from pipeline_driver import WORKSPACE
from planned_cases import Written, check_against
from planned_identity import Cutting, Rows, fact_files
from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import read_kept
from profilelake.identity.facts import Standing
from profilelake.lake.catalog import Lake
from profilelake.lake.storage import Storage
from profilelake.pipeline.publish import ensure_tables
from profilelake.pipeline.rebuild import standing_of
from profilelake.plans.checked import check_facts
from profilelake.plans.components import Limits
from profilelake.plans.digests import Digest, digest
from profilelake.plans.facts import FactFiles
from profilelake.plans.identity import resolve
from profilelake.plans.profiles import TABLES, write_profiles
from profilelake.plans.sizes import Sizes
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES
from profilelake.semantics.consent import Policy

PROFILE_PARTS = 2


@contextmanager
def empty_lake(folder: Path) -> Iterator[Lake]:
    """A lake with all tables and nothing in them: tasks write files for it, and nobody commits any."""
    lake = open_lake(folder)
    ensure_tables(lake, WORKSPACE)
    yield lake
    lake.close()


@dataclass(frozen=True)
class Told:
    """One case as files of facts, and what was decided."""

    written: Written
    files: FactFiles
    held: Standing
    policy: Policy

    @classmethod
    def of(cls, folder: Path, told: Written) -> "Told":
        """Write the facts of a case; every call writes a trait and says something about consent, too."""
        events = [
            replace(event, traits={"calls": number, f"t{number % 3}": "é"}, consent={"Ads": number % 2 == 0})
            for number, event in enumerate(told.case.events)
        ]
        tables = fact_tables(
            replace(told.case, events=events), day=1
        )  # windows of cases are shorter than a day
        with duckdb.connect() as connection:
            connection.register("identity_facts", tables["identity_facts"])
            held = standing_of(connection, told.rules)
        folder.mkdir()
        return cls(told, fact_files(folder, tables), held, told.case.policy)


def tables_by_plan(
    engine: Engine, lake: Lake, told: Told, cutting: Cutting | None = None
) -> dict[str, Digest]:
    """Run every step of a rebuild on a case; return the digest of each table that tasks wrote, and of the state.

    What was decided is what the reference says.
    """
    sizes, limits = (cutting.sizes, cutting.limits) if cutting else (Sizes(), Limits())
    job = Job(lake.storage, "test", [uuid.uuid4().hex])
    appended = {
        table.name: lake.table(WORKSPACE, table).files_elsewhere()
        for table in (ACCOUNT_LINKS, CONSENT_WRITES)
    }
    checked = check_facts(engine, job, told.files, appended, told.held, sizes)
    assert checked.missing == 0
    resolved = resolve(
        engine, job, checked.added_to(told.files), told.held, frozenset({WEB}), sizes=sizes, limits=limits
    )
    check_against(Rows(lake.storage, resolved).records(told.held), told.written)
    current = {table.name: lake.current_table(WORKSPACE, table).base.files_elsewhere() for table in TABLES}
    parts = PROFILE_PARTS if cutting else 1
    made = write_profiles(engine, job, resolved, current, told.held, told.policy, parts)
    found = {
        name: _digest_of(lake.storage, [file.location for file in files])
        for name, files in (made.tables | checked.untold).items()
    }
    for name, kept in (("state", made.state), ("quarantine", resolved.quarantine)):
        found[name] = digest(rows for file in kept for rows in read_kept(lake.storage, file))
    return found


def _digest_of(storage: Storage, locations: Sequence[str]) -> Digest:
    def read() -> Iterator[pa.Table]:
        for location in locations:
            with storage.input(location) as source:
                yield pq.read_table(source)

    return digest(read())
