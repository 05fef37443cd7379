-- Every bid: what it costs to pass rows on.
SELECT auction, bidder, price, date_time, extra
FROM bid
