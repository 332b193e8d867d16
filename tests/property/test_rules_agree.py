"""The compiled scan and the reference read every record alike under any rules of where identifiers stand."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_parse_agrees import EMAILS, IDS, NASTY, SEEDS, Writer

from log_records import RECEIVED_AT, by_landing, by_reference
from profilelake.semantics.rules import (
    COLLECTIONS,
    IdentityRules,
    TypeRule,
    segment_defaults,
)

STEPS = (
    "loyalty",
    "card",
    "appId",
    "device",
    "serial",
    "name",
    "library",
    "email",
    "traits",
    "os",
    "ip",
    "é",
    "a/b",
)
TYPES = (
    "app_id",
    "phone",
    "crm",
    "user_id",
    "email",
    "anonymous_id",
    "group_id",
    "ios.id",
    "ga_client_id",
    "é",
)
VALUES = (*IDS, *EMAILS, " U ", "Ünd ", "\u00a0x", "x\u00a0", "A é B", " ")


class Places(Writer):
    """Writes values in places that paths lead to, and contexts that batches hand down."""

    def traits(self) -> Any:
        return self.members(dict.fromkeys(STEPS, self.value) | {"app_id": self.id})

    def plain_context(self) -> Any:
        return self.context() if self.rng.random() < 0.3 else self.traits()

    def context(self) -> Any:
        usual = super().context()["members"]
        taken = {key for key, _ in usual}
        more = [(step, self.value()) for step in STEPS if step not in taken and self.rng.random() < 0.3]
        return {"members": [*usual, *more]}

    def value(self) -> Any:
        if self.rng.random() < 0.3:
            return self.members(dict.fromkeys(STEPS[:6], self.id))
        return self.id()

    def id(self) -> Any:
        return self.rng.choice(VALUES) if self.rng.random() < 0.5 else super().id()


def rules_of(seed: int) -> IdentityRules:
    """Return rules that read types from places made up at random."""
    rng = random.Random(seed)

    def path() -> str:
        root = rng.choice(("traits", "properties", "context"))
        return ".".join([root, *(rng.choice(STEPS) for _ in range(rng.randint(1, 3)))])

    types = [
        TypeRule(
            type,
            priority,
            collection,
            custom=rng.random() < 0.3,
            paths=tuple(path() for _ in range(rng.choice((0, 1, 3)))),
            normaliser=rng.choice((None, "none", "trim", "lower", "email")),
        )
        for priority, (type, collection) in enumerate(
            (type, collection) for type in TYPES for collection in COLLECTIONS if rng.random() < 0.4
        )
    ]
    defaults = segment_defaults().types if rng.random() < 0.5 else ()
    given = {(rule.collection, rule.type) for rule in types}
    kept = [rule for rule in defaults if (rule.collection, rule.type) not in given]
    sources = frozenset({"shop"}) if rng.random() < 0.5 else frozenset({"other"})
    return IdentityRules(version=2, types=(*types, *kept), alias_sources=sources)


@settings(max_examples=300)
@given(SEEDS, NASTY, SEEDS)
def test_scan_and_reference_agree_under_any_rules(seed: int, nasty: float, rules_seed: int) -> None:
    rules = rules_of(rules_seed)
    writer = Places(seed, nasty)
    made = [writer.record() for _ in range(5)]
    packed = [item._replace(offset=at, received_at=RECEIVED_AT + at) for at, (item, _) in enumerate(made)]
    plain = [item._replace(body=body) for item, (_, body) in zip(packed, made, strict=True)]
    events, failed = by_reference(plain, rules)
    landed_events, landed_failed, _ = by_landing(packed, rules)
    assert landed_events == events
    assert [row["reason"] for row in landed_failed] == [row["reason"] for row in failed]


@settings(max_examples=60)
@given(SEEDS, st.sampled_from(("none", "trim", "lower", "email")))
def test_clean_ascii_needs_no_reference(seed: int, normaliser: Any) -> None:
    path = ("context.serial.card", "traits.loyalty.card", "properties.loyalty")
    rules = segment_defaults()
    types = (*rules.types, TypeRule("card", 99, paths=path, normaliser=normaliser))
    writer = Writer(seed, 0.0)
    _, _, parsed = by_landing([writer.record()[0] for _ in range(5)], IdentityRules(version=2, types=types))
    # An address that must be put in the place of an empty one is the only unusual thing here.
    assert parsed.exact <= 3
