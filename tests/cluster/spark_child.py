"""A Spark session in a process of its own: it takes statements as lines of JSON and answers with rows.

So the session has the JARs and catalogs that a user's has, whatever else the test process runs. It is also
run with other versions of Spark than the one the tests are run with.
"""

import datetime
import decimal
import json
import os
import sys
from typing import Any

from pyspark.sql import SparkSession

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def plain(value: Any) -> Any:
    """Return a value as any engine gives it in one form: times in microseconds, bytes as hex, rows as lists."""
    if isinstance(value, datetime.datetime):
        aware = value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value
        return (aware - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, dict):
        return [plain(part) for part in value.values()]
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def main() -> None:
    # The JVM has the same descriptors, and Spark 3.5 tells there of the packages it loads.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    builder = SparkSession.builder.master("local[2]")
    for name, text in json.loads(sys.stdin.readline()).items():
        builder = builder.config(name, text)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")

    def say(document: object) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    say({"version": spark.version})
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, dict):
            # A session of its own, with catalogs of its own, in the same JVM.
            spark = spark.newSession()
            for name, text in asked.items():
                spark.conf.set(name, text)
            say({"columns": [], "rows": []})
            continue
        try:
            found = spark.sql(asked)
            # Timestamps as numbers: a driver would give them in the zone of this machine.
            columns = [
                f"unix_micros(`{field.name}`) AS `{field.name}`"
                if field.dataType.simpleString() == "timestamp"
                else f"`{field.name}`"
                for field in found.schema
            ]
            rows = [[plain(value) for value in row] for row in found.selectExpr(*columns).collect()]
            say({"columns": found.columns, "rows": rows})
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
            say({"error": f"{type(error).__name__}: {error}"[:4_000]})
    spark.stop()


if __name__ == "__main__":
    main()
