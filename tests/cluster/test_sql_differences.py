"""Where the same SQL means something else on DuckDB and on Spark: Spark's side."""

import pyspark
from pyspark.sql import SparkSession

from sql_differences import DIFFERENCES, answer


def test_what_spark_gives(spark: SparkSession) -> None:
    def asked(query: str) -> str:
        return answer(lambda text: spark.sql(text).collect(), query)

    told = {one.name: (asked(one.sql), asked(one.portable_spark or one.portable)) for one in DIFFERENCES}
    assert told == {one.name: (one.told_by(pyspark.__version__), one.answer) for one in DIFFERENCES}


def test_times_come_to_python_without_a_zone(spark: SparkSession) -> None:
    (row,) = spark.sql("SELECT TIMESTAMP '2026-01-01 00:00:00' AS at").collect()
    assert row["at"].tzinfo is None
