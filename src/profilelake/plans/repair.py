"""Put the facts in the lake right: every event once, and all that events say where it belongs.

In two rounds, each a job of its own: rows that are there too often leave (`dedup`), then what is not there is
read again from the events that stay (`facts_again`). Current tables follow by `profilelake rebuild`. Whatever
is killed is begun again: what was committed is not found missing any more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb
import msgspec

from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.identity.facts import NewRules, standing
from profilelake.identity.tables import IDENTIFIER_SETS, IDENTIFIERS, SET_SIGHTINGS
from profilelake.lake.catalog import Lake
from profilelake.lake.handover import HandedFile
from profilelake.lake.progress import Progress
from profilelake.lake.reading import attach
from profilelake.lake.rewriting import Rewritten
from profilelake.lake.storage import Storage
from profilelake.lake.table import LakeTable
from profilelake.lake.tables import TableDef
from profilelake.landing.tables import EVENT_COPIES, EVENTS, FAILED_EVENTS
from profilelake.ops.failpoints import reach
from profilelake.pipeline.rebuild import decisions
from profilelake.plans import dedup, facts_again, names_again
from profilelake.plans.by_file import Tables
from profilelake.plans.committing import with_files
from profilelake.plans.dedup import Left, Repeated
from profilelake.plans.facts_again import Missing
from profilelake.plans.names_again import Named, Valued
from profilelake.profiles.tables import ACCOUNT_LINKS, CONSENT_WRITES, TRAIT_WRITES
from profilelake.semantics.rules import IdentityRules

FOREIGN_LOG: Final = "00" * 8
"""Log under which events are accepted that came into the table past every log; ids of logs are random."""
_APPENDED: Final = (IDENTIFIER_SETS, SET_SIGHTINGS, TRAIT_WRITES, CONSENT_WRITES, ACCOUNT_LINKS)


class Repaired(msgspec.Struct, frozen=True):
    """What was, or in a dry run would be, put right, in rows; and what cannot be."""

    repeated: int = 0
    """Events that were there before."""
    conflicts: int = 0
    """Events with the message id of another one: dead letters now."""
    copies: int = 0
    hanging: int = 0
    """Rows of other tables that came from such events, or were there twice."""
    foreign: int = 0
    """Events that no log brought; they are accepted now."""
    lost: int = 0
    """Events that were counted and are not there. They cannot be had again."""
    sets: int = 0
    values: int = 0
    sightings: int = 0
    traits: int = 0
    links: int = 0
    consent: int = 0
    sets_unread: int = 0
    """Sets of events that no rules there have been would read from them."""
    values_lost: int = 0
    """Identifiers of sets whose value no event tells."""
    sightings_beyond: int = 0
    """Sightings that no event tells of: their events have gone."""
    rebuild: bool = False
    """Whether state and current tables are to be made again before the server starts."""
    looked_at_facts: bool = True

    def told(self) -> list[tuple[str, int, str]]:
        """Return what there was anything of: its name, how much, and what it means."""
        return [
            (name, getattr(self, name), meaning) for name, meaning in _MEANINGS.items() if getattr(self, name)
        ]


_MEANINGS: Final = {
    "repeated": "events that were there before; they leave",
    "conflicts": "events with the message id of another one; they become dead letters",
    "copies": "copies that are no earlier than their event, or twice there; they leave",
    "hanging": "rows of other tables that came from such events, or are twice there; they leave",
    "foreign": "events that no log brought; they are accepted",
    "lost": "events that were counted and are not there; they cannot be had again",
    "sets": "identifier sets, had again",
    "values": "values of identifiers, had again",
    "sightings": "rows of sightings, counted again",
    "traits": "writes of traits, had again",
    "links": "account links, had again",
    "consent": "statements of consent, had again",
    "sets_unread": "identifier sets that cannot be read from their events; put the state back, or restore",
    "values_lost": "identifiers whose value no event tells; put the state back, or restore",
    "sightings_beyond": "sightings that no event tells of: their events have gone",
}


@dataclass(frozen=True)
class Balance:
    """How the events that leave and stay are counted; `progress` is None where nothing changes."""

    progress: Progress | None
    foreign: int
    lost: int


def repair(
    engine: Engine,
    storage: Storage,
    lake: Lake,
    workspace: str,
    *,
    key: bytes,
    rules: IdentityRules,
    dry_run: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Put the facts of a workspace right; return what was done.

    No server runs, and what its state has is published: the tables of facts must stand at one point, and counts
    may go on to where the state is not. `key` is the identifier key of the workspace, `rules` hold where no
    decision says others. A dry run with events to remove does not look at the rest.

    Raises:
        Conflict: another process commits to the tables, or took the job over; what was committed stays, run it again.
        Corrupt, Unavailable: as `lake.rewriting.rewrite`, or another process does the same; what was committed stays,
            run it again.
    """
    done = _remove_repeated(engine, storage, lake, workspace, dry_run=dry_run, report=report)
    if dry_run and (done.repeated or done.conflicts):
        return msgspec.structs.replace(done, looked_at_facts=False)
    return _add_missing(engine, storage, lake, workspace, key, rules, done, dry_run=dry_run, report=report)


# ---- too often ---------------------------------------------------------------------------------


def balance(held: Progress | None, rows: int, repeated: int, conflicts: int) -> Balance:
    """Return how events are counted after some have left a table of `rows`.

    Rows that nobody counted leave first: they were never accepted. Such as stay are accepted now, under a
    log of their own, so that all that was accepted is in exactly one place.
    """
    before = held or Progress(f"{0:020d}", 0)
    counted = before.totals.get("in_lake", 0)
    uncounted = max(0, rows - counted)
    leaving = max(0, repeated - uncounted)
    foreign = uncounted - (repeated - leaving)
    lost = max(0, counted - rows)
    if not (leaving or conflicts or foreign):
        return Balance(None, 0, lost)
    totals = dict(before.totals)
    changes = {"in_lake": foreign - leaving - conflicts, "duplicates": leaving, "failed": conflicts}
    for name, change in changes.items():
        totals[name] = totals.get(name, 0) + change
    _, known = before.vector.get(FOREIGN_LOG, (0, 0))
    vector = dict(before.vector) | ({FOREIGN_LOG: (0, known + foreign)} if foreign else {})
    # A state that stands before this is refused by `check_epoch` until it is made again.
    return Balance(replace(before, sequence=before.sequence + 1, vector=vector, totals=totals), foreign, lost)


def _remove_repeated(
    engine: Engine,
    storage: Storage,
    lake: Lake,
    workspace: str,
    *,
    dry_run: bool,
    report: Callable[[str], None],
) -> Repaired:
    opened = {definition.name: lake.table(workspace, definition) for definition in dedup.TABLES}
    tables = Tables.of(storage, list(opened.values()))

    def begin() -> Job:
        return Job(storage, "dedup", tables.location_digest(), report)

    events = opened[EVENTS.name]
    rows = sum(placed.held.rows for placed in tables.of_table(EVENTS.name))
    with begin() as job:
        repeated = dedup.find(engine, job, tables)
    counted = balance(events.progress(), rows, repeated.repeated, repeated.conflicts)
    done = Repaired(
        repeated=repeated.repeated,
        conflicts=repeated.conflicts,
        copies=repeated.copies,
        hanging=repeated.hanging,
        foreign=counted.foreign,
        lost=counted.lost,
        rebuild=counted.progress is not None,
    )
    if repeated.kept and not dry_run:
        with with_files(begin, lambda job: _leave(engine, job, tables), _locations_left) as (job, left):
            _commit_left(job, opened, left, counted)
            job.finish()
        return done
    with begin() as job:
        if counted.progress is not None and not dry_run:
            job.check()
            events.append((), counted.progress, always=True)
        job.finish()
    return done


def _leave(engine: Engine, job: Job, tables: Tables) -> list[Left]:
    repeated: Repeated = dedup.find(engine, job, tables)
    return dedup.leave(engine, job, tables, repeated)


def _locations_left(left: Sequence[Left]) -> list[str]:
    return [file.location for one in left for file in (*one.rewritten.files, *one.letters)]


def _commit_left(job: Job, opened: dict[str, LakeTable], left: Sequence[Left], counted: Balance) -> None:
    """Commit what stays, events last: until then a run that begins again finds the same too often."""
    job.check()
    opened[FAILED_EVENTS.name].add_files([file for one in left for file in one.letters], job.id)
    reach("repair.letters")
    for name, table in sorted(opened.items(), key=lambda one: one[0] == EVENTS.name):
        mine = [one.rewritten for one in left if one.table == name]
        job.check()
        if name == EVENTS.name and counted.progress is not None:
            if mine:
                table.commit_rewritten(mine, lambda _: counted.progress or _)
            else:
                table.append((), counted.progress, always=True)
        else:
            table.commit_rewritten(mine)
        reach("repair.left")


# ---- not there ---------------------------------------------------------------------------------


class _Found(msgspec.Struct, frozen=True):
    missing: list[Missing]
    recounted: list[Rewritten]
    named: Named
    valued: Valued

    def locations(self) -> list[str]:
        handed = [file for one in self.missing for files in one.files.values() for file in files]
        handed += [file for one in self.recounted for file in one.files]
        return [file.location for file in (*handed, *self.named.files, *self.valued.files)]


def _add_missing(
    engine: Engine,
    storage: Storage,
    lake: Lake,
    workspace: str,
    key: bytes,
    rules: IdentityRules,
    done: Repaired,
    *,
    dry_run: bool,
    report: Callable[[str], None],
) -> Repaired:
    opened = {
        definition.name: lake.table(workspace, definition)
        for definition in (EVENTS, EVENT_COPIES, *_APPENDED)
    }
    values = lake.current_table(workspace, IDENTIFIERS)
    tables = Tables.of(storage, [*opened.values(), values.base, values.log])
    with duckdb.connect() as connection:
        attach(connection, lake, workspace)
        decided = decisions(connection)
    held = standing(decided, rules)
    known = [rules, *(fact.rules for _, fact in decided if isinstance(fact, NewRules))]
    # The same rules read the same, whatever their version.
    versions = [one for number, one in enumerate(known) if one not in known[:number]]
    progress = opened[EVENTS.name].progress()
    complete = progress is None or not progress.totals.get("expired", 0)

    def begin() -> Job:
        said: list[Any] = [tables.location_digest(), len(decided), versions, complete, dry_run]
        return Job(storage, "facts-again", said, report)

    def run(job: Job) -> _Found:
        _, valueless = facts_again.without_value(engine, job, tables)
        missing = facts_again.lacking(
            engine, job, tables, valueless, held, complete=complete, dry_run=dry_run
        )
        recounted = [] if dry_run else facts_again.recount(engine, job, tables, missing)
        files = names_again.read_again(engine, job, tables, missing, versions)
        named = names_again.identified(job, tables, files, key, dry_run=dry_run)
        valued = names_again.valued(engine, job, tables, named.identifiers, valueless, dry_run=dry_run)
        return _Found(missing, recounted, named, valued)

    with with_files(begin, run, _Found.locations) as (job, found):
        if not dry_run:
            _commit_found(job, opened, values.base, found)
        job.finish()
    missing, named, valued = found.missing, found.named, found.valued
    return msgspec.structs.replace(
        done,
        sets=named.sets,
        values=valued.values,
        sightings=sum(one.sightings for one in missing),
        traits=sum(one.traits for one in missing),
        links=sum(one.links for one in missing),
        consent=sum(one.consent for one in missing),
        sets_unread=sum(one.sets for one in missing) - named.sets,
        values_lost=valued.lost,
        sightings_beyond=sum(one.beyond for one in missing),
    )


def _commit_found(job: Job, opened: dict[str, LakeTable], values: LakeTable, found: _Found) -> None:
    def added(definition: TableDef) -> list[HandedFile]:
        return [file for one in found.missing for file in one.files.get(definition.name, ())]

    job.check()
    opened[SET_SIGHTINGS.name].commit_rewritten(found.recounted)
    reach("repair.recounted")
    for definition in _APPENDED:
        files = found.named.files if definition is IDENTIFIER_SETS else added(definition)
        job.check()
        opened[definition.name].add_files(files, job.id)
        reach("repair.added")
    job.check()
    values.add_files(found.valued.files, job.id)
    reach("repair.valued")
