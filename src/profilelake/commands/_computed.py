"""What `profilelake audience …` and `profilelake trait …` have in common: one group of commands for each."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import typer

from profilelake.commands._applying import WORKSPACE, Pipeline
from profilelake.commands._deciding import waiting
from profilelake.commands._defining import carry_out, defined
from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    print_rows,
)
from profilelake.errors import Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from profilelake.audiences.deciding import Asked, Defined
    from profilelake.semantics.definitions import Definition, Held

Noun: TypeAlias = Literal["audience", "trait"]
LIST_ROWS: Final = 100
EXAMPLES: Final = 10
EXAMPLES_MAX: Final = 20
QUERY_CHARACTERS_SHOWN: Final = 60

Key = Annotated[str, typer.Argument(metavar="KEY", help="Key of the definition.")]
Note = Annotated[str, typer.Option("--note", help="Why; it is kept with the decision.")]
Version = Annotated[
    int | None, typer.Option("--expected-version", help="Refuse it where another version holds.")
]
Override = Annotated[
    bool, typer.Option("--override", help="Also where a file says what holds; `diff` then shows it.")
]
Many = Annotated[bool, typer.Option("--yes-many", help="Also where very many profiles change.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]


def add_to(group: typer.Typer, noun: Noun) -> None:
    """Add the commands to the group of audiences or of computed traits."""
    _add_showing(group, noun)
    _add_people(group, noun)
    _add_preview(group, noun)
    _add_deciding(group, noun)
    _add_explaining(group, noun)


def _people(noun: Noun) -> str:
    return "members" if noun == "audience" else "values"


def _add_showing(group: typer.Typer, noun: Noun) -> None:
    people = _people(noun)

    @group.command("list", help=f"List the {noun}s there are, and where their computation stands.")
    def list_(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
        pipeline = Pipeline(layout_of(directory))
        found = [_summary(pipeline, held) for held in _held(defined(pipeline), noun).values()]
        if as_json:
            print_json(found)
            return
        names = ("key", "status", "version", people, "target", "managed by", "query")
        print_rows([{name: _cell(row[name.replace(" ", "_")]) for name in names} for row in found])

    @group.command("show", help="Show one: what it says, who says so, and where its computation stands.")
    def show(key: Key, directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
        from profilelake.audiences.shown import as_entry

        pipeline = Pipeline(layout_of(directory))
        held = _one(defined(pipeline), noun, key)
        summary = _summary(pipeline, held)
        if as_json:
            print_json(summary | _said(held.definition))
            return
        for name, value in summary.items():
            if name != "query" and value not in ("", None):
                print(f"{name:<14} {value:,}" if isinstance(value, int) else f"{name:<14} {value}")
        print(as_entry(held.definition), end="")

    @group.command(
        "history", help="List the versions of one, and who decided what and why, the newest first."
    )
    def history(
        key: Key,
        limit: Limit = LIST_ROWS,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        found = _history(Pipeline(layout_of(directory)), key, noun)[:limit]
        if as_json:
            print_json(found)
            return
        print_rows([{name: _cell(value) for name, value in row.items()} for row in found])


def _add_people(group: typer.Typer, noun: Noun) -> None:
    people = _people(noun)

    @group.command(people, help=f"List the {people} of one, in order of profile ids, as of the tables.")
    def members(
        key: Key,
        limit: Limit = LIST_ROWS,
        cursor: Annotated[str, typer.Option(help="Go on behind this profile id.")] = "",
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        from profilelake.app.computed import values_page

        pipeline = Pipeline(layout_of(directory))
        _one(defined(pipeline), noun, key)
        if waiting(pipeline):
            print("some of what was accepted is not in the tables yet: it is left out", file=sys.stderr)
        found = values_page(pipeline.layout, key, audience=noun == "audience", after=cursor, rows=limit + 1)
        if len(found) > limit:
            print(f"there are more; go on with --cursor {found[limit - 1].profile_id}", file=sys.stderr)
        rows = [
            {"profile_id": one.profile_id, "value": one.value, "since": one.since, "version": one.version}
            for one in found[:limit]
        ]
        if as_json:
            print_json([row | {"value": json.loads(str(row["value"]))} for row in rows])
            return
        names = ("profile_id", *(() if noun == "audience" else ("value",)), "since", "version")
        print_rows([{name: str(row[name]) for name in names} for row in rows])


def _add_preview(group: typer.Typer, noun: Noun) -> None:
    @group.command("preview", help="Count whom a definition would concern now, and show some. Keeps nothing.")
    def preview(
        key: Annotated[
            str | None, typer.Argument(metavar="[KEY]", help="Of a definition in the files.")
        ] = None,
        query: Annotated[str | None, typer.Option(help="The definition as text, in place of a key.")] = None,
        target: Annotated[str, typer.Option(help="With --query: users or accounts.")] = "users",
        limit: Annotated[int, typer.Option(min=0, max=EXAMPLES_MAX, help="Show so many.")] = EXAMPLES,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        from profilelake.app.estimating import preview as previewed

        pipeline = Pipeline(layout_of(directory))
        definition = _tried(pipeline, noun, key, query, target)
        if waiting(pipeline):
            print("some of what was accepted is not in the tables yet: it is left out", file=sys.stderr)
        found = previewed(pipeline.layout, pipeline.state(), definition, limit)
        if found.failure_reason is not None:
            raise Unavailable(f"previewing: {found.failure_reason}")
        size = found.size or {}
        if as_json:
            print_json({"size": size, "results": found.results})
            return
        print(_counted(size, noun, definition.target))
        print_rows([{name: str(value) for name, value in row.items()} for row in found.results or ()])


def _counted(size: Mapping[str, Any], noun: Noun, target: str) -> str:
    """Return a count in words: what it is of, where not all were looked at."""
    count, sampled, everybody = size["count"], size["sampled"], size["profiles"]
    if sampled == everybody:
        return f"{count:,} {_people(noun)}"
    return (
        f"about {count:,} {_people(noun)}, between {size['low']:,} and {size['high']:,} with 95 % certainty:"
        f" {sampled:,} of {everybody:,} {target} were looked at"
    )


def _tried(pipeline: Pipeline, noun: Noun, key: str | None, query: str | None, target: str) -> "Definition":
    """Return the definition to try out: one of the files, or of a text, checked against what is defined."""
    from profilelake.audiences.deciding import AskDefine, decide
    from profilelake.commands._deciding import BY
    from profilelake.definitions.computed import load
    from profilelake.semantics.definitions import Definition

    if (key is None) == (query is None):
        raise Invalid("preview: name a key of the files, or give the definition with --query")
    if target not in ("users", "accounts"):
        raise Invalid(f"--target {target}: it is one of users, accounts")
    known = defined(pipeline)
    if query is not None:
        about = "accounts" if target == "accounts" else "users"
        made = Definition("preview", noun, query.strip(), target=about)  # type: ignore[arg-type]  # checked above
        decide([AskDefine(definition=made)], known, BY)
        return made
    written = load(pipeline.layout.definitions).written.get(str(key))
    if written is not None:
        return written.definition
    return _one(known, noun, str(key)).definition


def _add_deciding(group: typer.Typer, noun: Noun) -> None:
    have = "be in it" if noun == "audience" else "have a value of it"
    words = {
        "enable": f"Let a disabled {noun} be computed again.",
        "disable": f"Let nobody {have} until it is enabled again.",
        "drop": f"Remove one; its values go, and its key stays one of {noun}s.",
    }
    for word, about in words.items():
        group.command(word, help=about)(_deciding(word, noun))

    @group.command("resync", help="Announce everything it is worth once more.")
    def resync(
        key: Key,
        destination: Annotated[str, typer.Option(help="Only to this one.")] = "",
        note: Note = "",
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        from profilelake.audiences.deciding import AskResync

        def asked(known: "Defined") -> "list[Asked]":
            _one(known, noun, key)
            return [AskResync(key=key, destination=destination, note=note)]

        carry_out(asked, directory, many=False, as_json=as_json)


def _deciding(word: str, noun: Noun) -> Callable[..., None]:
    def decide(
        key: Key,
        note: Note = "",
        expected_version: Version = None,
        override: Override = False,
        yes_many: Many = False,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        from profilelake.audiences.deciding import AskDisable, AskDrop, AskEnable

        shapes: dict[str, type[AskEnable | AskDisable | AskDrop]] = {
            "enable": AskEnable,
            "disable": AskDisable,
            "drop": AskDrop,
        }

        def asked(known: "Defined") -> "list[Asked]":
            _one(known, noun, key)
            return [shapes[word](key=key, note=note, expected_version=expected_version, override=override)]

        carry_out(asked, directory, many=yes_many, as_json=as_json)

    return decide


def _held(known: "Defined", noun: Noun) -> "dict[str, Held]":
    from profilelake.semantics.definitions import is_audience, is_trait

    mine = is_audience if noun == "audience" else is_trait
    return {key: held for key, held in sorted(known.held.items()) if mine(held.definition.kind)}


def _one(known: "Defined", noun: Noun, key: str) -> "Held":
    found = _held(known, noun).get(key)
    if found is not None:
        return found
    other = "trait" if noun == "audience" else "audience"
    if key in known.held:
        raise Invalid(f"{noun} {key}: it is no {noun}; ask `profilelake {other}`")
    dropped = ", it was dropped" if key in known.kinds else ""
    raise NotFound(f"{noun} {key}: there is no such {noun}{dropped}; see `profilelake {noun} list`")


def _summary(pipeline: Pipeline, held: "Held") -> dict[str, Any]:
    from profilelake.app.estimating import records
    from profilelake.semantics.definitions import computation_id, is_audience

    definition = held.definition
    try:
        record = records(pipeline.state()).get(definition.key)
    except NotFound:
        record = None
    people = "members" if is_audience(definition.kind) else "values"
    status = ("backfilling" if definition.enabled else "disabled") if record is None else record.status
    return {
        "key": definition.key,
        "id": computation_id(definition.kind, held.created),
        "kind": definition.kind,
        "status": status,
        "version": held.version,
        people: 0 if record is None else record.members,
        "target": definition.target,
        "managed_by": definition.managed_by,
        "progress": _progress(record),
        "failure": "" if record is None else record.failure,
        "last_run": _last_run(pipeline, held),
        "query": definition.query,
    }


def _last_run(pipeline: Pipeline, held: "Held") -> str:
    """Return what came of the last run of a definition in SQL, empty of any other, and where none was yet."""
    from profilelake.pipeline.sql_runs import runs
    from profilelake.semantics.definitions import SQL_KINDS
    from profilelake.semantics.times import format_time

    if held.definition.kind not in SQL_KINDS:
        return ""
    try:
        with pipeline.state().read(WORKSPACE) as tx:
            run = runs(tx, WORKSPACE).get(held.definition.key)
    except NotFound:
        return ""
    if run is None:
        return ""
    at = format_time(run.started_at)
    return (
        f"{at}: {run.failure}"
        if run.failure
        else (
            f"{at}: {run.rows:,} rows, {run.changed:,} profiles changed, {run.unknown:,} ids that nobody has"
        )
    )


def _progress(record: Any) -> str:
    if record is None or record.status not in ("backfilling", "computing") or not record.known_rows:
        return ""
    return f"{record.done_rows:,} of {record.known_rows:,} events read"


def _said(definition: "Definition") -> dict[str, Any]:
    return {
        "name": definition.name,
        "description": definition.description,
        "enabled": definition.enabled,
        "external_ids": list(definition.external_ids),
        "historical": definition.historical,
        "every_seconds": definition.every_seconds,
        "id_type": definition.id_type,
    }


def _history(pipeline: Pipeline, key: str, noun: Noun) -> list[dict[str, Any]]:
    from profilelake.audiences.history import history

    try:
        with pipeline.state().read(WORKSPACE) as tx:
            found = history(tx, WORKSPACE, key)
    except NotFound:
        found = []
    if not found:
        raise NotFound(f"{noun} {key}: there never was one; see `profilelake {noun} list`")
    return [
        {
            "at": one.at,
            "decision": one.decision,
            "version": one.version,
            "by": one.by,
            "note": one.note,
            "enabled": one.enabled,
            "query": one.query,
        }
        for one in reversed(found)
    ]


def _cell(value: object) -> str:
    text = (
        " ".join(f"{value:,}".split())
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )
    text = " ".join(text.split())
    return text if len(text) <= QUERY_CHARACTERS_SHOWN else f"{text[: QUERY_CHARACTERS_SHOWN - 1]}…"


def _add_explaining(group: typer.Typer, noun: Noun) -> None:
    @group.command("run", help="Have a query run now, not when it is due; the server does it.")
    def run(key: Key, directory: Directory = DEFAULT_DIRECTORY) -> None:
        from profilelake.semantics.definitions import SQL_KINDS

        layout = layout_of(directory)
        held = _one(defined(Pipeline(layout)), noun, key)
        if held.definition.kind not in SQL_KINDS:
            raise Invalid(f"running {key}: it is no SQL; conditions are up to date with every event")
        layout.sql_requests.mkdir(parents=True, exist_ok=True)
        (layout.sql_requests / key).touch()
        print(
            f"{key}: runs within seconds where a server runs, else at its next start; see `{noun} show {key}`"
        )

    what = "is in one or not" if noun == "audience" else "comes by its value"

    @group.command(
        "explain", help=f"Show how a profile {what}: each condition, what it found, what it asks for."
    )
    def explain(
        key: Key,
        identifier: Annotated[
            str, typer.Argument(metavar="TYPE:VALUE", help="such as email:ana@example.org")
        ],
        directory: Directory = DEFAULT_DIRECTORY,
        as_of: Annotated[str | None, typer.Option(help="As it was at this time.")] = None,
        collection: Annotated[str, typer.Option("--collection", help="users or accounts")] = "users",
        as_json: Json = False,
    ) -> None:
        from profilelake.commands.history import explained_profile

        told = explained_profile(directory, key, identifier, collection, as_of)
        if as_json:
            print_json(told)
            return
        print(
            f"{told['definition']} v{told['version']} of {told['profile_id']} at {told['at']}: {_cell(told['value'])}"
        )
        if noun == "audience" and not told["has_external_id"]:
            print("  it has no identifier of a type that members need")
        announced = told.get("announced")
        if announced is not None:
            print(f"  announced: {announced['value']} since {announced['since']}")
        _print_part(told["explanation"], 1)


def _print_part(part: dict[str, Any], level: int) -> None:
    """Print one condition, and below it those it is made of."""
    held = {True: "yes", False: "no ", None: "   "}[part.get("holds")]
    found = f"  -> {_cell(part['value'])}" if "value" in part else ""
    counted = f"  ({part['counted']} of {part['considered']})" if "considered" in part else ""
    if part.get("left_out"):
        which = "last are not looked for" if part["what"] == "comparison" else "oldest are not looked at"
        counted += f"  (the {part['left_out']:,} {which})"
    changes = f"  changes by {part['changes_at']}" if part.get("changes_at") else ""
    print(f"{'  ' * level}{held} {part['text']}{found}{counted}{changes}")
    for below in part.get("parts", ()):
        _print_part(below, level + 1)
