"""Whether the catalog is there, is the right one, and can be committed to."""

import os
from collections.abc import Iterator, Mapping
from typing import Final

from sqlalchemy.engine import make_url

from profilelake.doctor.findings import Finding, Patient, fine, problem, warning
from profilelake.errors import ProfilelakeError
from profilelake.lake.catalog_probe import probe
from profilelake.lake.place import LakePlace, on_loopback, refuse_another
from profilelake.lake.sql_catalog import leaves_machine

SKEW_SECONDS_WARN: Final = 30
"""REST catalogs refuse snapshots that are much later than their own clock."""
COMMIT_SECONDS_WARN: Final = 1.0


def catalog(patient: Patient) -> Iterator[Finding]:
    """Can a table be made, committed to and dropped, is a stale commit refused, and is nothing locked?"""
    place = LakePlace.of(patient.layout, os.environ)
    if place.kind == "sqlite" and not patient.layout.has_lake:
        return  # to look would be to make it
    try:
        refuse_another(patient.layout, place)
        found = probe(place)
    except ProfilelakeError as error:
        text, _, fix = str(error).partition("; ")
        yield problem("catalog", text, fix or "put that right, then run doctor again")
        return
    if not found.stale_commit_refused:
        yield problem(
            "catalog",
            f"{place.catalog} takes a commit that was planned from an older state: commits would be lost",
            "take a catalog that checks the requirements of a commit",
        )
    for pid, seconds in found.holders:
        yield warning(
            "catalog",
            f"process {pid} of PostgreSQL has kept iceberg_tables locked for {seconds:,} s: commits wait for it",
            f"end it there: SELECT pg_terminate_backend({pid})",
        )
    if abs(found.clock_ahead_seconds) > SKEW_SECONDS_WARN:
        yield warning(
            "catalog",
            f"its clock is {found.clock_ahead_seconds:+,.0f} s against ours: commits may be refused",
            "set the clocks right (chronyc makestep)",
        )
    if found.encrypted is False and not stays_here(place, os.environ):
        yield warning(
            "catalog",
            f"what passes to {place.catalog} is not encrypted, passwords and tokens included",
            "add ?sslmode=verify-full&sslrootcert=... to the URL of PostgreSQL, or take https://",
        )
    if found.commit_seconds > COMMIT_SECONDS_WARN:
        yield warning(
            "catalog",
            f"a commit takes {found.commit_seconds:.1f} s",
            "put the catalog nearer, or raise pipeline.lake_age_seconds",
        )
    yield fine(
        "catalog",
        f"{found.version}: a table was made, committed to in {found.commit_seconds * 1e3:.0f} ms, and dropped",
    )


def stays_here(place: LakePlace, environment: Mapping[str, str]) -> bool:
    """Tell whether what is sent to a catalog passes no network."""
    if place.kind == "postgresql":
        return not leaves_machine(make_url(place.catalog), environment)
    return on_loopback(place.catalog)
