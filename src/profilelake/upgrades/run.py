"""Running the steps that a directory lacks, so that a crash anywhere is only a delay."""

import logging
from collections.abc import Callable, Sequence

import profilelake
from profilelake.directory_format import FORMAT, DirectoryFormat, read_format, write_format
from profilelake.errors import Internal, Invalid
from profilelake.ops.failpoints import reach
from profilelake.settings import Layout
from profilelake.upgrades.steps import STEPS, Step

_log = logging.getLogger(__name__)


def missing(layout: Layout, steps: Sequence[Step] = STEPS, wanted: int = FORMAT) -> list[Step]:
    """Return the steps that a directory lacks, in their order.

    Raises:
        Invalid: it is not a data directory.
        Conflict: it is of a newer format.
        Corrupt: what it says of its format is nonsense.
    """
    told = read_format(layout.directory)
    if told is None:
        raise Invalid(f"upgrading {layout.directory}: not a profilelake data directory; name one with --dir")
    found = [step for step in steps if told.format < step.to <= wanted]
    if [step.to for step in found] != list(range(told.format + 1, wanted + 1)):
        raise Internal(f"upgrading {layout.directory}: no way from format {told.format} to {wanted}")
    return found


def upgrade(
    layout: Layout,
    steps: Sequence[Step] = STEPS,
    wanted: int = FORMAT,
    report: Callable[[str], None] = _log.info,
) -> int:
    """Bring a directory to the format of this program; return how many steps that took.

    The caller owns the directory. Raises as `missing`, and what a step raises; the same call then
    goes on where it ended.
    """
    done = 0
    for step in missing(layout, steps, wanted):
        told = read_format(layout.directory) or DirectoryFormat(step.to - 1)
        report(f"upgrading {layout.directory} to format {step.to}: {step.about}")
        write_format(layout.directory, DirectoryFormat(step.to - 1, step.to, told.created_by, told.program))
        reach("upgrade.begun")
        step.run(layout)
        reach("upgrade.changed")
        write_format(
            layout.directory, DirectoryFormat(step.to, None, told.created_by, profilelake.__version__)
        )
        reach("upgrade.done")
        done += 1
    return done


def upgrade_if_quick(layout: Layout) -> bool:
    """Do what every start may do unasked; return whether the directory is of this format now."""
    steps = missing(layout)
    if all(step.quick for step in steps):
        upgrade(layout)
        return True
    return False
