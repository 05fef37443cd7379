-- Every auction with its highest bid, if there is one.
SELECT a.id, a.item_name, b.highest
FROM auction a LEFT JOIN (SELECT auction, max(price) AS highest FROM bid GROUP BY auction) b ON b.auction = a.id
