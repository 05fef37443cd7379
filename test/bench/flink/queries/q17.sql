-- Per auction and day, how many bids there were, and their prices. AVG of integers is an integer here.
-- reads: bid
-- key: auction, day
-- compare: auction, day, bids, bids_low, bids_middle, bids_high, lowest, highest, trunc(average), total
SELECT auction, CAST(date_time AS DATE) AS `day`,
       COUNT(*) AS bids,
       COUNT(*) FILTER (WHERE price < 10000) AS bids_low,
       COUNT(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS bids_middle,
       COUNT(*) FILTER (WHERE price >= 1000000) AS bids_high,
       MIN(price) AS lowest, MAX(price) AS highest, AVG(price) AS average, SUM(price) AS total
FROM bid
GROUP BY auction, CAST(date_time AS DATE)
