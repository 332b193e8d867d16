"""Faults of ours that a definition brings out: found, and kept from stopping everybody else."""

from collections.abc import Callable, Collection
from typing import Final, Self

from profilelake.errors import Corrupt, Invalid, Unavailable
from profilelake.traits.steps import Plan

PASSED_ON: Final = (Unavailable, Corrupt, OSError, MemoryError)
"""What is no fault of a definition: the disk, the memory, the state."""


class Faulty(Exception):
    """Computing these definitions failed in a way nobody foresaw."""

    def __init__(self, workspace: str, keys: Collection[str], error: BaseException) -> None:
        self.ours = not isinstance(error, Invalid)
        """Whether it is a fault of the program; else the definition asks for what is not there."""
        super().__init__(
            f"computing failed: {type(error).__name__}; this is a fault of the program: tell us, change the"
            " definition, or start a newer one"
            if self.ours
            else str(error)
        )
        self.workspace = workspace
        self.keys = frozenset(keys)

    @classmethod
    def of(cls, workspace: str, error: BaseException, plan: Plan, digests: Collection[bytes]) -> Self:
        """Return the fault of all definitions with one of these steps."""
        return cls(
            workspace,
            [
                planned.held.definition.key
                for planned in plan
                if any(step.digest in digests for step in planned.steps.values())
            ],
            error,
        )


def works(attempt: Callable[[], object]) -> bool:
    """Tell whether something can be done that changes nothing.

    Raises:
        What `PASSED_ON` names.
    """
    try:
        attempt()
    except PASSED_ON:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, it is named by who asks
        return False
    return True
