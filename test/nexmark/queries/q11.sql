-- How many bids each bidder makes without a pause of ten seconds.
-- emit: final
SELECT bidder, window_start, window_end, count(*) AS bids
FROM bid, stream_ckpt.session(date_time, '10 s')
GROUP BY bidder, window_start, window_end
