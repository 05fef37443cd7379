SELECT user_id, ts, count(*) AS clicks, sum(amount) AS total
FROM clicks
GROUP BY user_id, ts
