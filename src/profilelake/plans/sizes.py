"""How finely a rebuild is cut."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one task takes at once; memory of a task follows from it."""

    share_bytes: int = 64 << 20
    """Files of a table that one task reads, where they are not larger one by one."""
    part_bytes: int = 48 << 20
    """Files of tables whose rows are brought together in one part, on average."""
    part_members: int = 1 << 22
    """Identifiers of sets that come together in one part, on average."""
    sets_per_part: int = 1 << 19
    """Sets that are resolved together, on average."""
    sets_per_task_max: int = 1 << 23
    """Sets of one component, which is resolved whole, that a task may take: about 800 bytes of memory each."""
    ids_per_part: int = 1 << 21
    """Message ids that are sorted together, on average: about 300 bytes of memory each."""
