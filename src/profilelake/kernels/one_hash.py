"""SipHash-2-4-128 of one value: the form for whoever looks a single identifier up.

libsodium's where PyNaCl is installed (`pip install profilelake[fast]`), 1 microsecond and not 14;
otherwise the reference. `kernels.siphash` hashes columns.
"""

from profilelake.semantics.siphash import siphash128 as _reference

try:
    from nacl.bindings import (  # type: ignore[import-not-found, unused-ignore]
        crypto_shorthash_siphashx24 as _siphashx24,
    )
except ImportError:  # not installed, or built without it
    siphash128 = _reference
else:

    def siphash128(key: bytes, data: bytes) -> bytes:
        """Return the 16-byte keyed hash of `data`."""
        digest: bytes = _siphashx24(data, key)
        return digest
