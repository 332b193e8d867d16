"""What a profile allows, read from the online state. The meaning is `semantics.consent`."""

from collections.abc import Mapping, Sequence
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
_encode: Final = msgspec.json.Encoder().encode
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


def store_policy(tx: Tx, workspace: str, policy: Policy) -> None:
    """Note which policy is in force."""
    tx.put_meta(workspace, POLICY, policy)


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


def consents(
    tx: Tx, workspace: str, profiles: Sequence[ProfileRecord], heads: Mapping[bytes, SetHead]
) -> list[str | None]:
    """Return what profiles allow under the policy in force, as JSON; None of those that never said.

    `heads` has their sets.
    """
    nobody = not tx.count(workspace, Db.CONSENT)
    said = {} if nobody else tx.decoded(workspace, Db.CONSENT, sorted(heads), decode_consent)
    if not said:
        return [None] * len(profiles)
    policy = policy_in_force(tx, workspace)
    by_profile = [{key: said[key] for key in profile.sets if key in said} for profile in profiles]
    members = {
        ident
        for statements in by_profile
        if len(statements) > 1
        for key in statements
        for ident in _split(heads[key].idents)
    }
    idents = tx.decoded(workspace, Db.IDENT, members, decode_ident_head)
    return [
        consent_text(chosen(statements, heads, idents, policy)) if statements else None
        for statements in by_profile
    ]


def consent_text(found: Mapping[str, ConsentValue]) -> str:
    """Return what a profile allows as `{category: value}` in JSON, categories sorted."""
    return _encode({category: found[category].value for category in sorted(found)}).decode()


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
