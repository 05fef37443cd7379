--
-- The demo's streams and continuous queries. Each query's text is kept in a
-- table, so that the same text can be run over an ordinary table at the end.
--
CREATE EXTENSION stream_ckpt;

SELECT stream_ckpt.create_stream('flights', $$
    scheduled timestamp NOT NULL, carrier text NOT NULL, flight int, tailnum text,
    origin text NOT NULL, dest text NOT NULL, dep_delay int, arr_delay int,
    distance int CHECK (distance > 0), air_time int $$);
SELECT stream_ckpt.create_stream('delays', 'airline text, origin text, minutes int');

CREATE TABLE airlines (carrier text PRIMARY KEY, name text);

-- How far each producer is, written in the transaction that inserts the rows.
CREATE TABLE progress (producer int PRIMARY KEY, rows_sent bigint NOT NULL DEFAULT 0);

CREATE SCHEMA demo;
CREATE TABLE demo.queries (place int, name text, what text, sink text, query text);

INSERT INTO demo.queries VALUES
(1, 'carrier_months', 'flights and mean delay per carrier and month', NULL, $$
    SELECT carrier, date_trunc('month', scheduled) AS month,
           count(*) AS flights, avg(arr_delay) AS mean_delay
    FROM flights
    GROUP BY carrier, date_trunc('month', scheduled) $$),
(2, 'origin_hours', 'the day''s course at each airport', NULL, $$
    SELECT origin, extract(hour FROM scheduled)::int AS hour,
           count(*) AS flights,
           count(*) FILTER (WHERE dep_delay > 15) AS late,
           avg(dep_delay) AS mean_delay
    FROM flights
    GROUP BY origin, extract(hour FROM scheduled)::int $$),
(3, 'busy_routes', 'routes with 4,000 flights and more', NULL, $$
    SELECT origin, dest, count(*) AS flights, max(arr_delay) AS max_delay,
           round(stddev(arr_delay), 6) AS stddev_delay,
           round(avg(distance * 60.0 / air_time)) AS miles_per_hour
    FROM flights
    GROUP BY origin, dest
    HAVING count(*) >= 4000 $$),
(4, 'bad_days', 'days with more than 100 cancelled flights', NULL, $$
    SELECT scheduled::date AS day, count(*) AS cancelled,
           bool_or(origin = 'LGA') AS laguardia
    FROM flights
    WHERE dep_delay IS NULL
    GROUP BY scheduled::date
    HAVING count(*) > 100 $$),
(5, 'aircraft', 'what each aircraft flew', NULL, $$
    SELECT tailnum, count(*) AS flights, sum(distance) AS miles,
           sum(air_time) / 60.0 AS hours, min(scheduled) AS first, max(scheduled) AS last
    FROM flights
    GROUP BY tailnum $$),
(6, 'year_2013', 'one row about everything', NULL, $$
    SELECT count(*) AS flights, sum(distance) AS miles,
           count(*) FILTER (WHERE dep_delay IS NULL) AS cancelled,
           regr_slope(arr_delay, dep_delay) AS slope, corr(arr_delay, dep_delay) AS correlation
    FROM flights $$),
(7, 'three_hours_late', 'every flight that came three hours late, joined with a table', NULL, $$
    SELECT f.scheduled, a.name AS airline, f.flight, f.origin, f.dest, f.arr_delay
    FROM flights f JOIN airlines a ON a.carrier = f.carrier
    WHERE f.arr_delay > 180 $$),
(8, 'to_delays', 'a chain: delayed flights go on into another stream', 'delays', $$
    SELECT a.name AS airline, f.origin, f.arr_delay AS minutes
    FROM flights f JOIN airlines a ON a.carrier = f.carrier
    WHERE f.arr_delay > 0 $$),
(9, 'airline_delays', 'the chain''s end: delays per airline', NULL, $$
    SELECT airline, count(*) AS delayed, sum(minutes) AS minutes, max(minutes) AS longest
    FROM delays
    GROUP BY airline $$);

SELECT format('SELECT stream_ckpt.create_pipeline(%L, %L, sink => %L)', name, query, sink)
FROM demo.queries ORDER BY place
\gexec

--
-- demo.compare() counts the rows that the ordinary query has and the result
-- has not (lost), and the other way round (duplicated). Floats may differ in
-- the ninth digit, since their sums depend on the order of the rows.
--
CREATE FUNCTION demo.compare(name text, OUT n bigint, OUT lost bigint, OUT duplicated bigint)
LANGUAGE plpgsql AS $$
DECLARE
    exact text;
    keys text;
    floats text;
    wrong bigint := 0;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ') FILTER (WHERE atttypid <> 'float8'::regtype),
           string_agg(format('(o.%1$I IS DISTINCT FROM r.%1$I AND '
                             'NOT coalesce(abs(o.%1$I - r.%1$I) <= 1e-9 * abs(o.%1$I), false))', attname),
                      ' OR ') FILTER (WHERE atttypid = 'float8'::regtype)
    INTO exact, floats
    FROM pg_attribute
    WHERE attrelid = ('plain.' || name)::regclass AND attnum > 0;

    EXECUTE format('SELECT count(*), (SELECT count(*) FROM (SELECT %1$s FROM plain.%2$I EXCEPT ALL SELECT %1$s FROM %2$I) a),
                           (SELECT count(*) FROM (SELECT %1$s FROM %2$I EXCEPT ALL SELECT %1$s FROM plain.%2$I) b)
                    FROM %2$I', exact, name)
    INTO n, lost, duplicated;

    IF floats IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM plain.%1$I o JOIN %1$I r USING (%2$s) WHERE %3$s', name, exact, floats)
        INTO wrong;
    END IF;
    lost := lost + wrong;
    duplicated := duplicated + wrong;
END $$;
