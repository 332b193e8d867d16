"""What a check finds, and what all checks are given."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from profilelake.settings import Layout, Settings


class Level(IntEnum):
    """How bad it is. The command ends with `exit_code` of the worst."""

    FINE = 0
    WARNING = 1
    PROBLEM = 2

    @property
    def exit_code(self) -> int:
        """0, 10 or 20: none of the codes that errors of the command itself have."""
        return 10 * self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says. `fix` is a command or a sentence; empty where nothing is to do."""

    check: str
    level: Level
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at, and when (microseconds). `server` is its address if it answers."""

    layout: Layout
    settings: Settings
    workspace: str
    server: str | None
    now: int
    kernel_cache: Path


def fine(check: str, text: str) -> Finding:
    """Say that all is well."""
    return Finding(check, Level.FINE, text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Say what should be looked at some time."""
    return Finding(check, Level.WARNING, text, fix)


def problem(check: str, text: str, fix: str) -> Finding:
    """Say what must be put right."""
    return Finding(check, Level.PROBLEM, text, fix)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; fine where there is nothing."""
    return max((finding.level for finding in findings), default=Level.FINE)
