"""A rebuild by plan that is killed at its failpoints, each time in a process of its own, then called again.

    rebuild_child.py ROOT PLACE…

ROOT is a published data directory (its lake names its own place, so it is used again and again). For each
place a rebuild is killed there the 1st, 4th, 16th … time, until one lives; each killed one is called again in
another process. Prints one line of JSON per run.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_child import Outcome, arm, forked, outcome, tell

from pipeline_driver import WORKSPACE, Desk
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.kernels import identity as identity_kernel
from profilelake.kernels import siphash
from profilelake.landing import dedup
from profilelake.landing.tables import EVENTS
from profilelake.pipeline.publish import EVERY_CURRENT
from profilelake.plans.rebuild import Cutting
from profilelake.plans.sizes import Sizes

CUTTING = Cutting(Sizes(share_bytes=16_000, part_bytes=16_000, part_members=64, sets_per_part=40), None, 2)


def rebuild(home: Path, told: Path) -> Outcome:
    """Rebuild; note in a file which steps the engine ran and which the job remembers."""

    def note(line: str) -> None:
        with told.open("a") as sink:
            sink.write(line + "\n")

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def ran(self: EmbeddedEngine, name: str, *arguments: Any) -> Any:
            note(f"ran {name}")
            return run(self, name, *arguments)

        return ran

    EmbeddedEngine.each = noting(EmbeddedEngine.each)  # type: ignore[method-assign]
    EmbeddedEngine.spread = noting(EmbeddedEngine.spread)  # type: ignore[method-assign]
    desk = Desk(home)
    desk.rebuild_by_plan(CUTTING, lambda line: note(f"told {line}"))
    desk.close()
    return {}


def steps(told: Path, begin: str) -> list[str]:
    """Return the names that were noted with this word."""
    lines = told.read_text().splitlines() if told.exists() else []
    return [line.split()[1].rstrip(":") for line in lines if line.startswith(begin) and "before" not in line]


def held(home: Path) -> Outcome:
    """Return everything that must not depend on where processes died."""
    desk = Desk(home)
    found = outcome(desk)
    progress = desk.lake.table(WORKSPACE, EVENTS).progress()
    epoch = "" if progress is None else progress.epoch
    found["replaced"] = [
        sum(
            snapshot.operation == "overwrite" and snapshot.summary.get("profilelake.epoch") == epoch
            for snapshot in desk.lake.current_table(WORKSPACE, definition).base.snapshots()
        )
        for definition in EVERY_CURRENT
    ]
    found["jobs"] = [str(path) for path in (home / "lake" / "_jobs").rglob("*") if path.is_file()]
    desk.close()
    return found


def main() -> None:
    root = Path(sys.argv[1])
    siphash.warm()
    identity_kernel.warm()
    dedup.warm()
    forked(lambda: rebuild(root, root / "told"))
    _, wanted = forked(lambda: held(root))
    tell({"place": "", "killed": False, **wanted})
    for place in sys.argv[2:]:
        count = 1
        while True:
            before, after = root / f"told-{place}-{count}-1", root / f"told-{place}-{count}-2"

            def dying(place: str = place, count: int = count, told: Path = before) -> Outcome:
                arm(place, count)
                return rebuild(root, told)

            killed, said = forked(dying)
            if not killed:
                tell({"place": place, "count": count, "killed": False, **said})
                break
            _, error = forked(lambda told=after: rebuild(root, told))
            _, found = forked(lambda: held(root))
            tell(
                {
                    "place": place,
                    "count": count,
                    "killed": True,
                    "finished": steps(before, "told"),
                    "ran_again": steps(after, "ran"),
                    "wrong": {name: found.get(name) for name in wanted if found.get(name) != wanted[name]},
                    "error": error.get("error") or found.get("error"),
                }
            )
            count *= 4


if __name__ == "__main__":
    main()
