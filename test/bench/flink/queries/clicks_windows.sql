-- The same as windows, each written once, when it closes.
-- reads: visits
SELECT window_start, url, COUNT(*) AS clicks, SUM(amount) AS total
FROM TABLE(TUMBLE(TABLE visits, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, url
