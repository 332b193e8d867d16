"""What a token with an allow-list of traits may see of JSON documents."""

from typing import Final, TypeAlias

import msgspec

Allowed: TypeAlias = frozenset[str] | None
"""Names of traits that may be seen; None: all."""

_CONSENT: Final = "segment_consent_preference"
_EMPTY: Final = msgspec.Raw(b"{}")
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def is_consent(name: str) -> bool:
    """Tell whether what is stored as a trait is a statement of consent, which is no trait to its readers."""
    return name.startswith(_CONSENT)


def document(text: str | None) -> msgspec.Raw:
    """Return JSON text as it was stored, digit by digit; an empty object where there is none."""
    return _EMPTY if text is None else msgspec.Raw(text)


def traits(text: str | None, allowed: Allowed, *, consents: bool = True) -> msgspec.Raw:
    """Return an object of traits without those that may not be seen, statements of consent among them."""
    if text is None or (allowed is None and consents):
        return document(text)
    seen = {
        name: value
        for name, value in _decode(text).items()
        if (allowed is None or name in allowed) and (consents or not is_consent(name))
    }
    return msgspec.Raw(_encode(seen))


def context(text: str | None, allowed: Allowed) -> msgspec.Raw:
    """Return the context of an event; the traits in it are traits too."""
    if text is None or allowed is None:
        return document(text)
    parts = _decode(text)
    if "traits" not in parts:
        return document(text)
    inner = bytes(parts["traits"]).decode()
    parts["traits"] = traits(inner, allowed) if inner.startswith("{") else msgspec.Raw(b"null")
    return msgspec.Raw(_encode(parts))
