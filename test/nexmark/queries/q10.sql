-- Every bid into a table partitioned by day and minute.
-- sink: results.q10
SELECT auction, bidder, price, date_time, extra,
       (date_time AT TIME ZONE 'UTC')::date AS day, to_char(date_time AT TIME ZONE 'UTC', 'HH24:MI') AS minute
FROM bid
