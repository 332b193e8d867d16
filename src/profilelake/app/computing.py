"""Definitions computed over the whole lake at once, on an engine, for a command: nothing online changes."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.app.directory import WORKSPACE, kernel_cache
from profilelake.app.queries import queries
from profilelake.app.rebuilding import engine_at
from profilelake.errors import Conflict, Invalid, NotFound, ProfilelakeError
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import damage_told
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.definitions import SQL_KINDS, Definition, Held
from profilelake.settings import Layout
from profilelake.traits.steps import Plan, needed, planned

if TYPE_CHECKING:
    from profilelake.lake.moment import Moment
    from profilelake.pipeline.sql_runs import Ask
    from profilelake.state.store import State

FILE_METADATA: Final = "profilelake.computation"
"""Key of the metadata of a Parquet file of values that say, as JSON, what they are of."""
DEFINITIONS_MAX: Final = 1_000
"""Definitions computed at once: each is a column while it is, and a file where files are asked for."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What came of it: profiles with a value, by the key of the definition."""

    at: int
    profiles: int
    """People; `accounts` is 0 where no definition was about any."""
    accounts: int
    events: int
    found: Mapping[str, int]
    left_out: Mapping[str, str]
    """Definitions whose query, or that of one they ask for, gave nothing, with the reason."""
    of: "Of"
    unpublished: int
    """Identifier sets with events, of people who were in no published profile at that moment, and so have no value."""


@dataclass(frozen=True, slots=True)
class Of:
    """The moment of the tables that were read: their snapshots, and how far events and profiles had come."""

    snapshots: Mapping[str, int | None]
    epoch: str
    sequence: int
    vector: Mapping[str, tuple[int, int]]
    """Of events: per log, the next byte offset and the events so far."""
    profiles_epoch: str
    profiles_sequence: int

    @classmethod
    def read(cls, moment: "Moment") -> Self:
        """Return what a moment is known by."""
        events, profiles = moment.progress(EVENTS.name), moment.progress(PROFILES.name)
        return cls(
            moment.snapshots(),
            events.epoch if events else "",
            events.sequence if events else 0,
            dict(events.vector) if events else {},
            profiles.epoch if profiles else "",
            profiles.sequence if profiles else 0,
        )


def compute_over_lake(
    layout: Layout,
    held: Mapping[str, Held],
    keys: Sequence[str],
    at: int,
    *,
    received_until: int | None = None,
    engine_url: str = "",
    to: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
    state: "State | None" = None,
    ask: "Ask | None" = None,
) -> Counts:
    """Compute definitions (all, where no key is named) as of a time, and write a file for each below `to`.

    What queries say, of entities too, is what they say now: they run first. Where the query of a definition that
    nobody named fails, it is left out, with all that ask for it. `state` says which identity rules are in force,
    `ask` runs a query: where it is None, a server that runs here, or workers of our own.

    Raises:
        NotFound: there is no definition of such a key, or nothing was published yet.
        Invalid: there is no such engine; what is named is an entity, or needs a query that cannot have a result.
        Conflict: there are files below `to`, or another process took the job over.
        Unavailable, Corrupt: as `plans.definitions.compute`.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.audiences.queried import Queried
    from profilelake.plans.definitions import Asked, compute

    if to is not None and to.exists() and any(to.iterdir()):
        raise Conflict(f"computing definitions: {to} is not empty; name a new folder")
    whole = planned(held)
    chosen = _chosen(whole, held, keys or [key for key in held if held[key].definition.kind != "entity"])
    engine = engine_at(engine_url, layout)
    try:
        with damage_told(), queries(layout, state, ask) as asking:
            results, failed = asking.results(one for one in chosen.queried if one.enabled)
            if keys and failed:
                raise next(iter(failed.values()))
            left_out = _left_out(chosen, failed)
            if left_out:
                chosen = _chosen(whole, held, chosen.keys - left_out.keys())
            asked = Asked(chosen.plan, at, received_until, Queried(chosen.queried))
            job, computed = compute(
                engine, Lake.of(layout), WORKSPACE, asked, report, results.among(chosen.queried)
            )
            with job:
                of = Of.read(computed.moment)
                said = {"at": at, "of": asdict(of), "unpublished": computed.unpublished}
                try:
                    found = _written(computed.slices(), computed.keys, to, said)
                except FileNotFoundError:
                    job.check()  # whoever has the job now may have removed its files
                    raise
                job.finish()
    finally:
        engine.close()
    return Counts(
        at,
        computed.profiles,
        computed.accounts,
        computed.events,
        found,
        left_out,
        of,
        computed.unpublished,
    )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is computed together: definitions of the language, and those in SQL that are asked for or read."""

    plan: Plan
    queried: tuple[Definition, ...]

    @property
    def keys(self) -> set[str]:
        """The keys of the definitions that give values."""
        of_sql = {one.key for one in self.queried if one.kind != "entity"}
        return of_sql | {one.held.definition.key for one in self.plan}


def _chosen(whole: Plan, held: Mapping[str, Held], keys: Collection[str]) -> _Chosen:
    """Return what has to be computed for some keys."""
    if missing := sorted(set(keys) - held.keys()):
        raise NotFound(f"computing definitions: there is none of key {', '.join(missing)}")
    if rows := sorted(key for key in keys if held[key].definition.kind == "entity"):
        raise Invalid(
            f"computing {rows[0]}: an entity has rows and no value; name a definition that asks for them"
        )
    plan = needed(whole, set(keys))
    asked_for = set(keys).union(*(one.reads | one.entities for one in plan))
    queried = tuple(
        held[key].definition
        for key in sorted(asked_for & held.keys())
        if held[key].definition.kind in SQL_KINDS
    )
    if len(plan) + len(queried) > DEFINITIONS_MAX:
        raise Invalid(
            f"computing definitions: {len(plan) + len(queried):,} at once; name {DEFINITIONS_MAX:,} at most"
        )
    return _Chosen(plan, queried)


def _left_out(chosen: _Chosen, failed: Mapping[str, ProfilelakeError]) -> dict[str, str]:
    """Return the definitions that cannot be computed where queries failed, with the reason; those they read come first."""
    reasons = {key: str(error) for key, error in failed.items()}
    for one in chosen.plan:
        if without := sorted((one.reads | one.entities) & reasons.keys()):
            key = one.held.definition.key
            # The reason is that of the query, however many stand between.
            reasons[key] = f"it asks for {without[0]}: {reasons[without[0]]}"
    return {key: reason for key, reason in reasons.items() if key in chosen.keys}


def _written(
    slices: Iterable[Mapping[str, pa.Table]], keys: Sequence[str], to: Path | None, said: Mapping[str, Any]
) -> dict[str, int]:
    from profilelake.plans.definitions import VALUES

    found = dict.fromkeys(keys, 0)
    # Each file says what it is of, wherever it is taken.
    schema = VALUES.with_metadata({FILE_METADATA: json.dumps(said, separators=(",", ":"))})
    with ExitStack() as open_files:
        writers = {}
        if to is not None:
            to.mkdir(parents=True, exist_ok=True)
            for key in keys:
                writer = pq.ParquetWriter(to / f"{key}.parquet", schema, compression="zstd")
                writers[key] = open_files.enter_context(writer)
        for values in slices:
            for key, rows in values.items():
                found[key] += rows.num_rows
                if to is not None and rows.num_rows:
                    writers[key].write_table(rows.cast(schema))
    return found
