{{ config(unique_key='canonical_segment_id', on_schema_change='append_new_columns') }}

{% set traits = trait_columns() %}

-- Of each id the last row, and of those that are one profile the last value of each trait.
-- An id that is part of another keeps a row that says so.
WITH last_rows AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY segment_id ORDER BY coalesce(seq, '0') DESC) AS place
    FROM {{ source('identified_events', 'profile_traits_updates') }}
    {% if is_incremental() %}
    WHERE seq > (SELECT max(seq) FROM {{ this }})
    {% endif %}
),

folded AS (
    SELECT
        coalesce(graph.canonical_segment_id, last_rows.segment_id) AS canonical_segment_id,
        {% for trait in traits %}
        arg_max(last_rows.{{ trait }}, last_rows.seq) AS {{ trait }},
        {% endfor %}
        max(last_rows.seq) AS seq
    FROM last_rows
    LEFT JOIN {{ ref('id_graph') }} AS graph ON graph.segment_id = last_rows.segment_id
    WHERE place = 1
    GROUP BY ALL
),

ids AS (
    SELECT
        segment_id AS canonical_segment_id,
        CASE WHEN segment_id <> canonical_segment_id THEN canonical_segment_id END AS merged_to
    FROM {{ ref('id_graph') }}
)

SELECT
    ids.canonical_segment_id,
    ids.merged_to,
    {% for trait in traits %}
    {% if is_incremental() %}
    CASE WHEN ids.merged_to IS NULL THEN coalesce(folded.{{ trait }}, held.{{ trait }}) END AS {{ trait }},
    {% else %}
    CASE WHEN ids.merged_to IS NULL THEN folded.{{ trait }} END AS {{ trait }},
    {% endif %}
    {% endfor %}
    folded.seq
FROM ids
LEFT JOIN folded USING (canonical_segment_id)
{% if is_incremental() %}
LEFT JOIN {{ this }} AS held USING (canonical_segment_id)
{% endif %}
