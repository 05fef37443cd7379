-- The highest bids of each ten seconds.
-- emit: final
SELECT b.window_start, b.window_end, b.auction, b.bidder, b.price, b.date_time, b.extra
FROM (SELECT window_start, window_end, auction, bidder, price, date_time, extra
      FROM bid, stream_ckpt.tumble(date_time, '10 s')) b
JOIN (SELECT window_start, window_end, max(price) AS highest
      FROM bid, stream_ckpt.tumble(date_time, '10 s')
      GROUP BY window_start, window_end) m
  ON m.window_start = b.window_start AND m.window_end = b.window_end AND m.highest = b.price
