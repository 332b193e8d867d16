"""Open Iceberg tables: register, exactly-once commit, reading, maintenance.

The only place that knows PyIceberg. One process commits to a table.
"""
