"""SipHash-2-4-128 of one value: the form for whoever looks a single identifier up.

libsodium's takes 1 microsecond and not 14; where PyNaCl was built without it, the reference serves. `kernels.siphash` hashes columns.
"""

from profilelake.semantics.siphash import siphash128 as _reference

try:
    from nacl.bindings import (  # type: ignore[import-not-found, unused-ignore]
        crypto_shorthash_siphashx24 as _siphashx24,
    )
except ImportError:  # libsodium was built without it
    siphash128 = _reference
else:

    def siphash128(key: bytes, data: bytes) -> bytes:
        """Return the 16-byte keyed hash of `data`."""
        digest: bytes = _siphashx24(data, key)
        return digest
