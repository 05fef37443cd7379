-- Bids per bidder in each ten seconds of the time at which they arrived.
SELECT bidder, window_start, window_end, count(*) AS bids
FROM bid, stream_ckpt.tumble(arrived, '10 s')
GROUP BY bidder, window_start, window_end
