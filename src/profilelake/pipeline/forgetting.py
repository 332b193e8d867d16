"""Failed events whose time is over, and what is noted of their replays.

They leave their table a few days at a time; how many have gone ever is said by the table, and told to the state
for whoever shows where accepted events are. A fact table counts `failed = there + expired`.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from profilelake.errors import Conflict
from profilelake.lake.retention import Expired, expire_days
from profilelake.landing.tables import FAILED_EVENTS
from profilelake.ops.clock import Clock
from profilelake.ops.failpoints import reach
from profilelake.pipeline.lake_metrics import LakeMetrics
from profilelake.pipeline.progress import PUBLISHED, load_published
from profilelake.pipeline.publish import Publisher
from profilelake.pipeline.upkeep import Upkeep
from profilelake.state.store import State

DAY_MICROS: Final = 86_400_000_000

_log = logging.getLogger(__name__)

ForgetReplays = Callable[[int], bool]
"""From a time in microseconds to whether there is more to forget of failed events that were received before it."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What is forgotten in one directory; used by the thread that tends its tables.

    Failed events are kept for `days` after they were received, and to the end of that day (UTC); 0 is for ever.
    """

    publishers: Sequence[Publisher]
    upkeeps: Sequence[Upkeep]
    days: float
    forget_replays: ForgetReplays
    clock: Clock
    metrics: LakeMetrics

    def step(self) -> bool:
        """Do a bounded part of what is due; tell whether there may be more.

        Raises:
            Unavailable: disk full or an unknown outcome; call again, nothing is counted twice.
        """
        more = False
        before: list[int] = []
        for publisher, upkeep in zip(self.publishers, self.upkeeps, strict=True):
            table = upkeep.lake.table(upkeep.workspace, FAILED_EVENTS)
            held = Expired.of(table.properties())
            now = self._expired(upkeep, held)
            reach("forget.committed")
            if now is not None:
                more, held = True, now
            tell_expired(publisher.state, publisher.workspace, held.rows)
            before.append(held.before_day)
        whole_from = min(before, default=0) * DAY_MICROS
        replays_left = self.forget_replays(whole_from) if whole_from else False
        return more or replays_left

    def _expired(self, upkeep: Upkeep, held: Expired) -> Expired | None:
        if not self.days:
            return None
        before_day = int((self.clock() - self.days * DAY_MICROS) // DAY_MICROS)
        table = upkeep.lake.table(upkeep.workspace, FAILED_EVENTS)
        try:
            now = expire_days(table, before_day)
        except Conflict as error:
            _log.info("failed events expire later: %s", error)
            return None
        if now is None:
            return None
        rows = now.rows - held.rows
        upkeep.record.write("expire rows", table.name, rows=rows, before_day=now.before_day)
        _log.warning(
            "%d failed events are older than %g days (pipeline.failed_retention_days) and are gone",
            rows,
            self.days,
        )
        self.metrics.rows_expired(rows)
        self.metrics.done("expire rows", self.clock())
        return now


def tell_expired(state: State, workspace: str, rows: int) -> None:
    """Note in the state how many failed events have expired; what the table says holds, also behind a crash."""
    with state.read(workspace) as tx:
        if load_published(tx, workspace).failed_expired == rows:
            return
    with state.write() as tx:
        published = load_published(tx, workspace)
        published.failed_expired = rows
        tx.put_meta(workspace, PUBLISHED, published)
