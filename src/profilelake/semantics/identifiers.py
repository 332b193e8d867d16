"""Identifiers, identifier sets, and the ids made from them.

Layout of the keyed hashes (SipHash-2-4-128, one secret key per workspace):

    ident_id = H(key, "i" + c + type + 0x00 + value)          c = "u" for users, "a" for accounts
    set_id   = H(key, "s" + c + ident_ids of the set, sorted, joined)

A profile's public id is `use_` (accounts: `acc_`) and 27 base62 digits of its founding set's id.
"""

import unicodedata
from dataclasses import dataclass
from itertools import product
from typing import Final

from profilelake.semantics.rules import Collection, IdentityRules, Normaliser
from profilelake.semantics.siphash import siphash128

BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PUBLIC_ID_DIGITS: Final = 27
_TRIPLES: Final = tuple("".join(digits) for digits in product(BASE62, repeat=3))
"""All numbers of three digits, so that digits are taken off by threes."""
_SIX_DIGITS: Final = 62**6
_NINE_DIGITS: Final = 62**9
PREFIX: Final[dict[Collection, str]] = {"users": "use_", "accounts": "acc_"}
KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """One normalised identifier, such as `("email", "ana@example.org")`."""

    type: str
    value: str

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


def normaliser_of(rules: IdentityRules, collection: Collection, type: str) -> Normaliser:
    """Return how values of a type are written before they are compared, under these rules."""
    rule = rules.rule(collection, type)
    if rule is not None and rule.normaliser is not None:
        return rule.normaliser
    return "email" if type == "email" else "none"


def normalised(rules: IdentityRules, collection: Collection, type: str, value: str) -> str:
    """Return `value` as it is compared and stored; "" where it is no identifier.

    Whoever reads identifiers from events, and whoever looks one up, writes it by this function.
    """
    return written(normaliser_of(rules, collection, type), value)


def written(normaliser: Normaliser, value: str) -> str:
    """Return a value as a normaliser writes it. Each does what the one before does, and more.

    `none`: as it was sent. `trim`: without white space around it. `lower`: in lower case. `email`: in
    Unicode's composed form (NFC), so that two ways to write one letter are one.
    """
    if normaliser == "none":
        return value
    value = value.strip()
    if normaliser == "trim":
        return value
    value = value.lower()
    return value if normaliser == "lower" else unicodedata.normalize("NFC", value)


def ident_prefix(collection: Collection, type: str) -> bytes:
    """Return what is hashed before the value of an identifier of this type."""
    return b"i" + collection[0].encode() + type.encode() + b"\0"


def set_prefix(collection: Collection) -> bytes:
    """Return what is hashed before the sorted identifier ids of a set."""
    return b"s" + collection[0].encode()


def ident_id(key: bytes, collection: Collection, identifier: Identifier) -> bytes:
    """Return the 16 bytes that stand for `identifier` in this workspace."""
    return siphash128(key, ident_prefix(collection, identifier.type) + identifier.value.encode())


def set_id(key: bytes, collection: Collection, ident_ids: list[bytes]) -> bytes:
    """Return the 16 bytes that stand for a set of identifiers, whatever their order."""
    return siphash128(key, set_prefix(collection) + b"".join(sorted(ident_ids)))


def public_id(collection: Collection, founding_set: bytes) -> str:
    """Return the profile id users see: prefix and the 128-bit set id, big-endian base62, zero-padded."""
    return PREFIX[collection] + base62(founding_set)


def base62(number: bytes) -> str:
    """Return a big-endian number of 128 bits as 27 digits."""
    high, rest = divmod(int.from_bytes(number, "big"), _NINE_DIGITS**2)
    text = ""
    # Blocks of nine digits fit a machine word: dividing those is cheap, dividing all 128 bits is not.
    for block in (high, *divmod(rest, _NINE_DIGITS)):
        first, rest = divmod(block, _SIX_DIGITS)
        second, third = divmod(rest, len(_TRIPLES))
        text += _TRIPLES[first] + _TRIPLES[second] + _TRIPLES[third]
    return text


def parse_public_id(text: str) -> tuple[Collection, bytes] | None:
    """Return collection and founding set of a profile id, None where `text` is not one."""
    for collection, prefix in PREFIX.items():
        digits = text.removeprefix(prefix)
        if digits == text or len(digits) != PUBLIC_ID_DIGITS:
            continue
        number = 0
        for digit in digits:
            place = BASE62.find(digit)
            if place < 0:
                return None
            number = number * 62 + place
        if number >> 128:
            return None
        return collection, number.to_bytes(16, "big")
    return None
