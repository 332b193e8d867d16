"""Files put in force: what is asked for, and which changes are to be agreed to by number."""

from dataclasses import replace

import pytest

from profilelake.audiences.applying import Estimate, asked_of, objection
from profilelake.audiences.deciding import AskDefine, AskDrop, Change, Defined, What
from profilelake.audiences.shown import as_entry, differences
from profilelake.definitions.computed import parse
from profilelake.semantics.definitions import Definition, Held, computation_id

FILE = "definitions/audiences.yaml"
LOYAL = Definition(key="loyal", kind="audience", query="trait('plan') = 'pro'", managed_by=FILE)


def held(definition: Definition) -> Held:
    return Held(definition, 1, bytes(32), bytes(32))


def test_files_hold_what_they_say_and_nothing_they_said_before() -> None:
    by_hand = replace(LOYAL, key="by_hand", managed_by="")
    gone = replace(LOYAL, key="gone")
    known = Defined({one.key: held(one) for one in (by_hand, gone)}, {})
    computed = parse("audiences: {loyal: {query: trait('plan') = 'pro'}}", name=FILE)
    assert asked_of(computed, known, "why") == [
        AskDefine(definition=LOYAL, note="why"),
        AskDrop(key="gone", note="why", override=True),
    ]


@pytest.mark.parametrize(
    ("what", "estimate", "refused"),
    [
        ("new", Estimate(0, 5_000_000, 0, 0, 1), False),
        ("resync", Estimate(5_000_000, 0, 0, 0, 0), False),
        ("changed", Estimate(1_000, 50, 50), False),
        ("changed", Estimate(1_000, 51, 50), True),
        ("changed", Estimate(1_000, 0, 0, 101), True),
        ("changed", Estimate(5, 0, 5), False),
        ("dropped", Estimate(1_000_000, 0, 1_000_000), True),
        ("disabled", Estimate(10_000_000, 0, 100_000), False),
        ("disabled", Estimate(10_000_000, 0, 100_001), True),
        ("changed", Estimate(100), False),
        ("changed", Estimate(101), True),
    ],
)
def test_what_is_to_be_agreed_to_by_number(what: What, estimate: Estimate, refused: bool) -> None:
    told = objection(Change(what, LOYAL, LOYAL), estimate)
    assert (told is not None) == refused
    assert told is None or told.startswith("loyal: ")


def test_the_figures_are_told() -> None:
    told = objection(Change("changed", LOYAL, LOYAL), Estimate(2_000_000, 12, 1_000_000, 7))
    assert told == (
        "loyal: 12 enter, 1,000,000 leave, 7 get another value, of 2,000,000 now;"
        " without a word more at most 100,000 may"
    )


@pytest.mark.parametrize(
    "text",
    [
        "audiences: {k: {query: trait('plan') = 'pro', name: N, external_ids: none, historical: false}}",
        "audiences: {k: {query: trait('plan') = 'pro', target: accounts, enabled: false}}",
        "audiences: {k: {sql: SELECT user_id FROM t, id: user_id, every: 2 days, description: D}}",
        "audiences: {k: {query: trait('plan') = 'pro', external_ids: [user_id, crm]}}",
    ],
)
def test_a_definition_is_shown_as_an_entry_that_says_the_same(text: str) -> None:
    one = parse(text).written["k"].definition
    entry = "".join(f"    {line}\n" for line in as_entry(one).splitlines())
    assert parse(f"audiences:\n  k:\n{entry}").written["k"].definition == one


def test_differences_are_lines_that_come_and_go() -> None:
    assert differences(LOYAL, replace(LOYAL, name="Loyal")) == ["+ name: Loyal"]
    assert differences(None, None) == []
    assert differences(LOYAL, None)[0] == f"- # managed by {FILE}"


def test_ids_come_from_the_first_fact_and_tell_the_kind() -> None:
    first, second = (computation_id("audience", bytes([place]) * 32) for place in (1, 2))
    assert first.startswith("aud_")
    assert (len(first), first != second) == (31, True)
    assert computation_id("sql_trait", bytes(32)).startswith("tra_")
