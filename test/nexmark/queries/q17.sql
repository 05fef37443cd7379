-- Per auction and day, how many bids there were, and their prices.
SELECT auction, (date_time AT TIME ZONE 'UTC')::date AS day,
       count(*) AS bids,
       count(*) FILTER (WHERE price < 10000) AS bids_low,
       count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS bids_middle,
       count(*) FILTER (WHERE price >= 1000000) AS bids_high,
       min(price) AS lowest, max(price) AS highest, avg(price) AS average, sum(price) AS total
FROM bid
GROUP BY auction, (date_time AT TIME ZONE 'UTC')::date
