"""The decisions of a workspace in its online state: kept by position, folded to what holds.

They are few beside events, so all of them are read at a start and held in memory.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from profilelake.identity import facts
from profilelake.identity.facts import Fact, Standing
from profilelake.semantics.rules import IdentityRules
from profilelake.state.store import Db, Tx

RULES: Final = "rules"
"""Name under which the rules in force are kept as JSON, for those who need nothing else."""


def load(tx: Tx, workspace: str, default: IdentityRules) -> Standing:
    """Return what holds; `default` are the rules where nobody has set any."""
    return facts.standing(decisions(tx, workspace), default)


def decisions(tx: Tx, workspace: str) -> Iterator[tuple[bytes, Fact]]:
    """Yield all decisions with their positions, in order."""
    for position, body in tx.items(workspace, Db.FACT):
        yield position, facts.decode(body)


def store(tx: Tx, workspace: str, position: bytes, fact: Fact) -> None:
    """Keep a decision; one that is kept already stays as it is."""
    tx.put(workspace, Db.FACT, position, facts.encode(fact))


def store_rules(tx: Tx, workspace: str, rules: IdentityRules) -> None:
    """Note which rules are in force."""
    tx.put(workspace, Db.META, RULES.encode(), msgspec.json.encode(rules))


def rules_in_force(tx: Tx, workspace: str, default: IdentityRules) -> IdentityRules:
    """Return the rules in force without reading all decisions."""
    held = tx.meta(workspace, RULES)
    return default if held is None else msgspec.json.decode(held, type=IdentityRules)
