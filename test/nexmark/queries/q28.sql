-- The auctions with the most bids.
SELECT auction, count(*) AS bids
FROM bid
GROUP BY auction
ORDER BY bids DESC, auction
LIMIT 100
