"""Who publishes next: a pure decision from what waits, how long, and how much time may go into it.

An idle workspace never commits. A busy server with few workspaces commits each as often as is asked for;
with very many the same time is shared, and all of them wait longer by the same measure.
"""

import math
from dataclasses import dataclass, field

_Seconds = float


@dataclass(slots=True)
class _Waiting:
    since: _Seconds
    events: int


@dataclass(slots=True)
class Cadence:
    """Decides for one loop. Times are seconds of a clock that never goes back.

    `age_seconds` is how long something may wait before it is due, `share` the part of the time that
    publishing may take. What is asked for is due at once, and nobody's wait is counted against it.
    """

    age_seconds: _Seconds
    share: float
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _rest_until: _Seconds = -math.inf

    def saw(self, workspace: str, events: int, now: _Seconds) -> None:
        """Note how many events of a workspace wait; none ends its wait."""
        if events <= 0:
            self._waiting.pop(workspace, None)
        elif (held := self._waiting.get(workspace)) is None:
            self._waiting[workspace] = _Waiting(now, events)
        else:
            held.events = events

    def next(self, now: _Seconds, *, asked: bool = False) -> str | None:
        """Return the workspace that is to publish now, None where nobody is due or the time is used up.

        Where several are due, the one with the longest wait, counted somewhat more the more events it
        is for: at most eight times for ten million. So a crowd of small ones does not hold back a large
        one for long, and no one is held back for ever.
        """
        if not asked and now < self._rest_until:
            return None
        due = [
            (self._weight(held, now), workspace)
            for workspace, held in self._waiting.items()
            if asked or now - held.since >= self.age_seconds
        ]
        return max(due)[1] if due else None

    def published(self, workspace: str, began: _Seconds, ended: _Seconds) -> None:
        """Note that a workspace has published; what came while it did so waits since `began`."""
        self._waiting.pop(workspace, None)
        self._rest_until = ended + (ended - began) * (1 / self.share - 1)

    def failed(self, workspace: str, now: _Seconds) -> None:
        """Note that a workspace could not publish: others are not to wait behind it."""
        held = self._waiting.get(workspace)
        if held is not None:
            held.since = now

    def oldest(self, now: _Seconds) -> _Seconds:
        """Return for how long the longest has waited."""
        return max((now - held.since for held in self._waiting.values()), default=0.0)

    @staticmethod
    def _weight(held: _Waiting, now: _Seconds) -> float:
        return (now - held.since) * (1 + min(7.0, math.log10(held.events)))
