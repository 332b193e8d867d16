"""What a destination is: whom changes of computed traits and audiences are told, which, and in what shape."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

Type: TypeAlias = Literal["webhook", "segment"]
Strategy: TypeAlias = Literal["first", "last", "all"]
Call: TypeAlias = Literal["identify", "track"]

TYPES: Final[tuple[Type, ...]] = get_args(Type)
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
CALLS: Final[tuple[Call, ...]] = get_args(Call)
EVERY: Final = "*"
"""Stands for all definitions, those to come included."""
NAME_CHARACTERS_MAX: Final = 64
IDS_MAX: Final = 5
DEFINITIONS_MAX: Final = 1_000
HEADERS_MAX: Final = 20
CONSENT_MAX: Final = 50
TRAITS_MAX: Final = 100
BATCH_MAX: Final = 1_000
PARALLEL_MAX: Final = 32
TEXT_CHARACTERS_MAX: Final = 2_048

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_SECRET: Final = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*|[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.?",
    re.ASCII,
)
_BRACKETED: Final = re.compile(r"\[[0-9a-f:.]+\](?::[0-9]*)?", re.ASCII | re.IGNORECASE)
_NUMBERED: Final = re.compile(r"(?:.*\.)?[0-9]+\.?", re.ASCII)
"""A host whose last label is a number: clients take it for an IPv4 address, or refuse it."""
_OURS: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "idempotency-key",
    }
    | {"transfer-encoding", "webhook-id", "webhook-signature", "webhook-timestamp"}
)
"""Headers that are set by us, or that would change what is sent."""


@dataclass(frozen=True, slots=True)
class IdSync:
    """Which values of one identifier type are told: the first that was added, the last, or all.

    `map_to` is the name they are told under; empty keeps that of the type.
    """

    type: str
    strategy: Strategy = "last"
    map_to: str = ""


DEFAULT_IDS: Final = (IdSync("user_id"), IdSync("email"))


@dataclass(frozen=True, slots=True)
class Destination:
    """Somebody who is told, as somebody wrote it.

    `secret` and `previous_secret` name secrets: `$VARIABLE` of the environment, or one that is stored. A webhook
    is signed with both, a tracking API is sent `secret` as its write key. Of a profile nothing is told
    unless it allows all categories in `consent`.
    """

    name: str
    type: Type
    url: str
    definitions: tuple[str, ...] = (EVERY,)
    secret: str = ""
    previous_secret: str = ""
    enabled: bool = True
    backfill: bool = True
    """Whether it is told at first what holds already."""
    ids: tuple[IdSync, ...] = DEFAULT_IDS
    consent: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    batch: int = 100
    """Records of one request."""
    parallel: int = 4
    """Requests under way at the same time, never two for one profile."""
    retry_hours: float = 24.0
    """How long a batch is tried before it becomes dead letters."""
    send: tuple[Call, ...] = CALLS
    """For a tracking API: the calls it gets."""
    entered: str = "Audience Entered"
    exited: str = "Audience Exited"
    computed: str = "Trait Computed"
    traits: tuple[str, ...] = ()
    """Traits that are told along."""
    integrations: tuple[tuple[str, bool], ...] = ()
    """What stands under `integrations` in each call."""
    managed_by: str = ""
    """The file that says it, empty where nobody but the API does."""

    def wants(self, definition: str) -> bool:
        """Tell whether changes of a definition go there."""
        return EVERY in self.definitions or definition in self.definitions


def faults(destination: Destination) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a destination: the field, and what to do."""
    one = destination
    if not _NAME.fullmatch(one.name) or len(one.name) > NAME_CHARACTERS_MAX:
        yield "name", f"use 1 to {NAME_CHARACTERS_MAX} letters, digits, '_' and '-'"
    if one.type not in TYPES:
        yield "type", f"it is one of {', '.join(TYPES)}"
    fault = fault_of_url(one.url)
    if fault:
        yield "url", fault
    if not one.definitions or len(one.definitions) > DEFINITIONS_MAX:
        yield "definitions", f"name 1 to {DEFINITIONS_MAX:,} definitions, or '*' for all"
    for field, secret in (("secret", one.secret), ("previous_secret", one.previous_secret)):
        if secret and not _SECRET.fullmatch(secret):
            yield field, "write $VARIABLE, or the name of a stored secret; never the secret itself"
    if not one.secret:
        yield "secret", "name the secret that signs a webhook, or the write key of a tracking API"
    yield from _identifier_faults(one.ids)
    yield from _header_faults(dict(one.headers))
    yield from _number_faults(one)
    yield from _text_faults(one)


def _number_faults(one: Destination) -> Iterator[tuple[str, str]]:
    for field, number, most in (("batch", one.batch, BATCH_MAX), ("parallel", one.parallel, PARALLEL_MAX)):
        if not 1 <= number <= most:
            yield field, f"give 1 to {most:,}"
    if not 0.01 <= one.retry_hours <= 24 * 14:
        yield "retry_hours", "give 0.01 to 336"


def _text_faults(one: Destination) -> Iterator[tuple[str, str]]:
    if not one.send or any(call not in CALLS for call in one.send):
        yield "send", f"give one or both of {', '.join(CALLS)}"
    for field, texts, count in (("consent", one.consent, CONSENT_MAX), ("traits", one.traits, TRAITS_MAX)):
        if len(texts) > count or not all(_is_text(text) for text in texts):
            yield field, f"give at most {count} names that can be printed"
    for field, text in (("entered", one.entered), ("exited", one.exited), ("computed", one.computed)):
        if not _is_text(text):
            yield field, "give the name of an event"


def fault_of_secret_name(name: str) -> str | None:
    """Return what is wrong with the name a secret is to be stored under, None where nothing is."""
    if not _NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        return f"use 1 to {NAME_CHARACTERS_MAX} letters, digits, '_' and '-'"
    return None


def fault_of_url(url: str) -> str | None:
    """Return what is wrong with the URL of a destination, None where nothing is that can be seen."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme not in ("https", "http") or not host:
        return "give an https:// URL"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "leave out user, password and what is behind '#'; secrets are named under `secret`"
    if not _is_host(host, parts.netloc):
        return "its host is neither a name nor an address"
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > TEXT_CHARACTERS_MAX:
        return f"it has characters that no URL has, or more than {TEXT_CHARACTERS_MAX:,} of them"
    return None


def _is_host(host: str, netloc: str) -> bool:
    """Tell whether a host is a name or an address as every client understands it."""
    bracketed = netloc.startswith("[")
    if bracketed or _NUMBERED.fullmatch(host):
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return _BRACKETED.fullmatch(netloc) is not None if bracketed else address.version == 4
    return _HOST.fullmatch(host) is not None


def _identifier_faults(ids: tuple[IdSync, ...]) -> Iterator[tuple[str, str]]:
    if not 1 <= len(ids) <= IDS_MAX:
        yield "ids", f"name 1 to {IDS_MAX} identifier types"
    if len({one.type for one in ids}) < len(ids):
        yield "ids", "name each type once"
    for one in ids:
        if not _is_text(one.type) or (one.map_to and not _is_text(one.map_to)):
            yield "ids", "give the type of an identifier, and the name it is told under"
        if one.strategy not in STRATEGIES:
            yield "ids", f"the strategy is one of {', '.join(STRATEGIES)}"


def _header_faults(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if len(headers) > HEADERS_MAX:
        yield "headers", f"give at most {HEADERS_MAX}"
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX or name.lower() in _OURS:
            yield "headers", f"{name[:40]!r} cannot be set here"
        elif not value.isascii() or not value.isprintable() or len(value) > TEXT_CHARACTERS_MAX:
            yield "headers", f"the value of {name[:40]!r} must be printable ASCII"


def _is_text(text: str) -> bool:
    return 0 < len(text) <= 200 and text.isprintable()
