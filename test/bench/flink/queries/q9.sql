-- Each auction with the bid that won it.
-- reads: auction bid
-- key: id
SELECT id, item_name, description, initial_bid, reserve, opened, expires, seller, category, bidder, price, bid_at
FROM (SELECT a.id, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS opened, a.expires, a.seller, a.category,
             b.bidder, b.price, b.date_time AS bid_at,
             ROW_NUMBER() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
      FROM auction a JOIN bid b ON b.auction = a.id
      WHERE b.date_time BETWEEN a.date_time AND a.expires) AS won
WHERE place = 1
