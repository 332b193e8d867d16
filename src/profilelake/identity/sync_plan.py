"""Queries over the journals of Profiles Sync, whose tables lie in the schema that they are given."""


def sync__last_ids(schema: str) -> str:
    """What was announced last of each id."""
    return f"""
        SELECT segment_id, arg_max(canonical_segment_id, seq) AS canonical_segment_id
        FROM {schema}.id_graph_updates
        GROUP BY segment_id
    """  # noqa: S608 - a quoted name


def sync__last_mappings(schema: str) -> str:
    """What was announced last of each identifier of a person; null where nothing ever was."""
    return f"""
        WITH last AS (
            SELECT external_id_type AS type, external_id_value AS value,
                   arg_max(segment_id, seq) AS segment_id, arg_max(__operation, seq) AS operation
            FROM {schema}.external_id_mapping_updates
            GROUP BY ALL
        )
        SELECT ident_id, segment_id, operation
        FROM identifiers LEFT JOIN last USING (type, value)
        WHERE collection = 'users'
    """  # noqa: S608 - a quoted name


def sync__loaded_at(schema: str) -> str:
    """When the last rows were made, in microseconds; null where there are none."""
    return f"""
        SELECT max(epoch_us(uuid_ts)) FROM (
            SELECT max(uuid_ts) AS uuid_ts FROM {schema}.id_graph_updates
            UNION ALL
            SELECT max(uuid_ts) FROM {schema}.external_id_mapping_updates
        )
    """  # noqa: S608 - a quoted name
