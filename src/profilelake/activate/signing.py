"""Signatures of webhooks as Standard Webhooks has them, so that any of its libraries checks them.

Signed is `id.timestamp.body`; with two secrets there are two signatures, so that a receiver can change over.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

_PREFIX: Final = "whsec_"


def headers(key: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """Return the headers that sign a body; `timestamp` is in seconds."""
    signed = f"{key}.{timestamp}.".encode() + body
    return {
        "webhook-id": key,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(_key(secret), signed)}" for secret in secrets),
    }


def _signature(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.digest(key, signed, sha256)).decode()


def _key(secret: str) -> bytes:
    """Return the bytes of a secret: `whsec_` and base64, or any other text as it is."""
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
