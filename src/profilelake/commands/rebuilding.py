"""`profilelake rebuild`: done here, or asked of the running server and followed until it is done."""

import secrets
import sys
import time
from typing import Any, Final

from profilelake.commands.common import print_json, server_of
from profilelake.errors import Conflict, Corrupt, Unavailable
from profilelake.settings import Layout

LOOK_SECONDS: Final = 0.2
TAKEN_SECONDS: Final = 60.0
"""How long a running server may take to hear of it."""
GONE_LOOKS: Final = 25
"""How many looks in a row must find no server before it counts as gone."""


def rebuild_beside(layout: Layout, engine: str) -> dict[str, Any]:
    """Have the running server rebuild, and return what came of it. Collecting and reading go on meanwhile.

    Raises:
        Conflict: another rebuild is under way.
        Unavailable: the server does not hear, or ended; then its next start finishes what was begun.
        Corrupt: the rebuild failed.
    """
    from profilelake.pipeline.rebuilding import Rebuilding, load, store

    path = layout.rebuild_request
    known = load(path)
    if known is not None and known.open:
        raise Conflict(f"rebuilding {layout.directory}: a rebuild is under way already; wait for it")
    mine = Rebuilding(id=secrets.token_hex(8), engine=engine)
    store(path, mine)
    print(
        "the server rebuilds; it takes events in and answers meanwhile, new ones show when it is done. "
        "Interrupting this command does not stop it.",
        file=sys.stderr,
    )
    asked_at, told, gone = time.monotonic(), "", 0
    while True:
        found = load(path)
        if found is None or found.id != mine.id:
            raise Conflict(f"rebuilding {layout.directory}: another rebuild was asked for meanwhile")
        if found.step != told:
            told = found.step
            print(told, file=sys.stderr)
        if found.stage == "done":
            return found.result or {}
        if found.stage == "failed":
            raise Corrupt(f"rebuilding {layout.directory}: {found.error}")
        if found.stage == "asked" and time.monotonic() - asked_at > TAKEN_SECONDS:
            path.unlink(missing_ok=True)
            raise Unavailable(
                f"rebuilding {layout.directory}: the server did not take it up in {TAKEN_SECONDS:.0f} s; "
                "stop the server and run the command again"
            )
        gone = 0 if server_of(layout) is not None else gone + 1
        if gone == GONE_LOOKS:
            raise Unavailable(
                f"rebuilding {layout.directory}: the server has ended; what was begun is finished when it "
                "starts again: profilelake serve"
            )
        time.sleep(LOOK_SECONDS)


def rebuild_alone(layout: Layout, engine: str) -> dict[str, Any]:
    """Rebuild a data directory without a server, and return what came of it; an interrupted one goes on.

    Raises as `app.offline.rebuild_directory`.
    """
    from profilelake.app.offline import rebuild_directory

    return rebuild_directory(layout, engine, lambda step: print(step, file=sys.stderr))


def print_rebuilt(rebuilt: dict[str, Any], *, as_json: bool) -> None:
    """Print what came of a rebuild."""
    if as_json:
        print_json(rebuilt)
        return
    seconds = sum(rebuilt["seconds"].values())
    print(
        f"{rebuilt['profiles']} profiles of {rebuilt['identifiers']} identifiers in {rebuilt['sets']} sets, "
        f"from {rebuilt['events']} events, in {seconds:.1f} s"
    )
