"""Everything a definition is worth, told to a destination once more."""

from collections.abc import Sequence

from profilelake.activate.journal import Journal
from profilelake.activate.telling import standing
from profilelake.errors import NotFound
from profilelake.semantics.destinations import Destination
from profilelake.state.store import State


def ask(
    state: State | None,
    workspace: str,
    journal: Journal,
    destination: Destination,
    keys: Sequence[str],
    *,
    now: int,
) -> list[str]:
    """Have a destination told anew of definitions, of all it gets where none is named; return which.

    It begins with the next look of the process that tells destinations.

    Raises:
        NotFound: a definition that is named does not hold, or does not go there.
    """
    wanted: list[str] = []
    if state is not None:
        try:
            with state.read(workspace) as tx:
                wanted = sorted(key for key in standing(tx, workspace).held if destination.wants(key))
        except NotFound:
            wanted = []  # the pipeline has not come to this workspace yet
    for key in keys:
        if key not in wanted:
            raise NotFound(
                f"resync of {key[:80]!r}: destination {destination.name!r} gets no definition of that name; it gets"
                f" {', '.join(wanted[:20]) or 'none'}"
            )
    chosen = sorted(set(keys)) or wanted
    if chosen:
        journal.sweep(destination.name, chosen, again=True, now=now)
    return chosen
