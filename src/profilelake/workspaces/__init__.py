"""Who may send and who may read: workspaces, sources, write keys, tokens, and the identifier key.

`control.py` is the one writer, `keyring.py` what HTTP processes look keys up in. What is done with
a key or token that is good belongs to those who ask.
"""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Source:
    """Where events come from. Write keys are public: they only let events in.

    Identifier sets from a source that is not `trusted` may not quarantine an identifier that a
    trusted source attests. Several keys can be live, so that one is replaced without a gap.
    `events_per_second` is how much of it is taken by the whole server, 0 for no limit.
    """

    id: str
    workspace: str
    name: str
    trusted: bool
    disabled: bool
    write_keys: tuple[str, ...]
    events_per_second: int = 0


@dataclass(frozen=True, slots=True)
class WriteKey:
    """A write key with its past; it is live while `revoked_at` is None. Times are microseconds UTC."""

    key: str
    created_at: int
    revoked_at: int | None


class TokenKind(StrEnum):
    """What a token opens: the profiles of one space, or the administration of a workspace."""

    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token besides its secret, which is stored only as a digest.

    `scope` narrows a read token, as `scopes.Scope` reads it; "" is everything. Times are microseconds UTC.
    """

    id: str
    kind: TokenKind
    workspace: str
    scope: str
    expires_at: int | None
    revoked: bool
    created_at: int = 0
