"""What is done to a data directory by a command of its own: deciding, verifying, rebuilding."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from profilelake.app.directory import WORKSPACE, DirectoryLock, identity_rules, kernel_cache, workspace_setup
from profilelake.app.rebuilding import rebuild_with
from profilelake.errors import Conflict
from profilelake.ops import logs
from profilelake.ops.clock import wall
from profilelake.ops.supervisor import die_with_parent
from profilelake.semantics.rules import IdentityRules
from profilelake.settings import Layout, Settings

if TYPE_CHECKING:
    from profilelake.identity.decide import Asked, Deciding
    from profilelake.state.store import State

_log = logging.getLogger(__name__)


def deciding(layout: Layout, state: "Callable[[], State]") -> "Deciding":
    """Return what checks decisions about identity against the state."""
    from profilelake.identity.decide import Deciding
    from profilelake.profiles.memberships import belongs
    from profilelake.workspaces.identifier_key import identifier_key

    return Deciding(
        state=state,
        workspace=WORKSPACE,
        key=lambda: identifier_key(layout.secrets, WORKSPACE),
        rules=identity_rules(),
        read_rules=partial(read_rules, layout),
        belongs=belongs,
    )


def read_rules(layout: Layout, text: str | None) -> IdentityRules:
    """Return the identity rules in `text`, or those of the data directory's definitions."""
    from profilelake.definitions import identity

    return identity.load(layout.identity_rules) if text is None else identity.parse(text)


def plan(layout: Layout, state: "State", asked: "Asked", by: str, examples: int = 0) -> dict[str, object]:
    """Return what a decision about identity would record and change, as of what is published.

    Raises:
        NotFound: the server never started here, or what the decision names is not there.
        Invalid, Conflict: it cannot be made as it is.
    """
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.lake.catalog import Lake
    from profilelake.pipeline.effects import plan_document

    lake = Lake.of(layout)
    untrusted = workspace_setup(layout).untrusted()
    return plan_document(
        deciding(layout, lambda: state), lake, asked, by, examples=examples, untrusted=untrusted
    )


def verify_directory(layout: Layout) -> list[dict[str, str]]:
    """Return where state and tables of a stopped server differ from the accepted facts."""
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache(layout)))  # before numba is imported
    from profilelake.lake.catalog import Lake
    from profilelake.lake.reading import damage_told
    from profilelake.pipeline.observing import Observing
    from profilelake.pipeline.publish import Publisher, check_epoch, ensure_tables
    from profilelake.pipeline.verify import finish_replays, verify
    from profilelake.state.store import State

    lock = DirectoryLock(layout)
    try:
        setup = workspace_setup(layout)
        state = State.open(layout.state, writable=True)
        state.ensure([WORKSPACE])
        finish_replays(setup, state, "", wall())
        lake = Lake.of(layout)
        ensure_tables(lake, WORKSPACE)
        check_epoch(state, lake, WORKSPACE)
        Publisher(
            workspace=WORKSPACE,
            state=state,
            lake=lake,
            recent_directory=setup.recent_directory,
            rules=setup.rules,
            clock=wall,
            publish_age_seconds=0.0,
            observing=Observing.of(setup.identifier_key),
        ).publish(whole=True)
        with damage_told():
            differences = verify(setup, state, lake)
        return [{"what": found.what, "detail": found.detail} for found in differences]
    finally:
        lock.release()


def rebuild_directory(
    layout: Layout, engine: str = "", report: Callable[[str], None] = lambda _: None
) -> dict[str, object]:
    """Make state and current tables of a stopped server again from the lake. Raises as `rebuild_with`."""
    lock = DirectoryLock(layout)
    try:
        result = rebuild_with(layout, engine, report)
        layout.rebuild_request.unlink(missing_ok=True)
        return result
    finally:
        lock.release()


def rebuild_process(settings: Settings, *, parent: int) -> int:
    """Rebuild while the supervisor, which owns the directory, keeps everybody else from writing."""
    import msgspec

    from profilelake.errors import ProfilelakeError
    from profilelake.pipeline.rebuilding import load, store

    die_with_parent(parent)
    logs.configure("rebuild")
    layout = Layout(settings.directory)
    path = layout.rebuild_request
    asked = load(path)
    if asked is None:
        raise Conflict("rebuilding: nobody asked for it")
    now = msgspec.structs.replace(asked, stage="running", error="", step="")
    store(path, now)

    def report(step: str) -> None:
        nonlocal now
        now = msgspec.structs.replace(now, step=step)
        store(path, now)

    try:
        result = rebuild_with(layout, now.engine, report)
    except ProfilelakeError as error:
        store(path, msgspec.structs.replace(now, error=str(error)))
        raise
    store(path, msgspec.structs.replace(now, stage="done", result=result))
    return 0
