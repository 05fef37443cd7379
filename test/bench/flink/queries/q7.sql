-- The highest bids of each ten seconds.
-- reads: bid
SELECT b.window_start, b.window_end, b.auction, b.bidder, b.price, b.date_time, b.extra
FROM (SELECT * FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))) AS b
JOIN (SELECT window_start, window_end, MAX(price) AS highest
      FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
      GROUP BY window_start, window_end) AS m
  ON m.window_start = b.window_start AND m.window_end = b.window_end AND m.highest = b.price
