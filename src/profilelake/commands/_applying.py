"""The pipeline of a data directory as commands see it: that of a running server, or one of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from profilelake.commands.common import server_of, state_of
from profilelake.errors import NotFound, Unavailable
from profilelake.settings import Layout

if TYPE_CHECKING:
    from profilelake.state.store import State, Tx

WORKSPACE: Final = "default"
LOOK_SECONDS: Final = 1.0
"""How old the knowledge that a server runs may be."""
COMMIT_SECONDS_MAX: Final = 300.0
"""How long a command waits until what was accepted is committed."""
POLL_SECONDS: Final = 0.05
ASK_AGAIN_SECONDS: Final = 0.5


class Pipeline:
    """The pipeline of a directory, seen from outside: by its state, and whether a server answers."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.helper: subprocess.Popen[bytes] | None = None
        """The process that applies the log where no server does."""
        self._state: State | None = None
        self._runs = False
        self._looked_at = -LOOK_SECONDS

    def runs(self) -> bool:
        if self.helper is not None:
            return self.helper.poll() is None
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at, self._runs = now, server_of(self.layout) is not None
        return self._runs

    def accepted(self) -> dict[str, int]:
        from profilelake.eventlog.embedded import ends

        return {log_id: end.offset for log_id, end in ends(self.layout.log).items()}

    def applied(self) -> dict[str, int]:
        from profilelake.pipeline.progress import load_applied

        return self._read(lambda tx: load_applied(tx, WORKSPACE, "").vector)

    def committed(self) -> dict[str, int]:
        from profilelake.pipeline.progress import load_published

        return self._read(lambda tx: load_published(tx, WORKSPACE).vector)

    def flush(self) -> None:
        self.layout.flush_request.touch()

    def wait(self) -> None:
        """Return once everything accepted before is in state and lake.

        Raises:
            Unavailable: nothing commits it, or not in time.
        """
        target = self.accepted()
        give_up_at = time.monotonic() + COMMIT_SECONDS_MAX
        ask_at = 0.0
        while True:
            reached = self.committed()
            if all(reached.get(log, 0) >= offset for log, offset in target.items()):
                return
            now = time.monotonic()
            if now >= give_up_at or not self.runs():
                raise Unavailable(
                    "waiting until everything accepted is committed: what should commit it has ended or does"
                    " not come to it; see its messages, then run the same command again"
                )
            if now >= ask_at:
                self.flush()
                ask_at = now + ASK_AGAIN_SECONDS
            time.sleep(POLL_SECONDS)

    def state(self) -> "State":
        """Return the state, of which a process may have only one open.

        Raises:
            NotFound: nothing was applied yet.
        """
        self._state = self._state or state_of(self.layout)
        if self._state is None:
            raise NotFound(
                f"reading {self.layout.directory}: nothing was applied yet; start the server once: profilelake serve"
            )
        return self._state

    def _read(self, vector_of: "Callable[[Tx], dict[str, tuple[int, int]]]") -> dict[str, int]:
        try:
            with self.state().read(WORKSPACE) as tx:
                return {log_id: offset for log_id, (offset, _) in vector_of(tx).items()}
        except NotFound:
            return {}  # the pipeline has not come to this workspace yet


@contextmanager
def applying(pipeline: Pipeline) -> Iterator[None]:
    """Have a process apply the log meanwhile; it ends with this one, however that ends."""
    arguments = ["process", "apply", "--dir", str(pipeline.layout.directory), "--parent", str(os.getpid())]
    # In a group of its own: an interrupt at the terminal is for the import, which then ends it.
    with subprocess.Popen(
        [sys.executable, "-m", "profilelake", *arguments], stdin=subprocess.DEVNULL, process_group=0
    ) as pipeline.helper:
        try:
            yield
        finally:
            pipeline.helper.terminate()
