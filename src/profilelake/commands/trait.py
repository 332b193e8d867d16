"""`profilelake trait list|show|values|history|enable|disable|drop|resync|preview|explain`."""

import typer

from profilelake.commands._computed import add_to

trait_commands = typer.Typer(no_args_is_help=True, help="Computed traits: what profiles are worth.")
add_to(trait_commands, "trait")
