-- Bids with who made them and what they are for.
SELECT b.auction, b.bidder, b.price, b.channel, b.date_time AS bid_at,
       p.name, p.email_address, p.city, p.state,
       a.item_name, a.seller, a.category, a.reserve
FROM bid b JOIN person p ON p.id = b.bidder JOIN auction a ON a.id = b.auction
