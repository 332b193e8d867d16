"""`profilelake engine …`: whether plans can run on a cluster, what it needs, and what jobs have done."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    print_rows,
    without_token,
)
from profilelake.errors import Invalid, NotFound
from profilelake.settings import Settings

engine_commands = typer.Typer(
    no_args_is_help=True, help="Where batch plans run: this machine or Apache Spark."
)
job_commands = typer.Typer(no_args_is_help=True, help="Jobs that have begun and are not finished.")
engine_commands.add_typer(job_commands, name="jobs")

EngineUrl = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="embedded, local[2], spark://HOST:7077, k8s://…, yarn, sc://HOST:15002.",
        callback=without_token,
    ),
]


@engine_commands.command("check")
def check(directory: Directory = DEFAULT_DIRECTORY, engine: EngineUrl = None, as_json: Json = False) -> int:
    """Run a job of moments that tries all that a rebuild needs. Exit code 20 where something is in the way."""
    from profilelake.engines.checks import Trouble, before_start, on_cluster
    from profilelake.engines.choosing import embedded, engine_of
    from profilelake.lake.place import LakePlace
    from profilelake.lake.storage import storage_of

    layout = layout_of(directory)
    options = Settings.load(directory, os.environ, engine={"url": engine}).engine
    found: list[Trouble] = list(before_start(options, layout.directory, os.environ))
    facts: dict[str, Any] = {}
    if not found:
        place = LakePlace.of(layout, os.environ)
        running = engine_of(options, layout.directory)
        try:
            facts = {"engine": running.name, "tasks": running.tasks}
            found = list(on_cluster(running, storage_of(place.warehouse, place.storage)))
        finally:
            running.close()
    if as_json:
        troubles = [{"check": one.what, "text": one.text, "fix": one.fix} for one in found]
        print_json({**facts, "troubles": troubles})
    else:
        for one in found:
            print(f"BAD  {one.what}: {one.text}\n       -> {one.fix}")
        if not found:
            kind = "this machine" if embedded(options) else "Spark"
            print(
                f"ok   {facts['engine']} ({kind}): {facts['tasks']} tasks at the same time; a job ran, rows moved"
            )
    return 20 if found else 0


@engine_commands.command("fetch")
def fetch(
    directory: Directory = DEFAULT_DIRECTORY,
    spark: Annotated[
        str | None, typer.Option(help="Version of Spark, such as 4.1; that of pyspark here where not given.")
    ] = None,
    scala: Annotated[str | None, typer.Option(help="Version of its Scala: 2.12 or 2.13.")] = None,
    as_json: Json = False,
) -> None:
    """Get the JARs that Spark needs for your own SQL on our tables. Our plans need none."""
    import shutil

    import httpx

    from profilelake.engines import jars
    from profilelake.engines.checks import spark_here
    from profilelake.engines.choosing import Places

    layout = layout_of(directory)
    options = Settings.load(directory, os.environ).engine
    here = spark_here()
    version = spark or (here[0] if here else None)
    if version is None:
        raise Invalid("fetching JARs: no pyspark here; give the version of your Spark: --spark 4.1")
    wanted = jars.jars_for(version, scala or (here[1] if here and not spark else jars.scala_of(version)))
    folder = Places.of(options, layout.directory).jars
    url = jars.repository(options.maven_url, Path.home() / ".m2" / "settings.xml")
    placed = []
    with httpx.Client() as client:
        for jar in wanted:
            print(f"{jar.name} …", file=sys.stderr)
            there = jars.find_jar(jar, [folder])
            if there is None:
                placed.append(jars.fetch(jar, folder, url, client))
            elif there.parent == folder:
                placed.append(there)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                unfinished = folder / f".{jar.name}.{os.getpid()}.part"
                shutil.copyfile(there, unfinished)
                placed.append(unfinished.replace(folder / jar.name))
    if as_json:
        print_json(
            [{"jar": str(place), "sha256": jar.sha256} for place, jar in zip(placed, wanted, strict=True)]
        )
    else:
        for place in placed:
            print(place)


@job_commands.command("list")
def jobs_list(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """List jobs that have begun and are not finished, and who runs them; the command that began one goes on with it."""
    from profilelake.engines.jobs import known_jobs

    rows = [
        {
            "job": job.id,
            "steps": str(len(job.steps)),
            "seconds": f"{sum(seconds for _, seconds in job.steps):.1f}",
            "files": f"{job.files:,}",
            "bytes": f"{job.bytes:,}",
            "touched": _shown(job.touched_at),
            **_run_by(job),
        }
        for job in known_jobs(_storage(directory))
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows)


@job_commands.command("show")
def jobs_show(
    job: Annotated[str, typer.Argument(help="As `engine jobs list` names it.")],
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Show which steps of a job are done, and what each took."""
    from profilelake.engines.jobs import known_jobs

    found = next((known for known in known_jobs(_storage(directory)) if known.id == job), None)
    if found is None:
        raise NotFound(f"showing job {job}: there is no such job; profilelake engine jobs list")
    rows = [{"step": name, "seconds": f"{seconds:.1f}"} for name, seconds in found.steps]
    if as_json:
        print_json({"job": found.id, "touched": _shown(found.touched_at), **_run_by(found), "steps": rows})
    else:
        if found.holder:
            print(f"run by {found.holder.told()}", file=sys.stderr)
        print_rows(rows)


@job_commands.command("remove")
def jobs_remove(
    job: Annotated[str | None, typer.Argument(help="As `engine jobs list` names it.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Days; all jobs that nothing was written for so long.")
    ] = None,
) -> None:
    """Forget what a job has done. One that runs is refused: its tasks would miss their files."""
    from profilelake.engines.jobs import remove_job, sweep_jobs
    from profilelake.ops.clock import wall

    if (job is None) == (older_than is None):
        raise Invalid("removing jobs: give the name of one, or --older-than DAYS")
    storage = _storage(directory)
    if job is not None:
        print(f"{job}: {remove_job(storage, job):,} files removed", file=sys.stderr)
        return
    for id in sweep_jobs(storage, (older_than or 0.0) * 86_400, wall() / 1e6):
        print(id)


@job_commands.command("release")
def jobs_release(
    job: Annotated[str, typer.Argument(help="As `engine jobs list` names it.")],
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Let others go on at once with a job on an object store whose driver is gone. One that runs stops before it commits."""
    from profilelake.engines.jobs import release_job

    held = release_job(_storage(directory), job)
    print(f"{job}: {'released' if held else 'nobody had it'}", file=sys.stderr)


def _run_by(job: Any) -> dict[str, str]:
    """Return the process that runs a job, and since when; on an object store until it was silent for a lease."""
    if job.holder is None:
        return {"process": "", "host": "", "since": ""}
    return {
        "process": str(job.holder.pid),
        "host": job.holder.host,
        "since": _shown(job.holder.since // 1_000_000),
    }


def _storage(directory: Path) -> Any:
    from profilelake.lake.place import LakePlace
    from profilelake.lake.storage import storage_of

    place = LakePlace.of(layout_of(directory), os.environ)
    return storage_of(place.warehouse, place.storage)


def _shown(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
