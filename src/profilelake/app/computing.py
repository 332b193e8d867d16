"""Definitions computed over the whole lake at once, on an engine, for a command: nothing online changes."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from profilelake.app.directory import WORKSPACE, kernel_cache
from profilelake.app.rebuilding import engine_at
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.lake.catalog import Lake
from profilelake.lake.reading import damage_told
from profilelake.landing.tables import EVENTS
from profilelake.profiles.tables import PROFILES
from profilelake.semantics.definitions import Held
from profilelake.settings import Layout
from profilelake.traits.steps import Plan, Planned, planned

if TYPE_CHECKING:
    from profilelake.lake.moment import Moment

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
    """Definitions that are computed online only, with the reason."""
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
) -> Counts:
    """Compute definitions (all, where no key is named) as of a time, and write a file for each below `to`.

    Raises:
        NotFound: there is no definition of such a key, or nothing was published yet.
        Invalid: a definition that is named can be computed online only, or there is no such engine.
        Conflict: there are files below `to`, or another process took the job over.
        Unavailable, Corrupt: as `plans.definitions.compute`.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.plans.definitions import Asked, compute

    plan, left_out = _chosen(held, keys)
    if to is not None and to.exists() and any(to.iterdir()):
        raise Conflict(f"computing definitions: {to} is not empty; name a new folder")
    engine = engine_at(engine_url, layout)
    try:
        with damage_told():
            job, computed = compute(
                engine, Lake.of(layout), WORKSPACE, Asked(plan, at, received_until), report
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


def _chosen(held: Mapping[str, Held], keys: Sequence[str]) -> tuple[Plan, Mapping[str, str]]:
    """Return the definitions that are computed, and those that cannot be."""
    from profilelake.audiences.preview import needed

    if missing := sorted(set(keys) - held.keys()):
        raise NotFound(f"computing definitions: there is none of key {', '.join(missing)}")
    plan = planned(held)
    known = {one.held.definition.key: one for one in plan}
    reasons = {key: "it is in SQL, which has runs of its own" for key in held if key not in known}
    for one in plan:
        if reason := _online_only(one, held, known, reasons):
            reasons[one.held.definition.key] = reason
    if refused := [key for key in keys if key in reasons]:
        raise Invalid(f"computing {refused[0]}: {reasons[refused[0]]}")
    wanted = set(keys or known.keys() - reasons.keys())
    chosen = needed(plan, wanted)
    if len(chosen) > DEFINITIONS_MAX:
        raise Invalid(f"computing definitions: {len(chosen):,} at once; name {DEFINITIONS_MAX:,} at most")
    return chosen, {} if keys else reasons


def _online_only(
    one: Planned, held: Mapping[str, Held], known: Mapping[str, Planned], reasons: Mapping[str, str]
) -> str:
    """Return why a definition cannot be computed from the tables, nothing where it can; those it reads come before it."""
    if one.entities:
        return f"it asks for rows of {', '.join(sorted(one.entities))}, which only live computing sees"
    if reads := sorted(key for key in one.reads if key in reasons or (key in held and key not in known)):
        return f"it reads {reads[0]}, which is computed online only"
    return ""


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
