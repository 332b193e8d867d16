"""A hundred definitions about the shop of `_shop`, each with the DuckDB query a good engineer would write for it.

Queries see the views `events` (with the `profile_id` of each), `profiles`, and the result of each query before them as
a table of its key. They give `profile_id` and, for traits, `value`.
"""

# ruff: noqa: S608 - queries of our own making, over data of our own making

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from _shop import CATEGORIES, COUNTRIES, END, NAMES, PLANS

DAY: Final = 86_400
_IDENTIFIED: Final = "((identifiers->'user_id') IS NOT NULL OR (identifiers->'email') IS NOT NULL)"
_AT: Final = f"make_timestamptz({END})"
_PRICE: Final = "(properties->>'price')"
_CATEGORY: Final = "(properties->>'category')"
_COUPON: Final = "(properties->>'coupon')"


@dataclass(frozen=True, slots=True)
class Pair:
    """A definition and its query; `approximate` where both divide, but not alike."""

    key: str
    kind: str
    query: str
    sql: str
    family: str
    approximate: bool = False


def pairs() -> list[Pair]:
    """Return all of them, in an order in which each comes after those it reads."""
    return [*_counts(), *_windows(), *_sums(), *_values(), *_filtered(), *_orders(), *_traits(), *_combined()]


def _name(name: str) -> str:
    return "type = 'page'" if name == "Page Viewed" else f"type = 'track' AND event = '{name}'"


def _since(days: int) -> str:
    return f"timestamp >= {_AT} - INTERVAL {days} DAY AND timestamp <= {_AT}"


def _short(name: str) -> str:
    return name.lower().replace(" ", "_")


def _audience(key: str, query: str, members: str, family: str) -> Pair:
    sql = (
        f"SELECT profile_id FROM ({members}) SEMI JOIN (FROM profiles WHERE {_IDENTIFIED}) USING (profile_id)"
    )
    return Pair(key, "audience", query, sql, family)


def _counts() -> Iterator[Pair]:
    for name, _ in NAMES:
        sql = f"SELECT profile_id, count(*) AS value FROM events WHERE {_name(name)} GROUP BY ALL"
        yield Pair(f"{_short(name)}_count", "trait", f"event('{name}').count()", sql, "count")
    for number, (name, _) in enumerate(NAMES[:6]):
        days = 7 * (number + 1)
        sql = f"SELECT profile_id, count(*) AS value FROM events WHERE {_name(name)} AND {_since(days)} GROUP BY ALL"
        yield Pair(
            f"{_short(name)}_recent", "trait", f"event('{name}').within({days} days).count()", sql, "count"
        )


def _windows() -> Iterator[Pair]:
    for number, (name, _) in enumerate(NAMES):
        days, least = (1, 7, 30, 60)[number % 4], number % 3 + 1
        members = f"""
            SELECT profile_id FROM events WHERE {_name(name)} AND {_since(days)}
            GROUP BY ALL HAVING count(*) >= {least}
        """
        query = f"event('{name}').within({days} days).count() >= {least}"
        yield _audience(f"active_{_short(name)}", query, members, "window")
    for name, _ in NAMES[4:8]:
        members = f"""
            SELECT profile_id FROM events WHERE {_name(name)}
            AND timestamp BETWEEN {_AT} - INTERVAL 30 DAY AND {_AT} - INTERVAL 7 DAY
            GROUP BY ALL HAVING count(*) >= 1
        """
        query = f"event('{name}').between(7 days, 30 days).count() >= 1"
        yield _audience(f"earlier_{_short(name)}", query, members, "window")
    for name, _ in NAMES[:3]:
        members = f"SELECT profile_id FROM profiles ANTI JOIN (FROM events WHERE {_name(name)} AND {_since(14)}) USING (profile_id)"
        query = f"NOT event('{name}').within(14 days).count() >= 1"
        yield _audience(f"lapsed_{_short(name)}", query, members, "window")


def _sums() -> Iterator[Pair]:
    price = f"try_cast({_PRICE} AS DECIMAL(18, 2))"
    for how in ("sum", "avg", "min", "max"):
        for name, days in (("Order Completed", 0), ("Order Completed", 30), ("Product Added", 30)):
            window, within = (f"AND {_since(days)}", f".within({days} days)") if days else ("", "")
            value = f"sum({price})::DOUBLE / count({price})" if how == "avg" else f"{how}({price})::DOUBLE"
            sql = f"SELECT profile_id, {value} AS value FROM events WHERE {_name(name)} {window} GROUP BY ALL"
            query = f"event('{name}'){within}.{how}(property('price'))"
            key = f"{how}_{_short(name)}_{days}"
            yield Pair(key, "trait", query, sql, "number", approximate=how == "avg")
    for least in (100, 500, 1_000):
        members = f"""
            SELECT profile_id FROM events WHERE {_name("Order Completed")} AND {_since(60)}
            GROUP BY ALL HAVING sum({price}) >= {least}
        """
        query = f"event('Order Completed').within(60 days).sum(property('price')) >= {least}"
        yield _audience(f"spent_{least}", query, members, "number")


def _values() -> Iterator[Pair]:
    for name, days in (("Product Viewed", 30), ("Product Added", 60), ("Order Completed", 0)):
        window, within = (f"AND {_since(days)}", f".within({days} days)") if days else ("", "")
        where = f"{_name(name)} {window} AND {_CATEGORY} IS NOT NULL"
        of, key = f"event('{name}'){within}", f"{_short(name)}_{days}"
        mode = f"""
            SELECT profile_id, to_json(category)::VARCHAR AS value FROM (
                SELECT profile_id, {_CATEGORY} AS category, count(*) AS n FROM events WHERE {where} GROUP BY ALL
            ) QUALIFY row_number() OVER (PARTITION BY profile_id ORDER BY n DESC, category) = 1
        """
        yield Pair(f"mode_{key}", "trait", f"{of}.mode(property('category'), 1)", mode, "value")
        unique = f"""
            SELECT profile_id, to_json(list_sort(list(DISTINCT {_CATEGORY})))::VARCHAR AS value
            FROM events WHERE {where} GROUP BY ALL
        """
        yield Pair(f"unique_{key}", "trait", f"{of}.unique(property('category'))", unique, "value")
        number = (
            f"SELECT profile_id, count(DISTINCT {_CATEGORY}) AS value FROM events WHERE {where} GROUP BY ALL"
        )
        yield Pair(f"distinct_{key}", "trait", f"{of}.unique(property('category')).count()", number, "value")
        for how, arg in (("first", "arg_min"), ("last", "arg_max")):
            # Of events at one time the least (greatest) value counts.
            sql = f"""
                SELECT profile_id, to_json({arg}({_CATEGORY}, (timestamp, {_CATEGORY})))::VARCHAR AS value
                FROM events WHERE {where} GROUP BY ALL
            """
            yield Pair(f"{how}_{key}", "trait", f"{of}.{how}(property('category'))", sql, "value")


def _filtered() -> Iterator[Pair]:
    for number, category in enumerate(CATEGORIES):
        name, price, days = ("Product Viewed", "Product Added")[number % 2], 40 * number, 7 + 3 * number
        members = f"""
            SELECT profile_id FROM events
            WHERE {_name(name)} AND {_since(days)} AND {_CATEGORY} = '{category}'
              AND try_cast({_PRICE} AS DOUBLE) > {price}
            GROUP BY ALL HAVING count(*) >= 2
        """
        query = (
            f"event('{name}').where( property('category') = '{category}' AND property('price') > {price} )"
            f".within({days} days).count() >= 2"
        )
        yield _audience(f"likes_{category}", query, members, "where")
    for name in ("Order Completed", "Product Added", "Checkout Started"):
        members = f"SELECT DISTINCT profile_id FROM events WHERE {_name(name)} AND {_COUPON} IS NOT NULL"
        query = f"event('{name}').where( property('coupon').exists() ).count() >= 1"
        yield _audience(f"coupon_{_short(name)}", query, members, "where")
    members = f"SELECT DISTINCT profile_id FROM events WHERE type = 'page' AND {_since(3)} AND name IN ('Help', 'Home')"
    query = "event('Page Viewed').where( property('page_name').one_of('Help', 'Home') ).within(3 days).count() >= 1"
    yield _audience("seeks_help", query, members, "where")


def _orders() -> Iterator[Pair]:
    """Funnels: an event, and another that follows it in time, or does not."""
    steps = (("Checkout Started", "Order Completed"), ("Product Added", "Checkout Started"))
    for first, then in steps:
        for days, negated in ((1, True), (3, False), (7, True)):
            follows = f"""
                EXISTS (
                    FROM events AS b WHERE b.type = 'track' AND b.event = '{then}' AND b.profile_id = a.profile_id
                      AND b.timestamp BETWEEN a.timestamp AND a.timestamp + INTERVAL {days} DAY
                )
            """
            members = f"""
                SELECT DISTINCT profile_id FROM events AS a
                WHERE {_name(first)} AND {_since(7)} AND {"NOT" if negated else ""} {follows}
            """
            inner = f"event('{then}').within(parent: {days} days).count() >= 1"
            query = (
                f"event('{first}').where( {'NOT ' if negated else ''}{inner} ).within(7 days).count() >= 1"
            )
            key = f"{'left' if negated else 'went_on'}_{_short(first)}_{days}"
            yield _audience(key, query, members, "funnel")


def _traits() -> Iterator[Pair]:
    for number, country in enumerate(COUNTRIES):
        plan, age = PLANS[number % len(PLANS)], 20 + 5 * number
        members = f"""
            SELECT profile_id FROM profiles
            WHERE (traits->>'country') = '{country}' AND (traits->>'age')::DOUBLE >= {age}
              AND (traits->>'plan') <> '{plan}'
        """
        query = f"trait('country') = '{country}' AND trait('age') >= {age} AND trait('plan') != '{plan}'"
        yield _audience(f"people_{country.lower()}", query, members, "trait")
    for plan in PLANS:
        members = f"""
            SELECT profile_id FROM profiles SEMI JOIN (FROM events WHERE {_name("Email Opened")} AND {_since(30)})
            USING (profile_id) WHERE (traits->>'plan') = '{plan}'
        """
        query = f"trait('plan') = '{plan}' AND event('Email Opened').within(30 days).count() >= 1"
        yield _audience(f"reads_{plan}", query, members, "trait")


def _combined() -> Iterator[Pair]:
    for number, category in enumerate(CATEGORIES):
        country = COUNTRIES[number].lower()
        members = f"FROM likes_{category} SEMI JOIN people_{country} USING (profile_id)"
        query = f"trait('likes_{category}') = 'true' AND trait('people_{country}') = 'true'"
        yield _audience(f"both_{category}", query, members, "audience")
    for least in (100, 500, 1_000):
        members = f"FROM spent_{least} ANTI JOIN active_order_completed USING (profile_id)"
        query = f"trait('spent_{least}') = 'true' AND NOT trait('active_order_completed') = 'true'"
        yield _audience(f"win_back_{least}", query, members, "audience")
    for number, (name, _) in enumerate(NAMES[:7]):
        least = 3 + number
        members = f"SELECT profile_id FROM {_short(name)}_count WHERE value >= {least}"
        query = f"trait('{_short(name)}_count') >= {least}"
        yield _audience(f"many_{_short(name)}", query, members, "audience")
