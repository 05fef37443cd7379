-- emit: final
SELECT window_start, url, count(*) AS clicks, sum(amount) AS total
FROM visits, stream_ckpt.tumble(ts, '1 minute')
GROUP BY window_start, url
