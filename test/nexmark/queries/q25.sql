-- Auctions with more bids than auctions have on average.
SELECT auction, count(*) AS bids
FROM bid
GROUP BY auction
HAVING count(*) > (SELECT avg(bids) FROM (SELECT count(*) AS bids FROM bid GROUP BY auction) AS counted)
