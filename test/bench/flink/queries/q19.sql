-- The ten highest bids on each auction, with their rank.
-- reads: bid
-- key: auction, place
SELECT auction, bidder, price, channel, url, date_time, extra, place
FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY auction ORDER BY price DESC, date_time) AS place
      FROM bid) AS ranked
WHERE place <= 10
