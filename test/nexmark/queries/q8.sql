-- Persons who registered and opened an auction in the same ten seconds.
-- emit: final
SELECT p.id, p.name, p.window_start, p.window_end
FROM (SELECT window_start, window_end, id, name
      FROM person, stream_ckpt.tumble(date_time, '10 s')
      GROUP BY window_start, window_end, id, name) p
JOIN (SELECT window_start, window_end, seller
      FROM auction, stream_ckpt.tumble(date_time, '10 s')
      GROUP BY window_start, window_end, seller) a
  ON a.seller = p.id AND a.window_start = p.window_start AND a.window_end = p.window_end
