"""Files of definitions put in force: what is to be asked for, and how much may change without a word more."""

from dataclasses import dataclass
from typing import Final

from profilelake.audiences.deciding import AskDefine, AskDrop, Asked, Change, Defined
from profilelake.definitions.computed import Computed

CHANGED_PROFILES_MAX: Final = 100_000
"""Profiles that one change may let enter or leave, or give another value, without being agreed to by number."""
CHANGED_PART_MAX: Final = 0.1
"""The same, as a part of those that are in or have a value."""
CHANGED_PROFILES_FREE: Final = 100
"""So few profiles may always change: a tenth of a small audience is nobody."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a change does to profiles: how many are in or have a value now, how many enter, leave, get another one.

    `rows` of events have to be read for it. None stands for what is not known.
    """

    members: int
    entering: int | None = None
    leaving: int | None = None
    altered: int | None = None
    rows: int | None = None

    @property
    def changed(self) -> int | None:
        """How many profiles change, None where that is not known."""
        if self.entering is None or self.leaving is None:
            return None
        return self.entering + self.leaving + (self.altered or 0)


def asked_of(computed: Computed, known: Defined, note: str = "") -> list[Asked]:
    """Return what makes the files hold: all that they say, and nothing that only they have said before."""
    asked: list[Asked] = [
        AskDefine(definition=one.definition, note=note) for one in computed.written.values()
    ]
    asked += [
        AskDrop(key=key, note=note, override=True)
        for key, held in known.held.items()
        if held.definition.managed_by and key not in computed.written
    ]
    return asked


def objection(change: Change, estimate: Estimate) -> str | None:
    """Return why a change is to be agreed to by number, None where it need not be.

    A new definition takes nothing away from anybody, so it may concern as many as it does.
    """
    if change.what in ("new", "resync"):
        return None
    changed = estimate.changed
    if changed is None and estimate.members <= CHANGED_PROFILES_FREE:
        return None
    if changed is None:
        return f"{change.key}: nobody can tell how many of {estimate.members:,} profiles change"
    most = min(CHANGED_PROFILES_MAX, max(CHANGED_PROFILES_FREE, CHANGED_PART_MAX * estimate.members))
    if changed <= most:
        return None
    altered = f", {estimate.altered:,} get another value" if estimate.altered else ""
    return (
        f"{change.key}: {estimate.entering:,} enter, {estimate.leaving:,} leave{altered}, of"
        f" {estimate.members:,} now; without a word more at most {int(most):,} may"
    )
