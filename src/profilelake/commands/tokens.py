"""`profilelake token`: who may read profiles and administer. Works whether the server runs or not."""

import sys
from typing import Annotated, Final

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, print_json, print_rows
from profilelake.commands.sources import control_of
from profilelake.errors import Invalid
from profilelake.workspaces import Token, TokenKind

token_commands = typer.Typer(no_args_is_help=True, help="Tokens: who may read profiles and administer.")

DAYS_MAX: Final = 36_500
_DAY: Final = 86_400 * 1_000_000


@token_commands.command("issue")
def issue(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="read (profiles) or admin (management).")],
    days: Annotated[int | None, typer.Option(help="Days until it expires; never, if not given.")] = None,
    scope: Annotated[
        str, typer.Option(help="What a read token may read, such as 'collection:users trait:email'.")
    ] = "",
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Make a token and show its secret, this once: only a digest of it is kept."""
    from profilelake.ops.clock import wall

    kinds = [known.value for known in TokenKind]
    if kind not in kinds:
        raise Invalid(f"token issue {kind}: it is one of {', '.join(kinds)}")
    if days is not None and not 1 <= days <= DAYS_MAX:
        raise Invalid(f"--days {days}: give 1 to {DAYS_MAX:,}")
    now = wall()
    with control_of(directory) as control:
        token, secret = control.issue_token(
            TokenKind(kind),
            "default",
            now=now,
            scope=scope,
            expires_at=None if days is None else now + days * _DAY,
        )
    if as_json:
        print_json(_document(token, now) | {"secret": secret})
        return
    print(secret)
    print(f"this is shown once; revoke it with: profilelake token revoke {token.id}", file=sys.stderr)


@token_commands.command("list")
def list_tokens(directory: Directory = DEFAULT_DIRECTORY, as_json: Json = False) -> None:
    """List the tokens, those that are no longer good included. Secrets are not kept."""
    from profilelake.ops.clock import wall

    now = wall()
    with control_of(directory) as control:
        documents = [_document(token, now) for token in control.tokens("default")]
    if as_json:
        print_json(documents)
        return
    print_rows([{name: str(value or "") for name, value in document.items()} for document in documents])


@token_commands.command("revoke")
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Id of the token (tok_…), not its secret.")],
    directory: Directory = DEFAULT_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Make a token bad for good, within a second."""
    from profilelake.ops.clock import wall

    now = wall()
    with control_of(directory) as control:
        control.revoke_token(token, now=now)
        revoked = next(known for known in control.tokens() if known.id == token)
    if as_json:
        print_json(_document(revoked, now))
        return
    print(f"{token} is revoked", file=sys.stderr)


def _document(token: Token, now: int) -> dict[str, object]:
    from profilelake.semantics.times import format_time

    expired = token.expires_at is not None and token.expires_at <= now
    return {
        "id": token.id,
        "kind": token.kind.value,
        "scope": token.scope,
        "state": "revoked" if token.revoked else "expired" if expired else "live",
        "created_at": format_time(token.created_at),
        "expires_at": None if token.expires_at is None else format_time(token.expires_at),
    }
