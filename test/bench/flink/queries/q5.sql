-- The auctions with the most bids in the last ten seconds, every two seconds.
-- reads: bid
SELECT c.window_start, c.window_end, c.auction, c.bids
FROM (SELECT window_start, window_end, auction, COUNT(*) AS bids
      FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
      GROUP BY window_start, window_end, auction) AS c
JOIN (SELECT window_start, window_end, MAX(bids) AS most
      FROM (SELECT window_start, window_end, auction, COUNT(*) AS bids
            FROM TABLE(HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))
            GROUP BY window_start, window_end, auction)
      GROUP BY window_start, window_end) AS m
  ON m.window_start = c.window_start AND m.window_end = c.window_end AND m.most = c.bids
