-- A group of each row.
-- reads: clicks
-- key: user_id, ts
SELECT user_id, ts, COUNT(*) AS clicks, SUM(amount) AS total
FROM clicks
GROUP BY user_id, ts
