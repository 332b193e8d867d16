-- What each known user did, from the tables that a warehouse has.
SELECT
    users.id AS user_id,
    users.plan,
    users.email,
    (SELECT count(*) FROM {{ source('shop', 'identifies') }} AS calls WHERE calls.user_id = users.id) AS identifies,
    (SELECT count(*) FROM {{ source('shop', 'tracks') }} AS calls WHERE calls.user_id = users.id) AS tracks,
    (SELECT count(DISTINCT context_page_path) FROM {{ source('shop', 'pages') }} AS calls
        WHERE calls.user_id = users.id) AS paths
FROM {{ source('shop', 'users') }} AS users
