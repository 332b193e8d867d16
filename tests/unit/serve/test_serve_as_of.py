"""A profile as it was: before a merge, under other rules, without what was decided since."""

from dataclasses import replace
from pathlib import Path

import pytest

from past_examples import World, identify, track, world
from pipeline_decisions import retractions
from pipeline_driver import KEY, SECOND, START, LogBuilder, tight_rules
from profilelake.errors import Invalid
from profilelake.identity import as_of as identity_as_of
from profilelake.identity import facts
from profilelake.semantics.identifiers import Identifier, ident_id
from profilelake.serve._answer import Refused
from profilelake.serve._request import Query
from profilelake.serve.as_of import AsOf


def decide(made: World, second: int, fact: facts.Fact) -> None:
    made.desk.apply([made.log.decision(START + second * SECOND, fact)])


def test_before_a_merge_there_were_two(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.feed(0, identify("m1", "u1", None, {"plan": "free", "old": True}))
        made.feed(1, identify("m2", None, "a1", {"plan": "trial"}, "02"))
        made.feed(5, identify("m3", "u1", "a1", {"plan": "pro", "old": None}, "03"))
        for _ in range(2):
            assert made.shown_then("user_id:u1", 4) == (["user_id:u1"], {"plan": "free", "old": True})
            assert made.shown_then("anonymous_id:a1", 4) == (["anonymous_id:a1"], {"plan": "trial"})
            whole = (["anonymous_id:a1", "user_id:u1"], {"plan": "pro", "old": None})
            assert made.shown_then("user_id:u1", 5) == made.shown_then("anonymous_id:a1", 6) == whole
            made.desk.publish()


def test_a_profile_id_means_what_it_meant(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.feed(0, identify("m1", "u1"))
        made.feed(1, identify("m2", None, "a1"))
        with made.found("anonymous_id:a1") as found:
            merged_later = found.segment_id
        made.feed(5, identify("m3", "u1", "a1"))
        assert made.shown_then(merged_later, 4)[0] == ["anonymous_id:a1"]
        assert len(made.shown_then(f"segment_id:{merged_later}", 5)[0]) == 2
        with pytest.raises(Refused) as told:
            made.shown_then(merged_later, 0)
        assert told.value.status == 404


@pytest.mark.parametrize("id", ["user_id:u1", "user_id:nobody", "colour:red", "nonsense"])
def test_nobody_was_there_before_the_first_event(tmp_path: Path, id: str) -> None:
    with world(tmp_path) as made:
        made.feed(1, identify("m1", "u1"))
        with pytest.raises(Refused) as told:
            made.shown_then(id, 0.5)
        assert told.value.status == 404


def test_the_rules_of_then_or_those_of_today(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.feed(0, identify("m1", "u1", "a1"))
        rules = tight_rules()
        others = tuple(rule for rule in rules.types if rule.type != "anonymous_id")
        decide(made, 5, facts.NewRules(by="somebody", rules=replace(rules, version=2, types=others)))
        assert made.shown_then("user_id:u1", 4)[0] == ["anonymous_id:a1", "user_id:u1"]
        assert made.shown_then("user_id:u1", 4, rules_now=True)[0] == ["user_id:u1"]
        assert made.shown_then("user_id:u1", 6)[0] == ["user_id:u1"]


def test_what_was_decided_since_has_not_happened(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        made.feed(0, identify("m1", "u1", "a1"))
        one, other = (
            ident_id(KEY, "users", Identifier(*names)).hex()
            for names in (("user_id", "u1"), ("anonymous_id", "a1"))
        )
        decide(made, 5, facts.Unlink(by="somebody", collection="users", one=one, other=other))
        assert len(made.shown_then("user_id:u1", 4)[0]) == 2
        assert made.shown_then("user_id:u1", 5)[0] == ["user_id:u1"]


def test_an_event_that_was_retracted_since_still_counted_then(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        linking = made.log.record(START, [identify("m1", "u1", "a1")])
        made.desk.apply([linking])
        made.feed(3, identify("m2", "u1", "a1"))
        (retracted,) = retractions([linking], "m1")
        decide(made, 5, retracted)
        for _ in range(2):
            both = ["anonymous_id:a1", "user_id:u1"]
            # The set counts from its second event on now; then it did from its first.
            assert [made.shown_then("user_id:u1", second)[0] for second in (0, 4, 6)] == [both] * 3
            made.desk.publish()


def test_an_identifier_of_a_crowd_links_nobody_then_and_its_others_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path) as made:
        rules = replace(tight_rules(), version=2, degree_max=3)
        decide(made, 0, facts.NewRules(by="somebody", rules=rules))
        made.feed(1, *(identify(f"m{n}", "u1", f"a{n}") for n in range(3)))
        made.feed(5, *(identify(f"m{n}", "u1", f"a{n}") for n in range(3, 12)))
        assert made.shown_then("anonymous_id:a1", 4)[0][-1] == "user_id:u1"
        monkeypatch.setattr(identity_as_of, "SETS_MAX", 3)
        assert made.shown_then("anonymous_id:a1", 6)[0] == ["anonymous_id:a1"]
        # Strangers do not count for an identifier that a trusted source shows; here there is none.
        assert made.shown_then("anonymous_id:a1", 6, untrusted=frozenset({"shop"}))[0] == ["anonymous_id:a1"]


def test_too_much_to_resolve_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(tmp_path) as made:
        made.feed(0, *(identify(f"m{n}", "u1", f"a{n}") for n in range(4)))
        monkeypatch.setattr(identity_as_of, "SETS_MAX", 3)
        with pytest.raises(Invalid, match="connected with more than 3 identifier sets"):
            made.shown_then("user_id:u1", 1)


def test_an_identifier_in_more_sets_than_are_looked_through_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path) as made:
        made.feed(0, *(identify(f"m{n}", "u1", f"a{n}") for n in range(4)))
        monkeypatch.setattr(identity_as_of, "SETS_MAX", 2)
        monkeypatch.setattr(identity_as_of, "CROWD_SETS_MAX", 3)
        for id in ("anonymous_id:a1", "user_id:u1"):
            with pytest.raises(Invalid, match="stands in 4 identifier sets"):
                made.shown_then(id, 1)


def test_a_call_sent_twice_was_there_when_its_first_copy_came(tmp_path: Path) -> None:
    with world(tmp_path) as made:
        call = identify("m1", "u1", None, {"plan": "pro"})
        made.desk.apply([made.log.record(START, [track("t", "a1")])])
        late = LogBuilder("00000000000000bb").record(START + SECOND, [call])
        made.feed(5, call)
        made.desk.apply([late])
        for _ in range(2):
            assert made.shown_then("user_id:u1", 2) == (["user_id:u1"], {"plan": "pro"})
            made.desk.publish()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"as_of=", "must be an ISO 8601 time"),
        (b"as_of=yesterday", "must be an ISO 8601 time"),
        (b"as_of=2026-01-03", "must not lie in the future"),
        (b"as_of=2026-01-01&rules=new", "must be one of: then, current"),
    ],
)
def test_a_wrong_time_is_told(query: bytes, message: str) -> None:
    with pytest.raises(Refused, match=message):
        AsOf.of(Query(query), 1_767_225_600_000_000 + 86_400_000_000)
