"""The definitions of a workspace in its online state: what was said, and what holds."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from profilelake.audiences import facts
from profilelake.errors import Invalid
from profilelake.semantics import definitions
from profilelake.semantics.definitions import Held
from profilelake.state.computed import (
    DefinitionRecord,
    StepRecord,
    decode_step,
    definition_records,
)
from profilelake.state.records import encode
from profilelake.state.store import Db, Tx
from profilelake.traits.partials import Numbered
from profilelake.traits.steps import Plan, Step, planned

KEY_BYTES_MAX: Final = 255
"""Longest name of a definition, in UTF-8, that the state has a place for."""

_log = logging.getLogger(__name__)


def said(tx: Tx, workspace: str) -> list[definitions.Fact]:
    """Return every decision about definitions that this program understands, in order."""
    found: list[definitions.Fact] = []
    for position, body in tx.items(workspace, Db.DEFINITION_FACT):
        try:
            fact = facts.in_values(position, facts.decode(body))
        except Invalid as error:
            # A newer program wrote it. Others must not stand still for it.
            _log.error("a definition is passed over, as long as this program runs: %s", error)
            continue
        if fact is not None:
            found.append(fact)
    return found


def held(tx: Tx, workspace: str) -> Mapping[str, Held]:
    """Return the definitions that hold, by key."""
    return definitions.standing(said(tx, workspace))


def records(tx: Tx, workspace: str) -> dict[str, DefinitionRecord]:
    """Return every key that ever was defined, with where its computation stands."""
    return definition_records(tx, workspace)


def put_records(tx: Tx, workspace: str, changed: Mapping[str, DefinitionRecord]) -> None:
    """Keep where computations stand now."""
    tx.put_many(workspace, Db.DEFINITION, [(key.encode(), encode(record)) for key, record in changed.items()])


def steps(tx: Tx, workspace: str) -> dict[bytes, StepRecord]:
    """Return the steps that definitions need, by their digests."""
    return {key: decode_step(value) for key, value in tx.items(workspace, Db.STEP)}


def put_steps(tx: Tx, workspace: str, changed: Mapping[bytes, StepRecord]) -> None:
    """Keep how far steps are complete now."""
    tx.put_many(workspace, Db.STEP, [(key, encode(record)) for key, record in changed.items()])


@dataclass(frozen=True, slots=True)
class Known:
    """The definitions that hold, understood: kept in memory until somebody decides something else.

    `plan` has all that can be computed, disabled ones too; `failures` says why others cannot.
    """

    held: Mapping[str, Held]
    plan: Plan
    failures: Mapping[str, str]

    @classmethod
    def of(cls, held: Mapping[str, Held], faulty: Mapping[tuple[str, int], str] | None = None) -> "Known":
        """Understand definitions; one that cannot be understood stops no other.

        `faulty` are versions that this program turned out not to be able to compute, with the reason.
        """
        failures = {key: why for (key, version), why in (faulty or {}).items() if _is(held, key, version)}
        sound = {key: one for key, one in held.items() if key not in failures}
        try:
            return cls(held, planned(sound), failures)
        except Invalid:
            pass
        alone: dict[str, Held] = {}
        for key, one in sound.items():
            try:
                planned({key: one})
                alone[key] = one
            except Invalid as error:
                failures[key] = str(error)
        try:
            return cls(held, planned(alone), failures)
        except Invalid:
            pass
        # Some read each other in a circle: of these the one that was said last is left out.
        agreed: dict[str, Held] = {}
        for key, one in sorted(alone.items(), key=lambda item: item[1].position):
            try:
                planned({**agreed, key: one})
                agreed[key] = one
            except Invalid as error:
                failures[key] = str(error)
        return cls(held, planned(agreed), failures)

    def step_list(self) -> dict[bytes, Step]:
        """Return the steps that any of them needs, by digest."""
        return {step.digest: step for each in self.plan for step in each.steps.values()}

    def numbered(self, kept: Mapping[bytes, StepRecord]) -> list[Numbered]:
        """Return the steps with every number under which rows of theirs are worth keeping."""
        found: list[Numbered] = []
        for digest, step in self.step_list().items():
            record = kept.get(digest)
            if record is not None:
                found += [Numbered(number, step) for number in (record.number, record.attempt) if number]
        return found


def _is(held: Mapping[str, Held], key: str, version: int) -> bool:
    return key in held and held[key].version == version


def complete(steps: Sequence[Step], kept: Mapping[bytes, StepRecord]) -> bool:
    """Tell whether all events there are have been folded for all of these steps."""
    return all(step.digest in kept and kept[step.digest].complete for step in steps)
