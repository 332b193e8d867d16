"""`definitions/destinations.yaml`: who is told of changes of computed traits and audiences."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

from profilelake.definitions._yaml import Document, InvalidDefinition, Problem, Value
from profilelake.semantics.destinations import CALLS, STRATEGIES, TYPES, Destination, IdSync, faults

__all__ = ["InvalidDefinition", "Problem", "load", "parse"]

FILE: Final = "destinations.yaml"
_KEYS: Final = tuple(
    field.name for field in fields(Destination) if field.name not in ("name", "managed_by", "retry_hours")
)
_RETRY: Final = "retry_hours"
_ID_KEYS: Final = ("type", "strategy", "map_to")
_YES: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_Word = TypeVar("_Word", bound=str)


def load(path: Path) -> list[Destination]:
    """Return the destinations in a file; none where there is no file.

    Raises:
        InvalidDefinition: it cannot be used; the error names everything that is wrong.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem(line, "", f"byte {error.start} is not UTF-8; save the file as UTF-8")
        raise InvalidDefinition(str(path), [problem]) from error
    return parse(text, str(path))


def parse(text: str, name: str = "the destinations") -> list[Destination]:
    """Return the destinations in a text; `name` is what errors call it.

    Raises:
        InvalidDefinition: it cannot be used; the error names everything that is wrong.
    """
    document = Document(name)
    root = document.root(text)
    found: list[Destination] = []
    if root is not None:
        reader = _Reader(document)
        top = document.entries(root, ("destinations",))
        if "destinations" in top:
            for key, value in document.entries(top["destinations"]).items():
                found += reader.destination(key, value)
    document.check()
    return found


class _Reader:
    """Reads destinations; whatever is wrong is noted in the document, and reading goes on."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._refuse = document.refuse

    def destination(self, name: str, value: Value) -> list[Destination]:
        """Return what a section says, nothing where it cannot be read."""
        before = len(self._document.problems)
        found = self._document.entries(value, (*_KEYS, _RETRY))
        said: dict[str, Any] = {}
        for key, member in found.items():
            read = self._readers().get(key)
            said[key] = member.text or "" if read is None else read(member)
        said.setdefault("type", "webhook")
        said.setdefault("url", "")
        if len(self._document.problems) > before:
            return []
        destination = Destination(name=name, managed_by=FILE, **said)
        for field, fault in faults(destination):
            self._refuse(
                found.get(field, value), fault if field in found else f"{field}: {fault}", named=False
            )
        return [destination]

    def _readers(self) -> dict[str, Callable[[Value], Any]]:
        return {
            "type": lambda value: self._one_of(value, TYPES),
            "definitions": self._texts,
            "consent": self._texts,
            "traits": self._texts,
            "send": lambda value: tuple(self._one_of(item, CALLS) for item in self._items(value)),
            "enabled": self._flag,
            "backfill": self._flag,
            "batch": self._number,
            "parallel": self._number,
            _RETRY: self._hours,
            "ids": lambda value: tuple(self._id(item) for item in self._items(value)),
            "headers": lambda value: tuple(
                (key, member.text or "") for key, member in self._document.entries(value).items()
            ),
            "integrations": lambda value: tuple(
                (key, self._flag(member)) for key, member in self._document.entries(value).items()
            ),
        }

    def _items(self, value: Value) -> list[Value]:
        items = value.items()
        if items is None:
            self._refuse(value, "write a list here: `[one, another]`")
        return items or []

    def _texts(self, value: Value) -> tuple[str, ...]:
        if value.text is not None:
            return (value.text,)
        return tuple(item.text or "" for item in self._items(value))

    def _one_of(self, value: Value, known: tuple[_Word, ...]) -> _Word:
        for word in known:
            if value.text == word:
                return word
        self._refuse(value, f"it is one of {', '.join(known)}")
        return known[0]

    def _flag(self, value: Value) -> bool:
        flag = _YES.get((value.text or "").lower())
        if flag is None:
            self._refuse(value, "it is true or false")
        return bool(flag)

    def _number(self, value: Value) -> int:
        number = value.number()
        if number is None:
            self._refuse(value, "give a whole number")
        return number or 0

    def _hours(self, value: Value) -> float:
        try:
            return float(value.text or "")
        except ValueError:
            self._refuse(value, "give a number of hours")
            return 1.0

    def _id(self, value: Value) -> IdSync:
        if value.text is not None:
            return IdSync(value.text)
        found = self._document.entries(value, _ID_KEYS)
        if "type" not in found:
            self._refuse(value, "name the `type` of the identifier", named=False)
        strategy = self._one_of(found["strategy"], STRATEGIES) if "strategy" in found else "last"
        texts = {key: found[key].text or "" for key in ("type", "map_to") if key in found}
        return IdSync(texts.get("type", ""), strategy, texts.get("map_to", ""))
