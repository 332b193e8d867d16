"""The secret under which identifiers are hashed: created once, never overwritten, never replaced.

Every identifier hash in lake and state depends on it. Without it nothing new can be joined to what
is stored, so a lost key is an emergency to stop for, not a reason to make another one.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from profilelake.errors import Corrupt, NotFound

IDENTIFIER_KEY_FILE: Final = "identifier.key"
_KEY_BYTES: Final = 16


def identifier_key(secrets_dir: Path, workspace: str) -> bytes:
    """Return the 16 bytes under which `workspace` hashes its identifiers.

    They are derived from the key in `secrets_dir`, so two workspaces never share a hash, and two
    installations with the same key file and workspace always do.

    Raises:
        NotFound: there is no key file.
        Corrupt: the file does not hold a key.
    """
    return hashlib.blake2b(workspace.encode(), key=_read(secrets_dir), digest_size=_KEY_BYTES).digest()


def key_fingerprint(secrets_dir: Path) -> str:
    """Return what tells one key file from another without giving the key away. Raises as above."""
    return hashlib.blake2b(b"fingerprint", key=_read(secrets_dir), digest_size=8).hexdigest()


def create_identifier_key(secrets_dir: Path, random_bytes: Callable[[int], bytes]) -> bool:
    """Make the key file durable, readable to its owner only. False when there is one already.

    The file appears whole or not at all, and of several processes that try at once exactly one wins.
    """
    secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = secrets_dir / IDENTIFIER_KEY_FILE
    if path.exists():
        return False
    draft = secrets_dir / f".{IDENTIFIER_KEY_FILE}.{os.getpid()}.{random_bytes(8).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(random_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link fails where the name is taken, so a key that is there can never be replaced.
            path.hardlink_to(draft)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(secrets_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def _read(secrets_dir: Path) -> bytes:
    path = secrets_dir / IDENTIFIER_KEY_FILE
    try:
        key = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            f"reading the identifier key: {path} does not exist; restore it from backup"
        ) from error
    if len(key) != _KEY_BYTES:
        raise Corrupt(
            f"reading the identifier key: {path} has {len(key)} bytes instead of {_KEY_BYTES};"
            " restore it from backup"
        )
    return key
