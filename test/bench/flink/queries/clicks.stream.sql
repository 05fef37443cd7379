SELECT date_bin('1 minute', ts, '2000-01-01') AS minute, url, count(*) AS clicks, sum(amount) AS total
FROM clicks
GROUP BY date_bin('1 minute', ts, '2000-01-01'), url
