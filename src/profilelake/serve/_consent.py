"""What a profile allows, by category."""

import msgspec

from profilelake.profiles.consent import policy_in_force, profile_consent
from profilelake.serve._answer import time_text
from profilelake.serve._profile import Found
from profilelake.serve._request import Query


class ShownConsent(msgspec.Struct):
    """What holds in one category, and the last event that says so; `value` is true, false or conflict."""

    value: str
    updated_at: str
    source_id: str
    message_id: str


class Consent(msgspec.Struct):
    """Answer of `/consent`: all categories the profile ever named, and how its statements were joined."""

    consent: dict[str, ShownConsent]
    policy: str


def consent(found: Found, _query: Query) -> Consent:
    """Return what the profile allows under the policy in force; no category where it never said."""
    policy = policy_in_force(found.tx, found.space)
    held = profile_consent(found.tx, found.space, found.record, policy)
    return Consent(
        {
            category: ShownConsent(said.value, time_text(said.timestamp), said.source_id, said.message_id)
            for category, said in held.items()
        },
        policy,
    )
