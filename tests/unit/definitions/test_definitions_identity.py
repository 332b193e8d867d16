"""Rules from a file: what they say, what is refused and where, and the text they are written back as."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.definitions import _yaml
from profilelake.definitions import identity as definitions
from profilelake.definitions.identity import InvalidDefinition, dump, load, parse
from profilelake.errors import Invalid
from profilelake.semantics.rules import IdentityRules, TypeRule, segment_defaults

DAY = 86_400


def told(text: str) -> list[str]:
    """Return what is wrong with a text."""
    with pytest.raises(InvalidDefinition) as raised:
        parse(text, "identity.yaml")
    return [str(problem) for problem in raised.value.problems]


def rule(text: str, type: str, collection: Any = "users") -> TypeRule:
    found = parse(text).rule(collection, type)
    assert found is not None
    return found


def strengths(rules: IdentityRules, collection: str = "users") -> list[str]:
    mine = [one for one in rules.types if one.collection == collection]
    assert [one.priority for one in mine] == list(range(1, len(mine) + 1))
    return [one.type for one in mine]


# ---- what a file says --------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "demotion: minimal", "types: {}", "types:", "---\n"])
def test_what_a_file_leaves_out_is_as_segment_has_it(text: str) -> None:
    assert parse(text) == segment_defaults()


def test_a_missing_file_is_segments_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "none.yaml", 4) == replace(segment_defaults(), version=4)


def test_custom_types_are_ordered_among_the_others() -> None:
    assert parse("types: {crm_id: {custom: true}, app_id: {custom: true}}") == segment_defaults(
        custom=("app_id", "crm_id")
    )


def test_no_defaults_leaves_what_is_named() -> None:
    rules = parse("defaults: none\ntypes: {zip: {}, email: {}, anonymous_id: {}, user_id: {}, group_id: {}}")
    assert strengths(rules) == ["user_id", "email", "anonymous_id", "zip"]
    assert strengths(rules, "accounts") == ["group_id"]
    assert not rules.types[0].blocked_exact
    assert rules.types[0].limit == 1


def test_a_list_puts_the_types_in_order_and_the_others_behind() -> None:
    rules = parse("priority: [crm_id, email]\ntypes: {crm_id: {}}")
    assert strengths(rules)[:4] == ["crm_id", "email", "user_id", "android.id"]


def test_numbers_put_types_in_order_and_the_others_behind() -> None:
    rules = parse("types: {crm_id: {priority: 1}, user_id: {priority: 7}, ios.id: {priority: 5}}")
    assert strengths(rules)[:5] == ["crm_id", "email", "ios.id", "user_id", "android.id"]


@pytest.mark.parametrize(
    ("limit", "values", "window"),
    [
        ("1", 1, None),
        ("1_000", 1000, None),
        ("none", None, None),
        ("{values: 5, per: day}", 5, DAY),
        ("{values: 5, per: week}", 5, 7 * DAY),
        ("{values: 5, per: month}", 5, 30 * DAY),
        ("{values: 5, per: year}", 5, 365 * DAY),
        ("{values: 2, per: 14 days}", 2, 14 * DAY),
        ("{values: 2, per: 1 day}", 2, DAY),
    ],
)
def test_limits(limit: str, values: int | None, window: int | None) -> None:
    found = rule(f"types: {{email: {{limit: {limit}}}}}", "email")
    assert (found.limit, found.window_seconds) == (values, window)


def test_blocked_values_are_the_text_that_was_written() -> None:
    text = "blocked: {values: [null, -1, 007, 'true', ~, 1e3], patterns: ['^test']}"
    found = rule(text, "email")
    assert found.blocked_exact == {"null", "-1", "007", "true", "~", "1e3"}
    assert found.blocked_patterns == ("^test",)


def test_a_type_blocks_more_than_all_types_do_or_nothing() -> None:
    text = "types: {user_id: {blocked: {values: [undefined]}}, email: {blocked: none}}"
    assert rule(text, "user_id").blocked_exact == {"undefined", "-1", "null", "anonymous"}
    assert rule(text, "user_id").blocked_patterns == ("^[0-]*$",)
    assert rule(text, "email").blocked_exact == frozenset()
    assert rule(text, "email").blocked_patterns == ()
    assert rule("blocked: none", "user_id").blocked_exact == frozenset()


def test_all_the_rest() -> None:
    rules = parse("""
        demotion: lowest_priority
        caps: {identifiers: 1000, merges: 100}
        quarantine: {degree: none}
        alias: {sources: [src_app]}
        types:
          card:
            collection: accounts
            paths: [traits.loyalty.card, "properties.Karten-Nr"]
            normaliser: lower
    """)
    assert (rules.demotion, rules.identifiers_max, rules.merges_max) == ("lowest_priority", 1000, 100)
    assert rules.degree_max is None
    assert rules.alias_sources == {"src_app"}
    card = rules.rule("accounts", "card")
    assert card is not None
    assert (card.paths, card.normaliser) == (("traits.loyalty.card", "properties.Karten-Nr"), "lower")


# ---- what is refused ---------------------------------------------------------------------------

BAD = """
defaults: segmnt
demotoin: minimal
caps: {identifiers: 0}
blocked: {patterns: ['.*', '(?=a)b']}
types:
  user_id: {limit: 0, custom: true}
  Crm: {custom: true}
  email:
    limit: 5
    limit: 6
"""


def test_everything_wrong_is_told_at_once_and_where() -> None:
    found = told(BAD)
    starts = [
        "line 2: defaults = segmnt: ",
        "line 3: demotoin: unknown key; did you mean demotion? ",
        "line 4: caps.identifiers = 0: ",
        "line 5: blocked.patterns[0] = .*: ",
        "line 5: blocked.patterns[1] = (?=a)b: ",
        "line 7: types.user_id.custom = true: ",
        "line 7: types.user_id.limit = 0: ",
        "line 8: types.Crm: ",
        "line 11: types.email.limit: line 10 says it too",
    ]
    assert len(found) == len(starts), found
    assert [line for line, start in zip(found, starts, strict=True) if not line.startswith(start)] == []
    with pytest.raises(Invalid, match=r"reading identity\.yaml: 9 errors; nothing was changed\n  line 2"):
        parse(BAD, "identity.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("types: {email: {limit: 0}}", "give a whole number from 1 to 1,000,000, or none"),
        ("types: {email: {limit: -1}}", "give a whole number from 1"),
        ("types: {email: {limit: 1.5}}", "give a whole number from 1"),
        ("types: {email: {limit: '5'}}", "give a whole number from 1"),
        ("types: {email: {limit: 010}}", "give a whole number from 1"),
        ("types: {email: {limit: 9999999}}", "give a whole number from 1"),
        ("types: {email: {limit: }}", "a window needs how many values"),
        ("types: {email: {limit: {per: week}}}", "a window needs how many values"),
        ("types: {email: {limit: {values: 5}}}", "without `per` write the number alone"),
        ("types: {email: {limit: {values: none, per: week}}}", "a window without a limit"),
        ("types: {email: {limit: {values: 5, per: 12 hours}}}", "windows are whole days"),
        ("types: {email: {limit: {values: 5, per: 0 days}}}", "windows are whole days"),
        ("types: {email: {limit: {values: 5, per: 99999 days}}}", "windows are whole days"),
        ("types: {email: {normaliser: upper}}", "give one of: none, trim, lower, email"),
        ("types: {email: {custom: yes}}", "give one of: true, false"),
        ("types: {email: {custom: true}}", "email is read from places of its own"),
        ("types: {appId: {custom: true}}", "a custom type is lower case"),
        ("types: {'a b': {}}", "no spaces and no colon"),
        ("types: {'a:b': {}}", "no spaces and no colon"),
        ("types: {'a\\0b': {}}".replace("'", '"'), "printable characters"),
        ("types: {group_id: {collection: users}}", "group_id is read for accounts"),
        ("types: {email: {collection: accounts}}", "email is read for users"),
        ("types: {a: {collection: people}}", "give one of: users, accounts"),
        ("types: {a: {priority: 1}}", "user_id has priority 1, by default, too"),
        ("types: {a: {priority: 9}, b: {priority: 9}}", "a has priority 9 too"),
        ("types: {a: {priority: 0}}", "give a whole number from 1 to 1,000,000"),
        ("types: {a: {priority: none}}", "give a whole number from 1 to 1,000,000"),
        ("priority: [email]\ntypes: {email: {priority: 1}}", "order the types by one of both"),
        ("priority: [emial]", "no such type"),
        ("priority: [email, email]", "named twice"),
        ("priority: email", "write a list of types"),
        ("types: {a: {paths: [device.serial]}}", "a path begins with traits., properties., context."),
        ("types: {a: {paths: [context]}}", "a path begins with traits., properties., context."),
        ("types: {a: {paths: [traits..b]}}", "each step between the dots is a key"),
        ("types: {a: {paths: [traits.b.c.d.e.f.g.h.i]}}", "at most 8 steps"),
        ("types: {a: {paths: [context.externalIds.id]}}", "external ids are read by their type"),
        ("types: {a: {paths: [context.ip]}}", "an address is shared by many"),
        ("types: {a: {paths: [traits.x, traits.x]}}", "it is there twice"),
        ("types: {a: {paths: traits.x}}", "write a list"),
        ("types: {a: {paths: [traits.x]}, b: {paths: [traits.x]}}", "traits.x is where a is read"),
        (
            "types: {app_id: {custom: true}, a: {paths: [traits.appId]}}",
            "traits.appId is where app_id is read",
        ),
        ("types: {a: {paths: [traits.email]}}", "traits.email is where email is read"),
        ("types: {email: {paths: [traits.email]}}", "traits.email is read already"),
        ("types: {a: {custom: true, paths: [traits.a]}}", "traits.a is read already"),
        ("types: {email: {blocked: {values: [NULL]}}}", "'NULL' is never seen"),
        ("types: {a: {blocked: {patterns: ['']}}}", "found in every value"),
        ("types: {a: {blocked: {patterns: ['.']}}}", "found in every value"),
        ("types: {a: {blocked: {patterns: ['(a)\\1']}}}", "back references do not exist"),
        ("types: {a: {blocked: {patterns: ['(?<!x)a']}}}", "look-around"),
        ("types: {a: {blocked: {patterns: ['(a{1000}){1000}']}}}", "repetition"),
        ("types: {a: {blocked: {patterns: ['(a{30}){30}b{999}c{900}']}}}", "steps, the most is 2,000"),
        ("types: {a: {blocked: {patterns: ['(']}}}", "missing )"),
        ("types: {a: {blocked: {patterns: [%s]}}}" % ("a" * 501), "it has 501 characters"),
        ("types: {a: {blocked: {patterns: ['[a-z]', '[^a-z]']}}}", "together block every value"),
        ("types: {a: {blocked: {values: [[a]]}}}", "write a text"),
        ("types: {a: 5}", "write a mapping here"),
        ("types: [a]", "write a mapping here"),
        ("- a", "write a mapping here"),
        ("types: {[a]: {}}", "a key must be a word"),
        ("alias: {sources: shop}", "write a list"),
        ("quarantine: {degree: 0}", "give a whole number from 1"),
        ("quarantine: none", "write a mapping here"),
        ("defaults: none", "no type is configured"),
        ("<<: {a: b}", "unknown key"),
        ("types: {" + ", ".join(f"t{n}: {{}}" for n in range(101)) + "}", "101 types, the most is 100"),
        (
            "blocked: {values: [" + ", ".join(map(str, range(1001))) + "]}",
            "1001 entries, there is room for 1000",
        ),
        ("blocked: {patterns: [" + ", ".join(f"^{n}$" for n in range(101)) + "]}", "there is room for 100"),
    ],
)
def test_one_thing_wrong(text: str, message: str) -> None:
    found = told(text)
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "line 1: not YAML as taken here: anchors and aliases are not taken"),
        ("a: 1\nb: *x", "line 2: not YAML as taken here: anchors and aliases are not taken"),
        ("[" * 50_000, "more than 8 levels"),
        ("{a: " * 50_000, "more than 8 levels"),
        ("!!python/object/apply:os.system [true]", "is not taken"),
        ("demotion: !x minimal", "the tag !x is not taken"),
        ("a: 1\n---\nb: 2", "line 2: not YAML as taken here: expected a single document"),
        ("a:\n\t- x", "line 2: not YAML as taken here"),
        ("a: [1", "not YAML as taken here"),
        ("a: b\nc: \x07", "line 2: character U+0007 cannot stand in YAML"),
        ("#" * (_yaml.FILE_BYTES_MAX + 1), "the file has 262,145 bytes, the most is 262,144"),
    ],
)
def test_what_is_no_yaml_or_too_much_of_it(text: str, message: str) -> None:
    found = told(text)
    assert len(found) == 1
    assert message in found[0]


def test_a_file_of_nonsense_has_bounded_errors() -> None:
    with pytest.raises(InvalidDefinition) as raised:
        parse("".join(f"key{n}: {n}\n" for n in range(3000)))
    assert len(str(raised.value).splitlines()) == _yaml.PROBLEMS_MAX + 2
    assert str(raised.value).endswith("  and 2900 more")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "identity.yaml"
    file.write_bytes(b"demotion: minimal\n# \xff\n")
    with pytest.raises(InvalidDefinition, match="line 2: byte 20 is not UTF-8"):
        load(file)


@settings(max_examples=200)
@given(st.text(alphabet="abt{}[]:,-'\"\n #&*!|>%01 ", max_size=60))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    try:
        parse(text)
    except InvalidDefinition as error:
        assert error.problems  # noqa: PT017 - whether it raises depends on the text


# ---- written back ------------------------------------------------------------------------------


def any_rules(seed: int) -> IdentityRules:
    """Return rules that a file can say."""
    rng = random.Random(seed)
    common = frozenset(rng.sample(["null", "-1", "a: b", "#", "é", "'"], rng.randrange(4)))
    patterns = tuple(rng.sample(["^[0-]*$", "^test\\d+'", '["#]$'], rng.randrange(3)))
    types = []
    for place, name in enumerate(
        rng.sample(["crm_id", "app_id", "x.y", "null", "-", "é"], rng.randint(1, 6))
    ):
        windows = None if rng.random() < 0.5 else rng.choice((1, 7, 30, 365, 2, 400)) * DAY
        types.append(
            TypeRule(
                name,
                place + 1,
                limit=rng.choice((1, 5)) if windows else rng.choice((None, 1, 5)),
                window_seconds=windows,
                blocked_exact=common | frozenset(rng.sample(["x", "y"], rng.randrange(3))),
                blocked_patterns=patterns + tuple(rng.sample(["^q$"], rng.randrange(2))),
                custom=rng.random() < 0.3,
                paths=tuple(rng.sample([f"traits.p{place}.a", f"context.p{place}.b c"], rng.randrange(3))),
                normaliser=rng.choice((None, "none", "trim")),
            )
        )
    types.append(TypeRule("group_id", 1, "accounts", 1, blocked_exact=common, blocked_patterns=patterns))
    return IdentityRules(
        version=rng.randint(1, 9),
        types=tuple(types),
        demotion=rng.choice(("minimal", "lowest_priority")),
        identifiers_max=rng.choice((None, 1000)),
        merges_max=rng.choice((None, 100)),
        degree_max=rng.choice((None, 10)),
        alias_sources=frozenset(rng.sample(["src_1", "null", "a, b"], rng.randrange(3))),
    )


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_what_is_written_reads_as_the_same_rules(seed: int) -> None:
    rules = any_rules(seed)
    assert parse(dump(rules), version=rules.version) == rules


@pytest.mark.parametrize("rules", [segment_defaults(), segment_defaults(custom=("app_id",), blocked=False)])
def test_the_defaults_written_read_as_the_defaults(rules: IdentityRules) -> None:
    assert parse(dump(rules)) == rules


def test_what_a_file_cannot_say_is_told() -> None:
    with pytest.raises(Invalid, match="a type is in both collections"):
        dump(IdentityRules(1, (TypeRule("a", 1), TypeRule("a", 1, "accounts"))))
    with pytest.raises(Invalid, match="a file has whole days"):
        dump(IdentityRules(1, (TypeRule("a", 1, window_seconds=60),)))


def test_the_example_of_the_docs_is_good() -> None:
    page = (Path(__file__).parents[3] / "docs" / "identity-rules.md").read_text()
    examples = [part.split("```")[0] for part in page.split("```yaml\n")[1:]]
    assert examples
    for example in examples:
        parse(example)
    for name in (*definitions._KEYS, *definitions._TYPE_KEYS):
        assert f"`{name}`" in page, name
