"""`profilelake audience list|show|members|history|enable|disable|drop|resync|preview|explain`."""

import typer

from profilelake.commands._computed import add_to

audience_commands = typer.Typer(no_args_is_help=True, help="Audiences: who is in them, and since when.")
add_to(audience_commands, "audience")
