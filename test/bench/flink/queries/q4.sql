-- Per category, the average of what its auctions reached. AVG of integers is an integer here.
-- reads: auction bid
-- key: category
-- compare: category, trunc(average)
SELECT category, AVG(final) AS average
FROM (SELECT a.id, a.category, MAX(b.price) AS final
      FROM auction a JOIN bid b ON b.auction = a.id
      WHERE b.date_time BETWEEN a.date_time AND a.expires
      GROUP BY a.id, a.category) AS closing
GROUP BY category
