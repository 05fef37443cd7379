-- Bids with what an ordinary table says about them.
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid b JOIN side s ON s.key = b.auction % 10000
