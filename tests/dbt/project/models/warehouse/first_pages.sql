-- How each person of today first came, whoever they were taken for at the time.
SELECT
    graph.canonical_segment_id,
    min_by(pages.name, pages.received_at) AS first_page,
    count(*) AS pages
FROM {{ source('identified_events', 'pages') }} AS pages
JOIN {{ ref('id_graph') }} AS graph ON graph.segment_id = pages.segment_id
GROUP BY ALL
