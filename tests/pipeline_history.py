"""Histories of a small town: people who share devices and addresses, so that everything happens often."""

import random
from collections.abc import Iterator
from typing import Any, Final

TYPES: Final = ("identify", "track", "group", "page")
Message = dict[str, Any]


def history(seed: int, events: int) -> list[tuple[str, Message]]:
    """Return events with what becomes of each: `accepted`, `duplicate`, `failed`.

    Message ids are known, identify calls join people and meet limits, group calls name
    organisations, bad events and repeats of any earlier event are mixed in.
    """
    chosen = random.Random(seed)
    made: list[tuple[str, Message]] = []
    accepted: list[Message] = []
    for number in range(events):
        draw = chosen.random()
        if draw < 0.12 and accepted:
            made.append(("duplicate", chosen.choice(accepted)))
            continue
        message_id = f"m{seed}-{number}"
        if draw < 0.18:
            made.append(("failed", {"type": "track", "event": "Nobody", "messageId": message_id}))
            continue
        message = _message(chosen, message_id)
        accepted.append(message)
        made.append(("accepted", message))
    return made


def _message(chosen: random.Random, message_id: str) -> Message:
    message: Message = {"type": chosen.choice(TYPES), "messageId": message_id}
    day = chosen.randint(1, 28)
    message["timestamp"] = f"2026-01-{day:02}T00:00:00.{int(message_id.rpartition('-')[2]) % 1000:03}Z"
    people = chosen.randint(0, 11)
    if chosen.random() < 0.5:
        message["userId"] = f"u{people}"
    if chosen.random() < 0.7 or "userId" not in message:
        message["anonymousId"] = f"a{chosen.randint(0, 15)}"
    if message["type"] == "track":
        message["event"] = "Order Completed"
        message["properties"] = {"total": chosen.randint(1, 99)}
    if message["type"] in ("identify", "group"):
        message["traits"] = {chosen.choice("xyz"): chosen.randint(0, 9)}
    if message["type"] == "identify" and chosen.random() < 0.5:
        message["traits"]["email"] = f"e{chosen.randint(0, 9)}@example.org"
    if message["type"] == "group":
        message["groupId"] = f"g{chosen.randint(0, 3)}"
    return message


def batches(seed: int, messages: list[Message], most: int = 4) -> Iterator[list[Message]]:
    """Yield messages in requests of 1 to `most`."""
    chosen = random.Random(seed)
    at = 0
    while at < len(messages):
        size = chosen.randint(1, most)
        yield messages[at : at + size]
        at += size
