"""The law of accounts over a whole lake, for any engine: who belongs to them, and what they are worth, is as it is live."""

import tempfile
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from hypothesis import event, note

from computed_laws import Step, canonical_text, life, reference, take
from pipeline_driver import SECOND, WORKSPACE, Desk, account_links
from profile_cases import RULES, Case
from profilelake.audiences import definitions_now
from profilelake.engines.embedded import EmbeddedEngine
from profilelake.engines.engine import Engine
from profilelake.engines.jobs import Job
from profilelake.engines.kept import read_kept
from profilelake.lake.catalog import Lake
from profilelake.plans.account_members import account_members
from profilelake.plans.definition_inputs import Counts, Inputs
from profilelake.plans.definitions import Asked
from profilelake.semantics.definitions import Definition, Held
from profilelake.semantics.times import format_time
from profilelake.traits.steps import planned
from world_lakes import computed

ASKED = planned(
    {
        "asked": Held(
            Definition("asked", "trait", "event('Order').count()", "accounts"), 1, bytes(32), bytes(32)
        )
    }
)


ALWAYS = (
    Definition("n", "trait", "event('Order').count()", "accounts"),
    Definition("some", "audience", "ANY( trait('t').exists() OR event('Cart').count() >= 1 )", "accounts"),
    Definition("all", "audience", "ALL( NOT event('Cart').count() >= 1 )", "accounts"),
)
"""Definitions that hold in every life besides its own: most accounts are worth something."""


def members(lake: Lake, engine: Engine) -> set[tuple[str, str]]:
    """Return who belongs to which account, from the tables alone."""
    inputs = Inputs.of(lake, WORKSPACE, ASKED, Asked(ASKED, 0).wanted(), engine.tasks)
    assert inputs.accounts is not None
    job = Job(lake.storage, "members", inputs.snapshots)
    # As if there were many: then it is cut into parts.
    counts = Counts(profiles=9, sets=1_500_000, events=9, accounts=9, links=1_000_000)
    files = account_members(engine, job, inputs, inputs.accounts, counts, parts=3, account_parts=5)
    found = set()
    for file in files:
        for rows in read_kept(lake.storage, file):
            told = rows.to_pydict()
            assert set(told["part"]) <= set(range(3))
            assert set(told["account_part"]) <= set(range(5))
            found |= set(zip(told["profile_id"], told["account_id"], strict=True))
    job.finish()
    return found


def the_tables_say_who_belongs_to_accounts(
    told: Sequence[Case], directory: Path, engine: Engine | None = None
) -> None:
    """Tell cases in order, and backwards in a micro-batch for each turn; then ask the tables."""
    desk = Desk(directory / "desk", rules=RULES)
    try:
        desk.apply([record for case in told for record in case.records(f"{case.name}.")])
        for turn in zip_longest(*(case.records(f"{case.name}-backwards.")[::-1] for case in told)):
            desk.apply([record for record in turn if record is not None])
        desk.publish()
        with desk.state.read(WORKSPACE) as tx:
            links = account_links(tx)
        assert any(until is not None for *_, until in links)
        wanted = {(person, account) for person, account, _, until in links if until is None}
        assert members(desk.lake, engine or EmbeddedEngine(directory / "engine")) == wanted
    finally:
        desk.close()


def the_lake_gives_what_is_live(steps: Sequence[Step], engine: Engine | None = None) -> None:
    """Whatever happened to people and accounts: what is computed from the tables is what the reference says."""
    with life() as lived, tempfile.TemporaryDirectory() as scratch:
        desk = lived.desk
        for step in [*(Step("define", 1, one) for one in ALWAYS), *steps]:
            lived.at += step.pause
            note(f"{format_time(lived.at)} {step.what} {step.told}")
            take(lived, step)
            desk.tick(lived.at)
        lived.at += SECOND
        desk.settle(lived.at)
        desk.publish()
        wanted, _ = reference(desk)
        with desk.state.read(WORKSPACE) as tx:
            whole = definitions_now.Known.of(definitions_now.held(tx, WORKSPACE)).plan
        values = computed(
            desk.lake, whole, desk.applied().watermark, engine or EmbeddedEngine(Path(scratch) / "e")
        )
        found = {
            (key, profile): canonical_text(value)
            for key, rows in values.items()
            for profile, value in zip(*rows.to_pydict().values(), strict=True)
        }
        assert found == wanted
        event(f"values of accounts: {sum(profile.startswith('acc_') for _, profile in found) > 0}")
