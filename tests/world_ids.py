"""What profiles of random worlds are called."""

from typing import Final

from condition_worlds import Person, set_id
from profilelake.semantics.identifiers import public_id

__all__ = ["ACCOUNT_SETS", "KEY", "account_id", "account_sets", "profile_id", "set_id"]

KEY: Final = bytes(range(16))
"""The key that hides identifiers of worlds."""
ACCOUNT_SETS: Final = 1 << 32
"""Numbers of the sets of accounts begin here."""


def profile_id(person: Person) -> str:
    """Return the id of a person of the world."""
    return public_id("users", set_id(person.sets[0]))


def account_id(number: int) -> str:
    """Return the id of an account of the world, by its place there."""
    return public_id("accounts", account_sets(number)[0])


def account_sets(number: int) -> tuple[bytes, bytes]:
    """Return the sets of an account."""
    return set_id(ACCOUNT_SETS + 2 * number), set_id(ACCOUNT_SETS + 2 * number + 1)
