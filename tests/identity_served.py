"""People on a running server, for tests that decide who they are."""

import uuid

from served import Served


def person(served: Served) -> tuple[str, str, str]:
    """Send a person with a device; return user id, device and the event's id."""
    name = uuid.uuid4().hex[:8]
    user, device, message = f"user-{name}", f"device-{name}", f"message-{name}"
    sent = {"userId": user, "anonymousId": device, "messageId": message}
    assert served.post("/v1/identify", sent).status == 200
    served.committed()
    return user, device, message


def together(served: Served, user: str, device: str) -> bool:
    rows = served.sql(
        "SELECT count(DISTINCT profile_id) AS profiles, count(*) AS owned "  # noqa: S608 - values of ours
        "FROM identifiers JOIN identity_map"
        f" USING (ident_id) WHERE value IN ('{user}', '{device}')"
    )
    return rows == [{"profiles": 1, "owned": 2}]
