{{ config(unique_key='external_id_hash') }}

-- The latest row of each identifier, new ones and those whose id leads elsewhere now.
WITH ranked AS (
    SELECT
        coalesce(graph.canonical_segment_id, news.segment_id) AS canonical_segment_id,
        news.external_id_type,
        news.external_id_value,
        news.external_id_hash,
        news.timestamp,
        news.uuid_ts,
        row_number() OVER (PARTITION BY news.external_id_hash ORDER BY news.timestamp DESC) AS place
    FROM {{ source('identified_events', 'external_id_mapping_updates') }} AS news
    LEFT JOIN {{ ref('id_graph') }} AS graph
        ON graph.segment_id = news.segment_id
        {% if is_incremental() %}
        AND graph.etl_ts >= (SELECT max(etl_ts) FROM {{ ref('id_graph') }}) - INTERVAL {{ var('overlap_hours') }} HOUR
    WHERE news.uuid_ts > (SELECT max(uuid_ts) FROM {{ this }}) OR graph.canonical_segment_id IS NOT NULL
        {% endif %}
)

SELECT * EXCLUDE (place)
FROM ranked
WHERE place = 1
