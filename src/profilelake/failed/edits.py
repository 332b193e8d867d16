"""Putting an event right: set, remove and rename what is in it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from profilelake.errors import Invalid
from profilelake.semantics import json_text
from profilelake.semantics.events import EVENT_DEPTH_MAX
from profilelake.semantics.json_text import Json, NotJson
from profilelake.semantics.standalone import Message

EDITED_BYTES_MAX: Final = 256 << 20
"""Bytes of a file of edited events."""
PATH_STEPS_MAX: Final = 32
_STEP: Final = re.compile(r"(?:[^.\\]|\\.)+")

Path = tuple[str, ...]


class NotEditable(Exception):
    """An edit cannot be made in this event; the message says why."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What is changed in each event: first renamed, then removed, then set."""

    renames: tuple[tuple[Path, Path], ...] = ()
    unsets: tuple[Path, ...] = ()
    sets: tuple[tuple[Path, Json], ...] = ()

    @classmethod
    def parse(cls, renames: Sequence[str], unsets: Sequence[str], sets: Sequence[str]) -> "Edits":
        """Read edits as they are typed: `old=new`, `path`, `path=JSON`.

        Steps of a path are parted by dots; a dot in a key is written as `\\.`.

        Raises:
            Invalid: one of them is not of this form.
        """
        return cls(
            tuple((_path(old), _path(new)) for old, new in (_parted("rename", text) for text in renames)),
            tuple(_path(text) for text in unsets),
            tuple((_path(path), _json(path, value)) for path, value in (_parted("set", t) for t in sets)),
        )

    def apply(self, event: Message) -> Message:
        """Return the event with the edits; what is to be renamed or removed need not be there.

        Raises:
            NotEditable: something on the way to a value is not an object.
        """
        edited: Message = dict(event)
        for old, new in self.renames:
            found, value = _take(edited, old)
            if found:
                _put(edited, new, value)
        for path in self.unsets:
            _take(edited, path)
        for path, value in self.sets:
            _put(edited, path, value)
        return edited


def edited_events(text: str) -> Iterator[tuple[bytes, Message | None]]:
    """Read what `failed list --json` wrote and somebody edited: the position and event of each.

    An array and one object per line are both read.

    Raises:
        Invalid: it is neither, or an object lacks its position.
    """
    try:
        if text.lstrip().startswith("["):
            parts = json_text.items(text, json_text.whole(text))
            objects = [text[part.start : part.end] for part in parts]
        else:
            objects = [line for line in text.splitlines() if line.strip()]
        for number, item in enumerate(objects, start=1):
            yield _edited(item, number)
    except NotJson as error:
        raise Invalid(f"reading edited events: {error}") from error


def _edited(item: str, number: int) -> tuple[bytes, Message | None]:
    if json_text.whole(item).depth > EVENT_DEPTH_MAX + 1:
        raise Invalid(f"reading edited event {number}: more than {EVENT_DEPTH_MAX} levels of brackets")
    row = json_text.value(item)
    position = row.get("position") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(position, str):
        raise Invalid(
            f"reading edited event {number}: it has no `position`; write it as failed list --json did"
        )
    event = row.get("event")
    if event is not None and not isinstance(event, dict):
        raise Invalid(f"reading edited event {number}: `event` is no object")
    return position_of(position), event


def position_of(text: str) -> bytes:
    """Read a position as it is printed. Raises Invalid."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise Invalid(f"position {text[:80]!r}: it is 64 hex digits, as failed list prints them")
    return bytes.fromhex(text)


def _parted(option: str, text: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not equals or not left or not right:
        raise Invalid(f"--{option} {text[:80]!r}: write it as path={'JSON' if option == 'set' else 'path'}")
    return left, right


def _path(text: str) -> Path:
    steps = tuple(re.sub(r"\\(.)", r"\1", step) for step in _STEP.findall(text))
    if not 1 <= len(steps) <= PATH_STEPS_MAX or _STEP.sub("", text).strip(".") or ".." in text:
        raise Invalid(f"path {text[:80]!r}: write it as userId or context.device.id")
    return steps


def _json(path: str, text: str) -> Json:
    try:
        if json_text.whole(text).depth <= EVENT_DEPTH_MAX:
            return json_text.value(text)
    except NotJson:
        pass
    raise Invalid(f"--set {path}={text[:80]}: the value is no JSON; a text is written '{path}=\"…\"'")


def _take(event: Message, path: Path) -> tuple[bool, Json]:
    """Remove a value; return whether it was there, and the value."""
    inner: Json = event.get(path[0])
    if len(path) == 1:
        found = path[0] in event
        return found, event.pop(path[0], None)
    if not isinstance(inner, dict):
        return False, None
    event[path[0]] = copy = dict(inner)
    return _take(copy, path[1:])


def _put(event: Message, path: Path, value: Json) -> None:
    if len(path) == 1:
        event[path[0]] = value
        return
    inner = event.get(path[0])
    if inner is not None and not isinstance(inner, dict):
        raise NotEditable(f"{path[0]} is no object, so {'.'.join(path)} cannot be set in it")
    event[path[0]] = copy = dict(inner or {})
    _put(copy, path[1:], value)
