"""The command line: data on stdout, talk on stderr, exit codes of `errors`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

import profilelake
from profilelake.commands.apply import apply, diff, plan
from profilelake.commands.audience import audience_commands
from profilelake.commands.backup import backup, restore
from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    server_of,
    state_of,
    without_token,
)
from profilelake.commands.computing import compute_definitions
from profilelake.commands.destination import destination_commands
from profilelake.commands.doctor import doctor
from profilelake.commands.engine import engine_commands
from profilelake.commands.failed import failed_commands
from profilelake.commands.history import export_table, profile_history, profile_then
from profilelake.commands.identity import identity_commands
from profilelake.commands.imports import import_files
from profilelake.commands.lake import lake_commands
from profilelake.commands.privacy import privacy_commands
from profilelake.commands.schema import schema
from profilelake.commands.sources import source_commands
from profilelake.commands.tail import tail
from profilelake.commands.testing import run_cases
from profilelake.commands.tokens import token_commands
from profilelake.commands.trait import trait_commands
from profilelake.commands.upgrade import upgrade
from profilelake.commands.validate import validate
from profilelake.commands.views import duckdb_file, materialize
from profilelake.errors import Corrupt, Invalid, NotFound, ProfilelakeError, Unavailable
from profilelake.settings import Settings

INTERRUPTED: Final = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A Profiles Data Lake: customer events in, people and open tables out.",
)
profile_commands = typer.Typer(no_args_is_help=True, help="Profiles.")
process_commands = typer.Typer(no_args_is_help=True, hidden=True)
app.add_typer(profile_commands, name="profile")
app.add_typer(lake_commands, name="lake")
app.add_typer(source_commands, name="source")
app.add_typer(token_commands, name="token")
app.add_typer(destination_commands, name="destination")
app.add_typer(privacy_commands, name="privacy")
app.add_typer(process_commands, name="process")
app.command()(tail)
app.add_typer(failed_commands, name="failed")
app.add_typer(identity_commands, name="identity")
app.add_typer(engine_commands, name="engine")
app.command("import")(import_files)
app.command("export")(export_table)
profile_commands.command("history")(profile_history)
app.command()(plan)
app.command()(apply)
app.command()(validate)
app.command()(diff)
app.command("test")(run_cases)
app.command("compute")(compute_definitions)
app.add_typer(audience_commands, name="audience")
app.add_typer(trait_commands, name="trait")
app.command()(schema)
lake_commands.command("duckdb")(duckdb_file)
lake_commands.command()(materialize)
app.command()(upgrade)
app.command()(backup)
app.command()(restore)
app.command()(doctor)


def main() -> None:
    """Run the command line; end with the exit code of the error, if there is one."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except ProfilelakeError as error:
        print(f"profilelake: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except TyperException as error:
        print(f"profilelake: {error.format_message()}", file=sys.stderr)
        sys.exit(Invalid.exit_code)
    except SystemExit as end:
        # The library ends with 1 when whoever read our output has enough; that is no failure.
        sys.exit(0 if isinstance(end.__context__, BrokenPipeError) else end.code)
    except BrokenPipeError:
        # The same for what was still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        # The disk is full, a file may not be read, and the like: for the user to put right.
        print(f"profilelake: {error}", file=sys.stderr)
        sys.exit(Unavailable.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def serve(
    directory: Directory = DEFAULT_DIRECTORY,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    unsafe_sql: Annotated[
        bool, typer.Option("--unsafe-sql", help="Answer SQL over HTTP without a jail around it.")
    ] = False,
) -> int:
    """Collect events, build profiles, serve them."""
    from profilelake.app import server

    settings = Settings.load(
        directory,
        os.environ,
        http={"host": host, "port": port},
        sql={"jail": "off" if unsafe_sql else None},
    )
    return server.serve(settings, os.environ)


@app.command()
def status(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Show where every accepted event is."""
    from profilelake.manage.limits_hit import REPORT
    from profilelake.manage.status import read_status
    from profilelake.ops.clock import wall

    layout = layout_of(directory)
    document = read_status(state_of(layout), layout.log, layout.run / REPORT, "default", wall())
    document["server"] = server_of(layout)
    if as_json:
        print_json(document)
        return
    for name in (
        "accepted",
        "in_lake",
        "duplicates",
        "failed",
        "suppressed",
        "erased",
        "expired",
        "in_flight",
    ):
        print(f"{name:<11} {document[name]:>15,}")
    print(f"{'balanced':<11} {'yes' if document['balanced'] else 'NO':>15}")
    print(f"{'server':<11} {document['server'] or 'not running':>15}")
    for limit in document["limits_hit"]:
        print(f"limit {limit['name']} was hit {limit['count']:,} times lately: {limit['change']}")


@profile_commands.command("get")
def profile_get(
    identifier: Annotated[str, typer.Argument(metavar="TYPE:VALUE", help="such as email:ana@example.org")],
    directory: Directory = DEFAULT_DIRECTORY,
    collection: Annotated[str, typer.Option(help="users or accounts")] = "users",
    as_of: Annotated[str | None, typer.Option(help="As it was then, such as 2026-01-31T12:00:00Z.")] = None,
    rules: Annotated[
        str, typer.Option(help="With --as-of: the identity rules of then, or current.")
    ] = "then",
) -> None:
    """Print one profile as JSON: identifiers, traits, when and how often it was seen."""
    if as_of is not None:
        print_json(profile_then(directory, identifier, collection, as_of, rules))
        return
    from profilelake.semantics.rules import COLLECTIONS
    from profilelake.serve.lookup import whole_profile
    from profilelake.state.recent import RunReader
    from profilelake.workspaces.identifier_key import identifier_key

    if collection not in COLLECTIONS:
        raise Invalid(f"--collection {collection}: it is one of {', '.join(COLLECTIONS)}")
    layout = layout_of(directory)
    state = state_of(layout)
    if state is None:
        raise NotFound(
            f"profile get {identifier}: nothing was applied yet; start the server once: profilelake serve"
        )
    found = whole_profile(
        state,
        "default",
        RunReader(layout.recent("default")),
        identifier_key(layout.secrets, "default"),
        COLLECTIONS[COLLECTIONS.index(collection)],
        identifier,
    )
    if found is None:
        raise NotFound(f"profile get {identifier}: no such profile in {collection}")
    print_json(found)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="SQL (DuckDB); tables by their bare names.")],
    directory: Directory = DEFAULT_DIRECTORY,
    format: Annotated[str, typer.Option(help="table, json, ndjson, csv, arrow or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to a file.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the lake. Reads committed data, whether the server runs or not."""
    from profilelake.query.run import write_query, writer
    from profilelake.views.attach import attach

    layout = layout_of(directory)
    write_query(layout, query, attach, writer("json" if as_json else format, output))


@app.command()
def verify(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """Compare the online state and the tables with what the accepted facts say. Needs a stopped server."""
    from profilelake.app.offline import verify_directory

    differences = verify_directory(layout_of(directory))
    if as_json:
        print_json(differences)
    for line in () if as_json else differences:
        print(f"{line['what']}: {line['detail']}")
    if differences:
        raise Corrupt(f"verify: {len(differences)} differences; run: profilelake rebuild")
    print("state and tables are what the facts say", file=sys.stderr)


@app.command()
def rebuild(
    directory: Directory = DEFAULT_DIRECTORY,
    engine: Annotated[
        str,
        typer.Option(
            help="Where it runs: `embedded`, or the URL of a cluster. Else as the size asks for.",
            callback=without_token,
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make state and current tables again from the lake, beside a running server or without one."""
    from profilelake.commands.rebuilding import print_rebuilt, rebuild_alone, rebuild_beside

    layout = layout_of(directory)
    rebuilt = (rebuild_beside if server_of(layout) is not None else rebuild_alone)(layout, engine)
    print_rebuilt(rebuilt, as_json=as_json)


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Data directory of the demo.")] = Path(
        "profilelake-demo"
    ),
    events: Annotated[int, typer.Option(min=1, help="Events to send.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the shop's data.")] = 1,
    once: Annotated[bool, typer.Option("--once", help="Stop the server at the end.")] = False,
) -> int:
    """Send a shop's events with the real Segment SDK and show what becomes of them."""
    from profilelake.demo.run import Options, run_demo

    return run_demo(Options(directory=directory, events=events, seed=seed, once=once))


@app.command()
def version() -> None:
    """Print the version."""
    print(profilelake.__version__)


Parent = Annotated[int, typer.Option("--parent")]
Ready = Annotated[int, typer.Option("--ready")]


@process_commands.command("http")
def process_http(
    directory: Directory,
    parent: Parent,
    ready: Ready,
    host: Annotated[str, typer.Option()],
    port: Annotated[int, typer.Option()],
) -> int:
    """Run one collecting and serving process; the supervisor starts it."""
    from profilelake.app import http_process

    settings = Settings.load(directory, os.environ)
    return http_process.http_process(settings, parent=parent, ready=ready, host=host, port=port)


@process_commands.command("pipeline")
def process_pipeline(directory: Directory, parent: Parent, ready: Ready) -> int:
    """Run the pipeline process; the supervisor starts it."""
    from profilelake.app import workers

    settings = Settings.load(directory, os.environ)
    return workers.pipeline_process(settings, parent=parent, ready=ready)


@process_commands.command("query")
def process_query(
    directory: Directory, parent: Parent, ready: Ready, sql_jail: Annotated[str, typer.Option()] = "required"
) -> int:
    """Run the process that reads the lake; the supervisor starts it."""
    from profilelake.app import query_process

    settings = Settings.load(directory, os.environ, sql={"jail": sql_jail})
    return query_process.query_process(settings, parent=parent, ready=ready)


@process_commands.command("activate")
def process_activate(directory: Directory, parent: Parent, ready: Ready) -> int:
    """Run the process that tells destinations; the supervisor starts it."""
    from profilelake.app import activate_process

    settings = Settings.load(directory, os.environ)
    return activate_process.activate_process(settings, parent=parent, ready=ready)


@process_commands.command("apply")
def process_apply(directory: Directory, parent: Parent) -> int:
    """Apply what is in the log, with no server; the import starts it."""
    from profilelake.app import server

    return server.apply_only(Settings.load(directory, os.environ), parent=parent)


@process_commands.command("ask-lake")
def process_ask_lake(directory: Directory, parent: Parent) -> None:
    """Answer one question about the lake for an HTTP process, so that collecting does not wait for it."""
    import msgspec

    from profilelake.app import query_process
    from profilelake.manage.decisions import LakeQuestion
    from profilelake.ops.supervisor import die_with_parent
    from profilelake.settings import Layout

    die_with_parent(parent)
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=LakeQuestion)
    sys.stdout.buffer.write(query_process.ask_lake(Layout(directory), question))


@process_commands.command("rebuild")
def process_rebuild(directory: Directory, parent: Parent) -> int:
    """Rebuild on behalf of the supervisor, which owns the directory and has stopped who writes."""
    from profilelake.app import offline

    return offline.rebuild_process(Settings.load(directory, os.environ), parent=parent)


@process_commands.command("lake")
def process_lake(directory: Directory, parent: Parent, ready: Ready) -> int:
    """Run the lake process; the supervisor starts it."""
    from profilelake.app import workers

    settings = Settings.load(directory, os.environ)
    return workers.lake_process(settings, parent=parent, ready=ready)
