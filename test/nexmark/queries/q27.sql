-- Auctions with fewer than twenty bids.
SELECT id, item_name
FROM auction
WHERE id NOT IN (SELECT auction FROM bid GROUP BY auction HAVING count(*) >= 20)
