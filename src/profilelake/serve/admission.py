"""Who asks, and what they may read: from an Authorization header to a scope, in one look-up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from profilelake.errors import Invalid
from profilelake.serve._answer import Refused
from profilelake.serve._request import secret
from profilelake.workspaces import Token, TokenKind
from profilelake.workspaces.scopes import Scope

HEADERS_MAX: Final = 4_096
"""Authorization headers of good tokens that are remembered."""


class Tokens(Protocol):
    """Knows which tokens are good; `workspaces.keyring.KeyRing` is one."""

    def poll(self) -> int:
        """Take note of changes, if it is time to look; return a number that changes with them."""
        ...

    def token(self, secret: str, *, now: int) -> Token | None:
        """Return what a token opens, None where it opens nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """A good token, and what it may read."""

    token: Token
    scope: Scope

    @property
    def words(self) -> str:
        """What `scope_of` makes the same scope of, in another process."""
        return self.token.scope if self.token.kind is TokenKind.READ else ""

    def check_collection(self, collection: str) -> None:
        """Refuse a collection that the scope leaves out."""
        allowed = self.scope.collections
        if allowed is not None and collection not in allowed:
            raise _outside(f"the collection `{collection}`")

    def check_resource(self, resource: str) -> None:
        """Refuse a resource that the scope leaves out."""
        allowed = self.scope.resources
        if allowed is not None and resource not in allowed:
            raise _outside(f"the resource `{resource}`")


class Admissions:
    """Tells good tokens from others, remembering the headers of good ones as long as no key changes."""

    def __init__(self, tokens: Tokens, now: Callable[[], int]) -> None:
        """Ask `tokens`; `now` is in microseconds UTC."""
        self._tokens = tokens
        self._now = now
        self._version = -1
        self._known: dict[bytes, Admitted] = {}

    def of(self, authorization: bytes | None, space: str) -> Admitted:
        """Return what the sender of a header may read in a space.

        Raises:
            Refused: nothing; the answer is the same whether or not there is such a space.
            Unavailable: that cannot be told now.
        """
        version = self._tokens.poll()
        if version != self._version:
            self._known.clear()
            self._version = version
        found = None if authorization is None else self._known.get(authorization)
        if found is None:
            found = self._looked_up(authorization)
        if found is None or found.token.workspace != space or self._expired(found.token):
            raise Refused(
                401, "authentication_error", "The access token is missing or not valid for this space."
            )
        return found

    def _looked_up(self, authorization: bytes | None) -> Admitted | None:
        given = secret(authorization)
        token = None if given is None else self._tokens.token(given, now=self._now())
        if token is None or authorization is None:
            return None
        admitted = Admitted(token, scope_of(token.scope if token.kind is TokenKind.READ else ""))
        if len(self._known) >= HEADERS_MAX:
            self._known.clear()
        self._known[authorization] = admitted
        return admitted

    def _expired(self, token: Token) -> bool:
        return token.expires_at is not None and token.expires_at <= self._now()


def scope_of(words: str) -> Scope:
    """Return what a token of this scope may read; nothing, where the scope cannot be read."""
    try:
        return Scope.parse(words)
    except Invalid:
        # A newer program issued it with words that this one does not know: they may narrow anything.
        return Scope(_NOTHING, _NOTHING, _NOTHING, "no")


_NOTHING: Final[frozenset[str]] = frozenset()


def _outside(what: str) -> Refused:
    return Refused(403, "forbidden", f"The access token does not open {what}.")
