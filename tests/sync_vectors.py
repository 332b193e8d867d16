"""Two histories with the rows that Profiles Sync and the models over it must show of them."""

from collections.abc import Sequence
from typing import Any, Final

from pipeline_driver import KEY, SECOND, START, Desk, LogBuilder, Message
from profilelake.semantics.identifiers import Identifier, ident_id, public_id, set_id

FIRST: Final = "5285bc35-05ef-4d21"
SECOND_DEVICE: Final = "b50e18a5-1b8d-451c"
JANE: Final = "jane.kim@segment.com"

CASE_STUDY: Final[Sequence[Message]] = (
    {"type": "page", "messageId": "event_1", "anonymousId": FIRST, "timestamp": "2022-05-02T14:01:00Z"},
    {
        "type": "identify",
        "messageId": "event_2",
        "anonymousId": FIRST,
        "traits": {"email": JANE},
        "timestamp": "2022-05-02T14:01:47Z",
    },
    {
        "type": "page",
        "messageId": "event_3",
        "anonymousId": SECOND_DEVICE,
        "timestamp": "2022-06-22T10:47:15Z",
    },
    {
        "type": "identify",
        "messageId": "event_4",
        "anonymousId": SECOND_DEVICE,
        "traits": {"email": JANE},
        "timestamp": "2022-06-22T10:48:00Z",
    },
)
"""Somebody comes with one device, says who they are, comes with another and says so again."""

TWO_PLANS: Final[Sequence[Message]] = (
    {"type": "identify", "messageId": "p1", "anonymousId": "a1", "traits": {"plan": "free"}},
    {"type": "identify", "messageId": "p2", "anonymousId": "a2", "traits": {"plan": "pro"}},
    {"type": "track", "messageId": "p3", "anonymousId": "a1", "userId": "u1", "event": "Signed In"},
    {"type": "track", "messageId": "p4", "anonymousId": "a2", "userId": "u1", "event": "Signed In"},
)
"""Two people with a trait each turn out to be one."""
REMOVAL: Final[Message] = {
    "type": "identify",
    "messageId": "p5",
    "anonymousId": "a1",
    "userId": "u1",
    "traits": {"plan": None},
}


def profile(**named: str) -> str:
    """Return the id of the profile that this set founded."""
    ids = [ident_id(KEY, "users", Identifier(type, value)) for type, value in named.items()]
    return public_id("users", set_id(KEY, "users", ids))


class Sender:
    """Sends messages one after the other, each published by itself."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._log = LogBuilder("00000000000000aa")
        self._sent = 0

    def send(self, messages: Sequence[Message], **more: Any) -> None:
        for message in messages:
            self._sent += 1
            self._desk.apply([self._log.record(START + self._sent * SECOND, [{**message, **more}])])
            self._desk.publish()
