"""What a profile allows, read from the online state. The meaning is `semantics.consent`."""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from profilelake.semantics import consent
from profilelake.semantics.consent import DEFAULT_POLICY, Policy, Statement, Value
from profilelake.state.heads import IdentHead, SetHead, decode_ident_head, decode_set_head
from profilelake.state.records import ConsentRecord, ProfileRecord, decode_consent
from profilelake.state.store import Db, Tx

POLICY: Final = "consent_policy"
"""Name under which the policy in force is kept."""
_HASH_BYTES: Final = 16
decode_policy: Final = msgspec.msgpack.Decoder(Policy).decode


class ConsentValue(NamedTuple):
    """What a profile allows in one category, and the last event that says so."""

    value: Value
    timestamp: int
    source_id: str
    message_id: str


def policy_in_force(tx: Tx, workspace: str) -> Policy:
    """Return how the statements of a profile's sets are brought together."""
    held = tx.meta(workspace, POLICY)
    return DEFAULT_POLICY if held is None else decode_policy(held)


def profile_consent(
    tx: Tx, workspace: str, profile: ProfileRecord, policy: Policy
) -> dict[str, ConsentValue]:
    """Return what a profile allows, by category; nothing where it never said."""
    statements = tx.decoded(workspace, Db.CONSENT, profile.sets, decode_consent)
    heads: Mapping[bytes, SetHead] = {}
    idents: Mapping[bytes, IdentHead] = {}
    if len(statements) > 1:
        heads = tx.decoded(workspace, Db.SET, statements, decode_set_head)
        members = {ident for head in heads.values() for ident in _split(head.idents)}
        idents = tx.decoded(workspace, Db.IDENT, members, decode_ident_head)
    return chosen(statements, heads, idents, policy)


def chosen(
    statements: Mapping[bytes, ConsentRecord],
    heads: Mapping[bytes, SetHead],
    idents: Mapping[bytes, IdentHead],
    policy: Policy,
) -> dict[str, ConsentValue]:
    """Return what the statements of a profile's sets amount to.

    Where there are several, the records of their sets and of the identifiers in them must be at hand.
    """
    if len(statements) == 1:
        (record,) = statements.values()
        return {
            category: ConsentValue(
                "true" if allowed else "false", record.timestamp, record.source_id, record.message_id
            )
            for category, allowed in sorted(record.allowed.items())
        }
    by_position = {record.position: record for record in statements.values()}
    told = [
        (
            Statement(record.timestamp, record.position, record.allowed),
            consent.ties(policy, [(idents[one].type, one) for one in _split(heads[key].idents)]),
        )
        for key, record in statements.items()
    ]
    found = {}
    for category, choice in consent.choices(told, policy).items():
        record = by_position[choice.statement.position]
        found[category] = ConsentValue(choice.value, record.timestamp, record.source_id, record.message_id)
    return found


def _split(idents: bytes) -> list[bytes]:
    return [idents[start : start + _HASH_BYTES] for start in range(0, len(idents), _HASH_BYTES)]
