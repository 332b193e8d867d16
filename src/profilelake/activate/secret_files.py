"""Secrets of destinations: stored in files for the server alone, or in its environment; shown to nobody."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from profilelake.errors import Invalid, NotFound, Unavailable

SECRET_BYTES_MAX: Final = 4_096


def store(directory: Path, name: str, secret: str) -> None:
    """Store a secret under a name, in place of what was there.

    Raises:
        Invalid: it is empty, too long, or has characters that no header takes.
        Unavailable: the disk does not take it.
    """
    if not secret or len(secret) > SECRET_BYTES_MAX or not secret.isascii() or not secret.isprintable():
        raise Invalid(f"storing secret {name!r}: give 1 to {SECRET_BYTES_MAX:,} printable ASCII characters")
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        temporary = directory / f".{name}.new"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as sink:
            sink.write(secret)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.rename(directory / name)
    except OSError as error:
        raise Unavailable(f"storing secret {name!r}: {error}") from error


def read(directory: Path, reference: str, environment: Mapping[str, str]) -> str:
    """Return the secret that `$VARIABLE` or a name stands for.

    Raises:
        NotFound: there is none.
    """
    if reference.startswith("$"):
        found = environment.get(reference[1:], "")
        if not found:
            raise NotFound(f"reading a secret: the server was started without {reference} in its environment")
        return found
    try:
        return (directory / reference).read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"reading a secret: none is stored as {reference!r}; store it: profilelake destination secret {reference}"
        ) from None
    except OSError as error:
        raise NotFound(f"reading secret {reference!r}: {error}") from error
