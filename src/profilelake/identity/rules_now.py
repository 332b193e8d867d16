"""The identity rules in force, for processes that only read the state."""

import time
from collections.abc import Callable
from typing import Final

from profilelake.errors import NotFound, Unavailable
from profilelake.identity.standing import rules_in_force
from profilelake.semantics.rules import IdentityRules
from profilelake.state.store import State

REFRESH_SECONDS: Final = 1.0
"""How long rules that were replaced are still used by such a process."""


class RulesNow:
    """The rules of each workspace, looked at every `REFRESH_SECONDS`.

    As long as nothing changed it returns the same object. When the state cannot be read the last good
    rules stay, or the default where there were none yet.
    """

    def __init__(
        self,
        state: Callable[[], State],
        default: IdentityRules,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read what `state` gives; it may raise Unavailable while there is none."""
        self._state = state
        self._default = default
        self._monotonic = monotonic
        self._rules: dict[str, IdentityRules] = {}
        self._look_at: dict[str, float] = {}

    def __call__(self, workspace: str) -> IdentityRules:
        """Return the rules of a workspace."""
        now = self._monotonic()
        known = self._rules.get(workspace, self._default)
        if now < self._look_at.get(workspace, float("-inf")):
            return known
        self._look_at[workspace] = now + REFRESH_SECONDS
        try:
            with self._state().read(workspace) as tx:
                found = rules_in_force(tx, workspace, self._default)
        except (NotFound, Unavailable):
            return known
        if found == known:
            return known  # the same object: what was made of it is still good
        self._rules[workspace] = found
        return found
