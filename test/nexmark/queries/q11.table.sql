-- Sessions over a table: rows with their gaps, then the islands between them.
SELECT bidder, min(date_time) AS window_start, max(date_time) + interval '10 s' AS window_end, count(*) AS bids
FROM (SELECT bidder, date_time, count(*) FILTER (WHERE first) OVER (PARTITION BY bidder ORDER BY date_time) AS session
      FROM (SELECT bidder, date_time,
                   date_time - lag(date_time) OVER (PARTITION BY bidder ORDER BY date_time) >= interval '10 s' AS first
            FROM bid) AS gaps) AS islands
GROUP BY bidder, session
