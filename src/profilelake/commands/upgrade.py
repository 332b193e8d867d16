"""`profilelake upgrade`: bring a data directory to the format of this program."""

from typing import Annotated

import typer

from profilelake.commands.common import DEFAULT_DIRECTORY, Directory, Json, print_json
from profilelake.directory_format import FORMAT, read_format
from profilelake.settings import Layout


def upgrade(
    directory: Directory = DEFAULT_DIRECTORY,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a data directory to the format of this program. Needs a stopped server, cannot be undone."""
    from profilelake.app.directory import upgrade_directory
    from profilelake.upgrades.run import missing

    layout = Layout(directory)
    steps = missing(layout)
    before = read_format(directory)
    if not dry_run and steps:
        upgrade_directory(layout)
    document = {
        "directory": str(directory),
        "from": before.format if before is not None else FORMAT,
        "to": FORMAT,
        "steps": [step.about for step in steps],
        "done": not dry_run,
    }
    if as_json:
        print_json(document)
        return
    for step in steps:
        print(f"{'would bring' if dry_run else 'brought'} it to format {step.to}: {step.about}")
    if not steps:
        print(f"{directory} is of format {FORMAT}, which this program reads: nothing to do")
