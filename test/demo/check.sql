--
-- The same queries over an ordinary table of the same file.
--
CREATE SCHEMA plain;
CREATE TABLE plain.flights (
    scheduled timestamp, carrier text, flight int, tailnum text, origin text, dest text,
    dep_delay int, arr_delay int, distance int, air_time int);
\copy plain.flights FROM 'flights.csv' (FORMAT csv)

SET search_path = plain, public;
SELECT format('CREATE TABLE plain.%I AS %s', coalesce(sink, name), query)
FROM demo.queries ORDER BY place
\gexec
