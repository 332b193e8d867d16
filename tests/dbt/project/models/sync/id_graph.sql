{{ config(unique_key='segment_id') }}

-- The last row of each id. Rows that lead to an id which is known to be part of another are passed over.
WITH ranked AS (
    SELECT
        news.*,
        row_number() OVER (PARTITION BY news.segment_id ORDER BY coalesce(news.seq, '0') DESC) AS place
    FROM {{ source('identified_events', 'id_graph_updates') }} AS news
    {% if is_incremental() %}
    LEFT JOIN {{ this }} AS held
        ON held.segment_id = news.canonical_segment_id AND held.canonical_segment_id <> held.segment_id
    WHERE news.uuid_ts > (SELECT max(uuid_ts) FROM {{ this }}) AND held.segment_id IS NULL
    {% endif %}
)

SELECT segment_id, canonical_segment_id, uuid_ts, now() AS etl_ts, timestamp, seq
FROM ranked
WHERE place = 1
