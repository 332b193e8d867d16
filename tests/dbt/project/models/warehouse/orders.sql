-- The calls of one tracked action with what was sent along.
SELECT calls.id, calls.user_id, calls.event_text, orders.order_id, orders.total, calls.received_at
FROM {{ source('shop', 'tracks') }} AS calls
JOIN {{ source('shop', 'order_completed') }} AS orders ON orders.id = calls.id
WHERE calls.event = 'order_completed'
