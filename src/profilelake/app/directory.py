"""Who owns a data directory, how it is set up, and what every process must know of it."""

import fcntl
import json
import os
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import profilelake
from profilelake.errors import Conflict, Corrupt
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.semantics.consent import Policy
from profilelake.semantics.rules import IdentityRules, segment_defaults
from profilelake.settings import Layout, Settings
from profilelake.workspaces.control import Control

if TYPE_CHECKING:
    from profilelake.eventlog.embedded import Limits
    from profilelake.pipeline.batch import WorkspaceSetup

WORKSPACE: Final = "default"
METRICS: Final = "metrics"


def identity_rules() -> IdentityRules:
    """Return the identity rules that hold as long as nobody has decided on others."""
    return segment_defaults()


class DirectoryLock:
    """Ownership of a data directory, held until the process ends."""

    def __init__(self, layout: Layout) -> None:
        """Take the lock.

        Raises:
            Conflict: a running process holds it; its owner is named.
        """
        layout.run.mkdir(parents=True, exist_ok=True)
        self._file = (layout.run / "lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "another process"
            self._file.close()
            raise Conflict(
                f"opening {layout.directory}: in use by {owner}; stop it first, or name another directory"
            ) from error
        # Whoever wrote it is gone: killed, for instance.
        layout.server.unlink(missing_ok=True)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} since {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others own the directory."""
        self._file.close()


def upgrade_quickly(layout: Layout) -> None:
    """Bring a directory of an older program to this format, where that is done in no time."""
    from profilelake.directory_format import FORMAT, read_format
    from profilelake.upgrades.run import upgrade_if_quick

    told = read_format(layout.directory)
    if told is None or (told.format == FORMAT and told.upgrading_to is None):
        return
    lock = DirectoryLock(layout)
    try:
        upgrade_if_quick(layout)  # otherwise opening it says what to do
    finally:
        lock.release()


def upgrade_directory(layout: Layout) -> int:
    """Bring the directory of a stopped server to the format of this program; return the steps done."""
    from profilelake.upgrades.run import upgrade

    logs.configure("upgrade")
    lock = DirectoryLock(layout)
    try:
        return upgrade(layout)
    finally:
        lock.release()


def set_up(layout: Layout, environment: Mapping[str, str]) -> None:
    """Create workspace, source, keys and identifier key at the first start; show new ones once."""
    given = {
        name: environment.get(f"PROFILELAKE_{name.upper()}") or None
        for name in ("write_key", "read_token", "admin_token")
    }
    with Control.open(layout.control, secrets.token_bytes) as control:
        made = control.ensure_default(now=wall(), **given)
        control.bind_identifier_key(layout.secrets)
    new = {name: value for name in given if (value := getattr(made, name)) is not None}
    if not new:
        return
    # What was given is not written: its owner has it, and may have taken it away from here on purpose.
    write_private(layout.credentials, json.dumps(_credentials(layout) | new, indent=2) + "\n")
    for name, value in new.items():
        print(f"{name}: {value}", file=sys.stderr)  # noqa: T201 - shown once, to the operator


def _credentials(layout: Layout) -> dict[str, str]:
    try:
        known = json.loads(layout.credentials.read_text())
        if isinstance(known, dict):
            return known
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    raise Corrupt(
        f"reading {layout.credentials}: it is not JSON as we wrote it; move it away and start again"
    )


def write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(text)
        sink.flush()
        os.fsync(sink.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def kernel_cache(layout: Layout) -> Path:
    """Return where compiled kernels are kept: once per user and version, where the user has a place."""
    name = f"kernels-{profilelake.__version__}"
    try:
        root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        cache = Path(root) / "profilelake" / name
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except (OSError, RuntimeError):
        pass  # no home, or one that cannot be written to, as in many containers
    return layout.run.absolute() / name


def log_limits(settings: Settings) -> "Limits":
    """Return the limits of whoever writes to the event log, and of whoever prunes it."""
    from profilelake.eventlog.embedded import Limits

    return Limits(log_bytes_max=settings.log.bytes_max)


def workspace_setup(layout: Layout, policy: Policy | None = None) -> "WorkspaceSetup":
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.batch import WorkspaceSetup
    from profilelake.pipeline.history import EventHistory
    from profilelake.workspaces.identifier_key import identifier_key
    from profilelake.workspaces.suppressions import Following

    return WorkspaceSetup(
        name=WORKSPACE,
        rules=identity_rules(),
        identifier_key=identifier_key(layout.secrets, WORKSPACE),
        suppressed=partial(Following(layout.control, "ident_id").now, WORKSPACE),
        recent_directory=layout.recent(WORKSPACE),
        dedup_directory=layout.dedup(WORKSPACE),
        tail_directory=layout.tail(WORKSPACE),
        history=EventHistory(lambda: Lake.of(layout), layout.recent(WORKSPACE)),
        consent_policy=policy,
        untrusted=partial(untrusted_sources, layout),
    )


def untrusted_sources(layout: Layout) -> frozenset[str]:
    """Return the sources that strangers can write to."""
    with Control.open(layout.control, secrets.token_bytes) as control:
        return frozenset(source.id for source in control.sources() if not source.trusted)
