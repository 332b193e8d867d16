"""Where the same SQL means something else on DuckDB and on Spark, as data: what each gives, and what is alike on both.

`docs/sql-engines.md` has a row for each. Answers are texts (`shown`), an error is `error`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

ERROR: Final = "error"


@dataclass(frozen=True)
class Difference:
    """One trap. `sql` is run on every engine as it stands; so is `portable`, or `portable_spark` on Spark."""

    topic: str
    name: str
    sql: str
    duckdb: str
    spark: str
    portable: str
    answer: str
    portable_spark: str = ""
    spark_35: str = ""
    """Where 3.5, whose ANSI mode is off unless it is switched on, gives something else again."""

    def line(self) -> str:
        """Return its line in the table of the documentation."""
        spark = f"`{self.spark}`" + (f"; 3.5: `{self.spark_35}`" if self.spark_35 else "")
        portable = f"`{_short(self.portable)}`"
        if self.portable_spark:
            portable += f"; on Spark `{_short(self.portable_spark)}`"
        cells = (self.name, f"`{_short(self.sql)}`", f"`{self.duckdb}`", spark, portable, f"`{self.answer}`")
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def told_by(self, version: str) -> str:
        """Return what a version of Spark gives."""
        return self.spark_35 if self.spark_35 and version.startswith("3.") else self.spark


def shown(rows: Sequence[Sequence[Any]]) -> str:
    """Return the first column of rows as text, the same for the same value whatever an engine calls it."""
    values = [_value(row[0]) for row in rows]
    return values[0] if len(values) == 1 else ", ".join(values)


def answer(ask: Callable[[str], Sequence[Sequence[Any]]], sql: str) -> str:
    """Return what an engine says to a query."""
    try:
        return shown(ask(sql))
    except Exception:  # noqa: BLE001 - every engine has errors of its own
        return ERROR


def _short(sql: str) -> str:
    return sql.removeprefix("SELECT ")


def _value(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case float():
            return str(value).lower() if math.isfinite(value) else str(value)
        case Decimal():
            return f"{value} (decimal)"
        case datetime():
            return (
                value.isoformat(sep=" ")
                if value.tzinfo is None
                else f"{value.astimezone(UTC).replace(tzinfo=None)} with zone"
            )
        case date():
            return value.isoformat()
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case str():
            return f"'{value}'"
        case _:
            return str(value)


DIFFERENCES: Final = (
    Difference(
        "Numbers",
        "integer division",
        "SELECT 7 // 2",
        duckdb="3",
        spark="error",
        portable="SELECT CAST(floor(7 / 2) AS BIGINT)",
        answer="3",
    ),
    Difference(
        "Numbers",
        "division by zero",
        "SELECT 1 / 0",
        duckdb="inf",
        spark="error",
        spark_35="NULL",
        portable="SELECT 1 / nullif(0, 0)",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "remainder by zero",
        "SELECT 1 % 0",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT 1 % nullif(0, 0)",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "double division by zero",
        "SELECT CAST(1 AS DOUBLE) / 0",
        duckdb="inf",
        spark="error",
        spark_35="NULL",
        portable="SELECT CAST(1 AS DOUBLE) / nullif(0, 0)",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "overflow of integers",
        "SELECT CAST(2147483647 AS INTEGER) + CAST(1 AS INTEGER)",
        duckdb="error",
        spark="error",
        spark_35="-2147483648",
        portable="SELECT CAST(2147483647 AS BIGINT) + 1",
        answer="2147483648",
    ),
    Difference(
        "Numbers",
        "overflow of bigints",
        "SELECT CAST(9223372036854775807 AS BIGINT) + CAST(1 AS BIGINT)",
        duckdb="error",
        spark="error",
        spark_35="-9223372036854775808",
        portable="SELECT CAST(9223372036854775807 AS DECIMAL(38, 0)) + 1",
        answer="9223372036854775808 (decimal)",
    ),
    Difference(
        "Numbers",
        "sum of bigints",
        "SELECT sum(x) FROM (VALUES (CAST(9223372036854775807 AS BIGINT)), (CAST(1 AS BIGINT))) AS t(x)",
        duckdb="9223372036854775808",
        spark="error",
        spark_35="-9223372036854775808",
        portable="SELECT CAST(sum(CAST(x AS DECIMAL(28, 0))) AS STRING) FROM (VALUES (CAST(9223372036854775807 AS BIGINT)), (CAST(1 AS BIGINT))) AS t(x)",
        answer="'9223372036854775808'",
    ),
    Difference(
        "Numbers",
        "absolute value of the least number",
        "SELECT abs(CAST(-2147483648 AS INTEGER))",
        duckdb="error",
        spark="error",
        spark_35="-2147483648",
        portable="SELECT abs(CAST(-2147483648 AS BIGINT))",
        answer="2147483648",
    ),
    Difference(
        "Numbers",
        "average of decimals",
        "SELECT avg(x) FROM (VALUES (1.10), (1.15)) AS t(x)",
        duckdb="1.125",
        spark="1.125000 (decimal)",
        portable="SELECT avg(CAST(x AS DOUBLE)) FROM (VALUES (1.10), (1.15)) AS t(x)",
        answer="1.125",
    ),
    Difference(
        "Numbers",
        "division of decimals",
        "SELECT CAST(1 AS DECIMAL(10, 2)) / 3",
        duckdb="0.3333333333333333",
        spark="0.333333 (decimal)",
        portable="SELECT CAST(1 AS DOUBLE) / 3",
        answer="0.3333333333333333",
    ),
    Difference(
        "Numbers",
        "overflow of decimals",
        "SELECT CAST(99999999999999999999999999999999999999 AS DECIMAL(38, 0)) * 10",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT CAST(99999999999999999999999999999999999999 AS DOUBLE) * 10",
        answer="1e+39",
    ),
    Difference(
        "Numbers",
        "decimal that is too narrow",
        "SELECT CAST(123.45 AS DECIMAL(4, 2))",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT TRY_CAST(123.45 AS DECIMAL(4, 2))",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "product of decimals with many digits",
        "SELECT CAST(1.1 AS DECIMAL(38, 10)) * CAST(1.1 AS DECIMAL(38, 10))",
        duckdb="1.21000000000000000000 (decimal)",
        spark="1.210000 (decimal)",
        portable="SELECT CAST(1.1 AS DECIMAL(18, 4)) * CAST(1.1 AS DECIMAL(18, 4))",
        answer="1.21000000 (decimal)",
    ),
    Difference(
        "Numbers",
        "broken number to integer",
        "SELECT CAST(2.5 AS INTEGER)",
        duckdb="3",
        spark="2",
        portable="SELECT CAST(floor(2.5) AS INTEGER)",
        answer="2",
    ),
    Difference(
        "Numbers",
        "broken text to integer",
        "SELECT CAST('1.5' AS INTEGER)",
        duckdb="2",
        spark="error",
        spark_35="1",
        portable="SELECT CAST(floor(CAST('1.5' AS DOUBLE)) AS INTEGER)",
        answer="1",
    ),
    Difference(
        "Numbers",
        "text that is no number",
        "SELECT CAST('x' AS INTEGER)",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT TRY_CAST('x' AS INTEGER)",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "number against text",
        "SELECT 1 = 'x'",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT 1 = TRY_CAST('x' AS INTEGER)",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "double as text",
        "SELECT CAST(CAST(1e20 AS DOUBLE) AS STRING)",
        duckdb="'1e+20'",
        spark="'1.0E20'",
        portable="SELECT CAST(CAST(CAST(1e20 AS DOUBLE) AS DECIMAL(38, 0)) AS STRING)",
        answer="'100000000000000000000'",
    ),
    Difference(
        "Numbers",
        "logarithm",
        "SELECT log(100)",
        duckdb="2.0",
        spark="4.605170185988092",
        portable="SELECT log10(100)",
        answer="2.0",
    ),
    Difference(
        "Numbers",
        "ln of zero",
        "SELECT ln(0)",
        duckdb="-inf",
        spark="NULL",
        portable="SELECT ln(nullif(0, 0))",
        answer="NULL",
    ),
    Difference(
        "Numbers",
        "power",
        "SELECT 2 ^ 3",
        duckdb="8.0",
        spark="1",
        portable="SELECT power(2, 3)",
        answer="8.0",
    ),
    Difference(
        "Nulls",
        "order of nulls",
        "SELECT x FROM (VALUES (2), (NULL), (1)) AS t(x) ORDER BY x",
        duckdb="1, 2, NULL",
        spark="NULL, 1, 2",
        portable="SELECT x FROM (VALUES (2), (NULL), (1)) AS t(x) ORDER BY x NULLS LAST",
        answer="1, 2, NULL",
    ),
    Difference(
        "Nulls",
        "null in concat",
        "SELECT concat('a', NULL)",
        duckdb="'a'",
        spark="NULL",
        portable="SELECT concat('a', coalesce(NULL, ''))",
        answer="'a'",
    ),
    Difference(
        "Nulls",
        "nulls in lists",
        "SELECT array_agg(x) FROM (VALUES (2), (NULL), (1)) AS t(x) WHERE x IS NULL",
        duckdb="[NULL]",
        spark="[]",
        portable="SELECT array_agg(x) FROM (VALUES (2), (NULL), (1)) AS t(x) WHERE x = 1",
        answer="[1]",
    ),
    Difference(
        "Nulls",
        "any_value of nulls",
        "SELECT any_value(x) FROM (VALUES (CAST(NULL AS INTEGER)), (1)) AS t(x)",
        duckdb="1",
        spark="NULL",
        portable="SELECT max(x) FROM (VALUES (CAST(NULL AS INTEGER)), (1)) AS t(x)",
        answer="1",
    ),
    Difference(
        "Nulls",
        "max_by of a null",
        "SELECT max_by(x, y) FROM (VALUES (1, 1), (NULL, 2)) AS t(x, y)",
        duckdb="1",
        spark="NULL",
        portable="SELECT x FROM (SELECT x, row_number() OVER (ORDER BY y DESC) AS place FROM (VALUES (1, 1), (NULL, 2)) AS t(x, y)) AS r WHERE place = 1",
        answer="NULL",
    ),
    Difference(
        "Aggregates",
        "ties of max_by",
        "SELECT max_by(x, y) FROM (VALUES (1, 1), (2, 1)) AS t(x, y)",
        duckdb="1",
        spark="2",
        portable="SELECT x FROM (SELECT x, row_number() OVER (ORDER BY y DESC, x DESC) AS place FROM (VALUES (1, 1), (2, 1)) AS t(x, y)) AS r WHERE place = 1",
        answer="2",
    ),
    Difference(
        "Aggregates",
        "name of arg_max",
        "SELECT arg_max(x, y) FROM (VALUES (1, 1), (2, 2)) AS t(x, y)",
        duckdb="2",
        spark="error",
        portable="SELECT max_by(x, y) FROM (VALUES (1, 1), (2, 2)) AS t(x, y)",
        answer="2",
    ),
    Difference(
        "Aggregates",
        "rows as a tie-break",
        "SELECT max_by(x, row(y, x)) FROM (VALUES (1, 1), (2, 1)) AS t(x, y)",
        duckdb="2",
        spark="error",
        portable="SELECT max_by(x, (y, x)) FROM (VALUES (1, 1), (2, 1)) AS t(x, y)",
        answer="2",
    ),
    Difference(
        "Aggregates",
        "quantiles",
        "SELECT quantile_cont(x, 0.5) FROM (VALUES (1), (2)) AS t(x)",
        duckdb="1.5",
        spark="error",
        portable="SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM (VALUES (1), (2)) AS t(x)",
        answer="1.5",
    ),
    Difference(
        "Aggregates",
        "string_agg",
        "SELECT string_agg(x, ',') FROM (VALUES ('a')) AS t(x)",
        duckdb="'a'",
        spark="'a'",
        spark_35="error",
        portable="SELECT array_to_string(array_agg(x), ',') FROM (VALUES ('a')) AS t(x)",
        portable_spark="SELECT array_join(array_agg(x), ',') FROM (VALUES ('a')) AS t(x)",
        answer="'a'",
    ),
    Difference(
        "Aggregates",
        "qualify",
        "SELECT x FROM (VALUES (1), (2)) AS t(x) QUALIFY row_number() OVER (ORDER BY x) = 1",
        duckdb="1",
        spark="error",
        portable="SELECT x FROM (SELECT x, row_number() OVER (ORDER BY x) AS place FROM (VALUES (1), (2)) AS t(x)) AS r WHERE place = 1",
        answer="1",
    ),
    Difference(
        "Texts",
        "substring from 0",
        "SELECT substr('abc', 0, 2)",
        duckdb="'a'",
        spark="'ab'",
        portable="SELECT substr('abc', 1, 2)",
        answer="'ab'",
    ),
    Difference(
        "Texts",
        "upper of sharp s",
        "SELECT upper('ß')",
        duckdb="'ẞ'",
        spark="'SS'",
        portable="SELECT upper('s')",
        answer="'S'",
    ),
    Difference(
        "Texts",
        "lower of dotted i",
        "SELECT length(lower('İ'))",
        duckdb="1",
        spark="2",
        portable="SELECT length(lower('I'))",
        answer="1",
    ),
    Difference(
        "Texts",
        "split",
        "SELECT split('a.b', '.')",
        duckdb="['a', 'b']",
        spark="['', '', '', '']",
        portable="SELECT split_part('a.b', '.', 2)",
        answer="'b'",
    ),
    Difference(
        "Texts",
        "backslash in literals",
        "SELECT length('a\\nb')",
        duckdb="4",
        spark="3",
        portable="SELECT length('a' || chr(10) || 'b')",
        answer="3",
    ),
    Difference(
        "Texts",
        "double quotes",
        'SELECT "x" FROM (VALUES (1)) AS t(x)',
        duckdb="1",
        spark="'x'",
        portable="SELECT x FROM (VALUES (1)) AS t(x)",
        answer="1",
    ),
    Difference(
        "Texts",
        "like escape",
        "SELECT 'a_b' LIKE 'a\\_b'",
        duckdb="false",
        spark="true",
        portable="SELECT 'a_b' LIKE 'a!_b' ESCAPE '!'",
        answer="true",
    ),
    Difference(
        "Texts",
        "strpos",
        "SELECT strpos('abc', 'c')",
        duckdb="3",
        spark="error",
        portable="SELECT position('c' IN 'abc')",
        answer="3",
    ),
    Difference(
        "Texts",
        "regexp_replace",
        "SELECT regexp_replace('aXbX', 'X', '-')",
        duckdb="'a-bX'",
        spark="'a-b-'",
        portable="SELECT regexp_replace('aXbX', 'X', '-', 'g')",
        portable_spark="SELECT regexp_replace('aXbX', 'X', '-')",
        answer="'a-b-'",
    ),
    Difference(
        "Texts",
        "regexp_extract",
        "SELECT regexp_extract('a1', '[0-9]')",
        duckdb="'1'",
        spark="error",
        portable="SELECT regexp_extract('a1', '([0-9])', 1)",
        answer="'1'",
    ),
    Difference(
        "Texts",
        "regexp_matches",
        "SELECT regexp_matches('a1', '[0-9]')",
        duckdb="true",
        spark="error",
        portable="SELECT regexp_matches('a1', '[0-9]')",
        portable_spark="SELECT regexp_like('a1', '[0-9]')",
        answer="true",
    ),
    Difference(
        "Texts",
        "look-ahead",
        "SELECT regexp_extract('ab', 'a(?=b)', 0)",
        duckdb="error",
        spark="'a'",
        portable="SELECT regexp_extract('ab', '(a)b', 1)",
        answer="'a'",
    ),
    Difference(
        "Texts",
        "groups in a replacement",
        "SELECT regexp_replace('ab', '(a)', '\\1\\1')",
        duckdb="'aab'",
        spark="'11b'",
        portable="SELECT replace('ab', 'a', 'aa')",
        answer="'aab'",
    ),
    Difference(
        "Texts",
        "text to boolean",
        "SELECT CAST('on' AS BOOLEAN)",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT 'on' IN ('true', 'on')",
        answer="true",
    ),
    Difference(
        "Texts",
        "hash",
        "SELECT hash('a')",
        duckdb="12561829011207016135",
        spark="1485273170",
        portable="SELECT md5('a')",
        answer="'0cc175b9c0f1b6a831c399e269772661'",
    ),
    Difference(
        "JSON",
        "a text in JSON",
        "SELECT json_extract_string('{\"a\":\"x\"}', '$.a')",
        duckdb="'x'",
        spark="error",
        portable="SELECT json_extract_string('{\"a\":\"x\"}', '$.a')",
        portable_spark="SELECT get_json_object('{\"a\":\"x\"}', '$.a')",
        answer="'x'",
    ),
    Difference(
        "JSON",
        "arrows into JSON",
        "SELECT '{\"a\":\"x\"}' ->> '$.a'",
        duckdb="'x'",
        spark="error",
        portable="SELECT json_extract_string('{\"a\":\"x\"}', '$.a')",
        portable_spark="SELECT get_json_object('{\"a\":\"x\"}', '$.a')",
        answer="'x'",
    ),
    Difference(
        "JSON",
        "JSON that is malformed",
        "SELECT json_extract_string('{\"a\":', '$.a')",
        duckdb="error",
        spark="error",
        portable="SELECT CASE WHEN json_valid('{\"a\":') THEN json_extract_string('{\"a\":', '$.a') END",
        portable_spark="SELECT get_json_object('{\"a\":', '$.a')",
        answer="NULL",
    ),
    Difference(
        "Times",
        "date_diff",
        "SELECT date_diff('day', TIMESTAMP '2026-01-01 23:00:00', TIMESTAMP '2026-01-02 01:00:00')",
        duckdb="1",
        spark="error",
        portable="SELECT date_diff('day', CAST(TIMESTAMP '2026-01-01 23:00:00' AS DATE), CAST(TIMESTAMP '2026-01-02 01:00:00' AS DATE))",
        portable_spark="SELECT datediff(CAST(TIMESTAMP '2026-01-02 01:00:00' AS DATE), CAST(TIMESTAMP '2026-01-01 23:00:00' AS DATE))",
        answer="1",
    ),
    Difference(
        "Times",
        "hours between",
        "SELECT date_diff('hour', TIMESTAMP '2026-01-01 23:59:00', TIMESTAMP '2026-01-02 00:01:00')",
        duckdb="1",
        spark="error",
        portable="SELECT (epoch_us(TIMESTAMP '2026-01-02 00:01:00') - epoch_us(TIMESTAMP '2026-01-01 23:59:00')) // 3600000000",
        portable_spark="SELECT timestampdiff(HOUR, TIMESTAMP '2026-01-01 23:59:00', TIMESTAMP '2026-01-02 00:01:00')",
        answer="0",
    ),
    Difference(
        "Times",
        "date minus date",
        "SELECT CAST(DATE '2026-01-02' - DATE '2026-01-01' AS STRING)",
        duckdb="'1'",
        spark="'INTERVAL '1' DAY'",
        portable="SELECT date_diff('day', DATE '2026-01-01', DATE '2026-01-02')",
        portable_spark="SELECT datediff(DATE '2026-01-02', DATE '2026-01-01')",
        answer="1",
    ),
    Difference(
        "Times",
        "epoch",
        "SELECT epoch(TIMESTAMP '2026-01-01 00:00:00.5')",
        duckdb="1767225600.5",
        spark="error",
        portable="SELECT epoch_us(TIMESTAMP '2026-01-01 00:00:00.5')",
        portable_spark="SELECT unix_micros(TIMESTAMP '2026-01-01 00:00:00.5')",
        answer="1767225600500000",
    ),
    Difference(
        "Times",
        "epoch_ms",
        "SELECT epoch_ms(TIMESTAMP '2025-12-31 23:59:59.999999')",
        duckdb="1767225600000",
        spark="error",
        portable="SELECT epoch_us(TIMESTAMP '2025-12-31 23:59:59.999999') // 1000",
        portable_spark="SELECT unix_micros(TIMESTAMP '2025-12-31 23:59:59.999999') div 1000",
        answer="1767225599999",
    ),
    Difference(
        "Times",
        "time with an offset",
        "SELECT CAST(CAST('2026-01-01T12:00:00+02:00' AS TIMESTAMP) AS STRING)",
        duckdb="'2026-01-01 12:00:00'",
        spark="'2026-01-01 10:00:00'",
        portable="SELECT epoch_us(CAST('2026-01-01T12:00:00+02:00' AS TIMESTAMPTZ))",
        portable_spark="SELECT unix_micros(CAST('2026-01-01T12:00:00+02:00' AS TIMESTAMP))",
        answer="1767261600000000",
    ),
    Difference(
        "Times",
        "type with a zone",
        "SELECT extract(HOUR FROM CAST('2026-01-01T12:00:00+02:00' AS TIMESTAMPTZ))",
        duckdb="10",
        spark="error",
        portable="SELECT extract(HOUR FROM CAST('2026-01-01T12:00:00+02:00' AS TIMESTAMPTZ))",
        portable_spark="SELECT extract(HOUR FROM CAST('2026-01-01T12:00:00+02:00' AS TIMESTAMP))",
        answer="10",
    ),
    Difference(
        "Times",
        "invalid date",
        "SELECT CAST('2026-02-30' AS DATE)",
        duckdb="error",
        spark="error",
        spark_35="NULL",
        portable="SELECT TRY_CAST('2026-02-30' AS DATE)",
        answer="NULL",
    ),
    Difference(
        "Times",
        "part of a date",
        "SELECT CAST('2026' AS DATE)",
        duckdb="error",
        spark="2026-01-01",
        portable="SELECT CAST('2026-01-01' AS DATE)",
        answer="2026-01-01",
    ),
    Difference(
        "Times",
        "dayofweek",
        "SELECT dayofweek(DATE '2026-01-04')",
        duckdb="0",
        spark="1",
        portable="SELECT isodow(DATE '2026-01-04')",
        portable_spark="SELECT extract(DAYOFWEEK_ISO FROM DATE '2026-01-04')",
        answer="7",
    ),
    Difference(
        "Times",
        "weekday",
        "SELECT weekday(DATE '2026-01-04')",
        duckdb="0",
        spark="6",
        portable="SELECT isodow(DATE '2026-01-04')",
        portable_spark="SELECT weekday(DATE '2026-01-04') + 1",
        answer="7",
    ),
    Difference(
        "Times",
        "month later",
        "SELECT CAST(DATE '2026-01-31' + INTERVAL 1 MONTH AS STRING)",
        duckdb="'2026-02-28 00:00:00'",
        spark="'2026-02-28'",
        portable="SELECT CAST(CAST(DATE '2026-01-31' + INTERVAL 1 MONTH AS DATE) AS STRING)",
        answer="'2026-02-28'",
    ),
    Difference(
        "Times",
        "at time zone",
        "SELECT CAST(TIMESTAMP '2026-07-01 12:00:00' AT TIME ZONE 'UTC' AT TIME ZONE 'Europe/Berlin' AS STRING)",
        duckdb="'2026-07-01 14:00:00'",
        spark="error",
        portable="SELECT CAST(timezone('Europe/Berlin', CAST('2026-07-01T12:00:00Z' AS TIMESTAMPTZ)) AS STRING)",
        portable_spark="SELECT CAST(from_utc_timestamp(CAST('2026-07-01T12:00:00Z' AS TIMESTAMP), 'Europe/Berlin') AS STRING)",
        answer="'2026-07-01 14:00:00'",
    ),
    Difference(
        "Times",
        "format of times",
        "SELECT strftime(TIMESTAMP '2026-01-01 00:00:00', '%Y-%m')",
        duckdb="'2026-01'",
        spark="error",
        portable="SELECT strftime(TIMESTAMP '2026-01-01 00:00:00', '%Y-%m')",
        portable_spark="SELECT date_format(TIMESTAMP '2026-01-01 00:00:00', 'yyyy-MM')",
        answer="'2026-01'",
    ),
    Difference(
        "Times",
        "seconds with a fraction",
        "SELECT extract(SECOND FROM TIMESTAMP '2026-01-01 00:00:01.5')",
        duckdb="1",
        spark="1.500000 (decimal)",
        portable="SELECT CAST(floor(extract(SECOND FROM TIMESTAMP '2026-01-01 00:00:01.5')) AS BIGINT)",
        answer="1",
    ),
    Difference(
        "Spelling",
        "type of texts",
        "SELECT CAST(1 AS VARCHAR)",
        duckdb="'1'",
        spark="error",
        portable="SELECT CAST(1 AS STRING)",
        answer="'1'",
    ),
    Difference(
        "Spelling",
        "cast by colons",
        "SELECT '1'::INTEGER",
        duckdb="1",
        spark="1",
        spark_35="error",
        portable="SELECT CAST('1' AS INTEGER)",
        answer="1",
    ),
    Difference(
        "Spelling",
        "without a column",
        "SELECT * EXCLUDE (y) FROM (VALUES (1, 2)) AS t(x, y)",
        duckdb="1",
        spark="error",
        portable="SELECT x FROM (VALUES (1, 2)) AS t(x, y)",
        answer="1",
    ),
    Difference(
        "Spelling",
        "from first",
        "FROM (VALUES (1)) AS t(x)",
        duckdb="1",
        spark="1",
        spark_35="error",
        portable="SELECT * FROM (VALUES (1)) AS t(x)",
        answer="1",
    ),
    Difference(
        "Spelling",
        "place in a list",
        "SELECT array_agg(x)[1] FROM (VALUES (7)) AS t(x)",
        duckdb="7",
        spark="error",
        spark_35="NULL",
        portable="SELECT list_extract(array_agg(x), 1) FROM (VALUES (7)) AS t(x)",
        portable_spark="SELECT element_at(array_agg(x), 1) FROM (VALUES (7)) AS t(x)",
        answer="7",
    ),
    Difference(
        "Spelling",
        "behind a list",
        "SELECT array_agg(x)[5] FROM (VALUES (7)) AS t(x)",
        duckdb="NULL",
        spark="error",
        spark_35="NULL",
        portable="SELECT list_extract(array_agg(x), 5) FROM (VALUES (7)) AS t(x)",
        portable_spark="SELECT try_element_at(array_agg(x), 5) FROM (VALUES (7)) AS t(x)",
        answer="NULL",
    ),
    Difference(
        "Spelling",
        "unnest",
        "SELECT unnest(array_agg(x)) FROM (VALUES (1)) AS t(x)",
        duckdb="1",
        spark="error",
        portable="SELECT unnest(array_agg(x)) FROM (VALUES (1)) AS t(x)",
        portable_spark="SELECT explode(array_agg(x)) FROM (VALUES (1)) AS t(x)",
        answer="1",
    ),
    Difference(
        "Spelling",
        "list literal",
        "SELECT [1, 2]",
        duckdb="[1, 2]",
        spark="error",
        portable="SELECT list_value(1, 2)",
        portable_spark="SELECT array(1, 2)",
        answer="[1, 2]",
    ),
    Difference(
        "Spelling",
        "struct literal",
        "SELECT {'a': 1}.a",
        duckdb="1",
        spark="error",
        portable="SELECT struct_pack(a := 1).a",
        portable_spark="SELECT named_struct('a', 1).a",
        answer="1",
    ),
)
