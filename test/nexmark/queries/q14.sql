-- Expressions: prices in a range, the time of the day, letters counted by a function.
SELECT auction, bidder, price * 0.908 AS price,
       CASE WHEN extract(hour FROM date_time AT TIME ZONE 'UTC') BETWEEN 8 AND 18 THEN 'day'
            WHEN extract(hour FROM date_time AT TIME ZONE 'UTC') <= 6 OR extract(hour FROM date_time AT TIME ZONE 'UTC') >= 20 THEN 'night'
            ELSE 'other' END AS time_of_day,
       date_time, extra, count_char(extra, 'c') AS c_counts
FROM bid
WHERE price * 0.908 > 1000000 AND price * 0.908 < 50000000
