-- The auctions with the most bids in the last ten seconds, every two seconds.
-- emit: final
WITH counted AS (
    SELECT window_start, window_end, auction, count(*) AS bids
    FROM bid, stream_ckpt.hop(date_time, '2 s', '10 s')
    GROUP BY window_start, window_end, auction)
SELECT c.window_start, c.window_end, c.auction, c.bids
FROM counted c
JOIN (SELECT window_start, window_end, max(bids) AS most FROM counted GROUP BY window_start, window_end) m
  ON m.window_start = c.window_start AND m.window_end = c.window_end AND m.most = c.bids
