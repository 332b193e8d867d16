"""What the server's answers say, as typed values."""

from datetime import datetime
from typing import Any, Final

import msgspec


class Identifier(msgspec.Struct, frozen=True):
    """One identifier of a profile, with the event that brought it."""

    type: str
    id: str
    created_at: datetime
    source_id: str
    first_message_id: str


class Trait(msgspec.Struct, frozen=True):
    """One trait with where and when its value was written."""

    value: Any
    source_id: str
    updated_at: datetime


class Event(msgspec.Struct, frozen=True):
    """One event of a profile."""

    type: str
    event: str
    message_id: str
    source_id: str
    timestamp: datetime
    properties: dict[str, Any]
    context: dict[str, Any]


class Profile(msgspec.Struct, frozen=True):
    """One person or organisation: all traits and all identifiers it has."""

    segment_id: str
    collection: str
    traits: dict[str, Any]
    external_ids: list[Identifier]

    def identifiers(self, type: str) -> list[str]:
        """Return the values of one identifier type, such as `email`."""
        return [identifier.id for identifier in self.external_ids if identifier.type == type]


class Cursor(msgspec.Struct, frozen=True):
    """Where a page goes on; `url` is empty at the end."""

    url: str = ""


class TraitsPage(msgspec.Struct, frozen=True):
    """Traits by name."""

    traits: dict[str, Any]
    cursor: Cursor = Cursor()


class VerbosePage(msgspec.Struct, frozen=True):
    """Traits with their origin."""

    traits: dict[str, Trait]
    cursor: Cursor = Cursor()


class IdentifiersPage(msgspec.Struct, frozen=True):
    """Identifiers of one profile."""

    data: list[Identifier]
    cursor: Cursor = Cursor()


class EventsPage(msgspec.Struct, frozen=True):
    """Events of one profile."""

    data: list[Event]
    cursor: Cursor = Cursor()


class Expanded(msgspec.Struct, frozen=True):
    """A profile with the first page of each resource, or why there is none."""

    segment_id: str = ""
    collection: str = ""
    traits: TraitsPage = TraitsPage({})
    external_ids: IdentifiersPage = IdentifiersPage([])
    error: dict[str, str] | None = None


class Looked(msgspec.Struct, frozen=True):
    """Answer of a look-up: one entry for each id, in the order asked."""

    data: list[Expanded]


class Listed(msgspec.Struct, frozen=True):
    """One page of a list of profiles."""

    data: list[Expanded]
    cursor: Cursor = Cursor()


expanded: Final = msgspec.json.Decoder(Expanded).decode
looked: Final = msgspec.json.Decoder(Looked).decode
listed: Final = msgspec.json.Decoder(Listed).decode
traits_page: Final = msgspec.json.Decoder(TraitsPage).decode
verbose_page: Final = msgspec.json.Decoder(VerbosePage).decode
identifiers_page: Final = msgspec.json.Decoder(IdentifiersPage).decode
events_page: Final = msgspec.json.Decoder(EventsPage).decode
