-- Bids with their auction, of one category.
-- reads: auction bid
SELECT b.auction, b.bidder, b.price, b.channel, b.url, b.date_time AS bid_at,
       a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS opened, a.expires, a.seller, a.category
FROM bid b JOIN auction a ON a.id = b.auction
WHERE a.category = 10
