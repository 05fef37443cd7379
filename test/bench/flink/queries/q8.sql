-- Persons who registered and opened an auction in the same ten seconds.
-- reads: person auction
SELECT p.id, p.name, p.window_start, p.window_end
FROM (SELECT window_start, window_end, id, name
      FROM TABLE(TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
      GROUP BY window_start, window_end, id, name) AS p
JOIN (SELECT window_start, window_end, seller
      FROM TABLE(TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
      GROUP BY window_start, window_end, seller) AS a
  ON a.seller = p.id AND a.window_start = p.window_start AND a.window_end = p.window_end
