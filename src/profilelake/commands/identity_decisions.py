"""`profilelake identity unlink|relink|remove|retract|restore|quarantine|release|leave|rejoin|decisions|plan`.

What people decide about who is who, and who left which account. Works whether the server runs or not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import typer

from profilelake.commands._deciding import carry_out, show_plan
from profilelake.commands.common import (
    DEFAULT_DIRECTORY,
    Directory,
    Json,
    layout_of,
    print_json,
    print_rows,
    state_of,
)
from profilelake.errors import Invalid, NotFound

if TYPE_CHECKING:
    from profilelake.identity.decide import Asked
    from profilelake.semantics.rules import Collection

WORKSPACE: Final = "default"
LIST_ROWS: Final = 100

Act: TypeAlias = Callable[["Asked", Path, bool], None]
Identifier = Annotated[str, typer.Argument(metavar="TYPE:VALUE", help="Such as email:ana@example.org.")]
One = Annotated[str, typer.Argument(metavar="A", help="An identifier, TYPE:VALUE.")]
Other = Annotated[str, typer.Argument(metavar="B", help="Another one.")]
User = Annotated[str, typer.Argument(metavar="USER", help="An identifier of the person, TYPE:VALUE.")]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="One of the account, such as group_id:acme.")]
MessageId = Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="The event's messageId.")]
Note = Annotated[str, typer.Option("--note", help="Why; it is kept with the decision.")]
Of = Annotated[str | None, typer.Option("--collection", help="users or accounts; by default the type says.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Also where it changes nothing today.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to a group; `plan` has them once more, there they only show what they would do."""
    plan = typer.Typer(no_args_is_help=True, help="Show what a decision would change, and change nothing.")
    for group, act in ((app, _carry_out), (plan, _show_plan)):
        _add_pairs(group, act)
        _add_events(group, act)
        _add_release(group, act)
        _add_leaving(group, act)
    _add_quarantine(plan)
    plan.command("rules")(plan_rules)
    app.command("decisions")(list_decisions)
    app.add_typer(plan, name="plan")


def quarantine(
    identifier: str, collection: str | None, note: str, anyway: bool, directory: Path, as_json: bool
) -> None:
    """Let an identifier link nobody."""
    from profilelake.identity.decide import AskQuarantine

    asked = AskQuarantine(identifier=identifier, note=note, collection=_one_of(collection), anyway=anyway)
    carry_out(asked, directory, as_json=as_json)


def _carry_out(asked: "Asked", directory: Path, as_json: bool) -> None:
    carry_out(asked, directory, as_json=as_json)


def _show_plan(asked: "Asked", directory: Path, as_json: bool) -> None:
    show_plan(asked, directory, as_json=as_json)


def _one_of(collection: str | None) -> "Collection | None":
    from profilelake.semantics.rules import COLLECTIONS

    for known in COLLECTIONS:
        if collection == known:
            return known
    if collection is not None:
        raise Invalid(f"--collection {collection}: it is one of {', '.join(COLLECTIONS)}")
    return None


def _add_pairs(group: typer.Typer, act: Act) -> None:
    @group.command("unlink")
    def unlink(
        one: One,
        other: Other,
        note: Note = "",
        collection: Of = None,
        anyway: Anyway = False,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Keep two identifiers apart: they never share a profile, in all that was and will be."""
        from profilelake.identity.decide import AskUnlink

        asked = AskUnlink(identifiers=(one, other), note=note, collection=_one_of(collection), anyway=anyway)
        act(asked, directory, as_json)

    @group.command("relink")
    def relink(
        one: One,
        other: Other,
        note: Note = "",
        collection: Of = None,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Take back that two identifiers are kept apart."""
        from profilelake.identity.decide import AskRelink

        asked = AskRelink(identifiers=(one, other), note=note, collection=_one_of(collection))
        act(asked, directory, as_json)

    @group.command("remove")
    def remove(
        identifier: Identifier,
        profile: Annotated[str, typer.Option("--from", metavar="PROFILE", help="Id of the profile.")],
        note: Note = "",
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Keep an identifier apart from what a profile began with."""
        from profilelake.identity.decide import AskRemove

        act(AskRemove(identifier=identifier, profile=profile, note=note), directory, as_json)


def _add_events(group: typer.Typer, act: Act) -> None:
    @group.command("retract")
    def retract(
        message_id: MessageId,
        note: Note = "",
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Let an event be no evidence of who is who. The event itself stays."""
        from profilelake.identity.decide import AskRetract

        act(AskRetract(message_id=message_id, note=note), directory, as_json)

    @group.command("restore")
    def restore(
        message_id: MessageId,
        note: Note = "",
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Let a retracted event be evidence again."""
        from profilelake.identity.decide import AskRestore

        act(AskRestore(message_id=message_id, note=note), directory, as_json)


def _add_release(group: typer.Typer, act: Act) -> None:
    @group.command("release")
    def release(
        identifier: Identifier,
        note: Note = "",
        collection: Of = None,
        anyway: Anyway = False,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Let a quarantined identifier link again, however many others it meets."""
        from profilelake.identity.decide import AskRelease

        asked = AskRelease(identifier=identifier, note=note, collection=_one_of(collection), anyway=anyway)
        act(asked, directory, as_json)


def _add_leaving(group: typer.Typer, act: Act) -> None:
    @group.command("leave")
    def leave(
        user: User,
        account: Account,
        note: Note = "",
        anyway: Anyway = False,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """End what links a person with an account until now; a later group call links them again."""
        from profilelake.identity.decide import AskLeave

        act(AskLeave(user=user, account=account, note=note, anyway=anyway), directory, as_json)

    @group.command("rejoin")
    def rejoin(
        user: User,
        account: Account,
        note: Note = "",
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Take back that a person left an account."""
        from profilelake.identity.decide import AskRejoin

        act(AskRejoin(user=user, account=account, note=note), directory, as_json)


def _add_quarantine(plan: typer.Typer) -> None:
    @plan.command("quarantine")
    def plan_quarantine(
        identifier: Identifier,
        collection: Of = None,
        directory: Directory = DEFAULT_DIRECTORY,
        as_json: Json = False,
    ) -> None:
        """Let an identifier link nobody."""
        from profilelake.identity.decide import AskQuarantine

        show_plan(
            AskQuarantine(identifier=identifier, collection=_one_of(collection)), directory, as_json=as_json
        )


def plan_rules(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Rules in YAML; else definitions/identity.yaml.")
    ] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Put other identity rules in force."""
    from profilelake.identity.decide import AskRules

    text = None if file is None else file.read_text(encoding="utf-8")
    show_plan(AskRules(rules=text), directory, as_json=as_json)


def list_decisions(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = LIST_ROWS,
    cursor: Annotated[str, typer.Option(help="Go on before this position.")] = "",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """List what was decided, the newest first, and what of it is in force."""
    from profilelake.app.directory import identity_rules
    from profilelake.identity import standing
    from profilelake.identity.decisions import listed

    state = state_of(layout_of(directory))
    found = []
    if state is not None:
        try:
            with state.read(WORKSPACE) as tx:
                held = standing.load(tx, WORKSPACE, identity_rules())
                found = listed(tx, WORKSPACE, held, after=cursor, rows=limit)
        except NotFound:
            pass  # nothing was applied yet
    if as_json:
        print_json([msgspec.to_builtins(one) for one in found])
        return
    print_rows(
        [
            {
                "at": one.at,
                "decision": one.decision,
                "about": " ".join(one.identifiers) or one.message_id or f"version {one.rules_version}",
                "in force": "yes" if one.in_force else "no",
                "by": one.by,
                "note": one.note,
                "position": one.position,
            }
            for one in found
        ]
    )
