-- The relations of Nexmark, twice: as streams in schema live, and as tables in
-- schema plain, so that the same query runs over either by its search_path.
-- And what single queries need besides: see at the end.

CREATE SCHEMA live;
CREATE SCHEMA plain;
CREATE SCHEMA results;

\set person 'id bigint NOT NULL, name text NOT NULL, email_address text NOT NULL, credit_card text NOT NULL, city text NOT NULL, state text NOT NULL, date_time timestamptz NOT NULL, extra text NOT NULL'
\set auction 'id bigint NOT NULL, item_name text NOT NULL, description text NOT NULL, initial_bid bigint NOT NULL, reserve bigint NOT NULL, date_time timestamptz NOT NULL, expires timestamptz NOT NULL, seller bigint NOT NULL, category bigint NOT NULL, extra text NOT NULL'
-- arrived is for query 12: the time at which the row was inserted, and no event time
\set bid 'auction bigint NOT NULL, bidder bigint NOT NULL, price bigint NOT NULL, channel text NOT NULL, url text NOT NULL, date_time timestamptz NOT NULL, extra text NOT NULL, arrived timestamptz NOT NULL DEFAULT clock_timestamp()'

SELECT stream_ckpt.create_stream('live.person', :'person', event_time => 'date_time', watermark_delay => '4 s'),
       stream_ckpt.create_stream('live.auction', :'auction', event_time => 'date_time', watermark_delay => '4 s'),
       stream_ckpt.create_stream('live.bid', :'bid', event_time => 'date_time', watermark_delay => '4 s');

CREATE TABLE plain.person (:person);
CREATE TABLE plain.auction (:auction);
CREATE TABLE plain.bid (:bid);

-- Query 10: bids by day and minute, for two hours from the first event on; the rest elsewhere
CREATE TABLE results.q10 (auction bigint, bidder bigint, price bigint, date_time timestamptz, extra text, day date, minute text)
    PARTITION BY LIST (day);
CREATE TABLE results.q10_other PARTITION OF results.q10 DEFAULT;
CREATE TABLE results.q10_day PARTITION OF results.q10 FOR VALUES IN ('2024-01-01') PARTITION BY LIST (minute);
CREATE TABLE results.q10_day_other PARTITION OF results.q10_day DEFAULT;
SELECT format('CREATE TABLE results.q10_day_%s PARTITION OF results.q10_day FOR VALUES IN (%L)', n, to_char(interval '1 minute' * n, 'HH24:MI'))
FROM generate_series(0, 119) n
\gexec

-- Query 13: something to look up
CREATE TABLE side (key bigint PRIMARY KEY, value text NOT NULL);
INSERT INTO side SELECT i, 'value ' || i FROM generate_series(0, 9999) i;
ANALYZE side;

-- Query 14
CREATE FUNCTION count_char(text, text) RETURNS int LANGUAGE sql IMMUTABLE
    RETURN length($1) - length(replace($1, $2, ''));
