"""Files among the definitions that nothing reads: whoever mistook a name must not take it for in force."""

from pathlib import Path
from typing import Final

from profilelake.definitions import computed

KNOWN: Final = (
    "identity.yaml", "traits.yaml", "audiences.yaml", "entities.yaml", "tests.yaml", "destinations.yaml"
)  # fmt: skip
"""Files that are read; those of `computed.files` are also read from folders of their names."""
_SUFFIXES: Final = (".yaml", ".yml")


def unread(directory: Path) -> list[str]:
    """Return the names of files that look like definitions and that nothing reads."""
    read = {path for _, path in computed.files(directory)}
    return sorted(
        path.name
        for path in directory.glob("*")
        if path.suffix in _SUFFIXES and path.name not in KNOWN and path not in read
    )
