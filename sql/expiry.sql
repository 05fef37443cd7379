-- State that leaves: groups that are forgotten (state_ttl), and windows that close.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA expiry;
SET search_path = expiry, public, stream_ckpt;
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';
SET timezone = 'UTC';
CREATE FUNCTION at(minute float8) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$SELECT '2024-01-01 12:00Z'::timestamptz + minute * interval '1 min'$$;
CREATE VIEW state AS SELECT pipeline, to_char(watermark, 'HH24:MI:SS') AS watermark, late_rows, state_rows FROM pipelines ORDER BY 1;
-- what the database keeps of it
CREATE VIEW stored AS SELECT name AS pipeline, coalesce(sum(entries), 0) AS entries FROM pipeline_def LEFT JOIN chunk ON pipeline_id = id GROUP BY name;

-- By event time: a group is touched at its row's time, or at the watermark if that is later; what was not touched for ten
-- minutes is forgotten, and its result row goes.
SELECT create_stream('e', 'id int, k text, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('ttl', 'SELECT k, array_agg(id ORDER BY id) AS ids FROM e GROUP BY k', state_ttl => '10 min');
SELECT create_pipeline('ttl_having', 'SELECT k, count(*) AS n FROM e GROUP BY k HAVING count(*) > 1', state_ttl => '10 min');
SELECT create_pipeline('ttl_one', 'SELECT count(*) AS n, max(id) AS last FROM e', state_ttl => '10 min');
SELECT create_pipeline('ttl_distinct', 'SELECT k, count(DISTINCT id % 4) AS n FROM e GROUP BY k', state_ttl => '10 min');
SELECT create_pipeline('ttl_above', 'SELECT count(*) AS keys, sum(n) AS n, array_agg(k ORDER BY k) AS ks FROM (SELECT k, count(*) AS n FROM e GROUP BY k) x', state_ttl => '10 min');
SELECT create_pipeline('ttl_window', 'SELECT k, window_end, count(*) AS n FROM e, tumble(ts, ''1 hour'') GROUP BY 1, 2', state_ttl => '10 min');
SELECT create_pipeline('no_ttl', 'SELECT k, array_agg(id ORDER BY id) AS ids FROM e GROUP BY k');
INSERT INTO e VALUES (1, 'a', at(0)), (2, 'b', at(0)), (3, 'c', at(5));
INSERT INTO e VALUES (4, 'a', at(9));
SELECT checkpoint();
SELECT * FROM ttl ORDER BY k;
SELECT * FROM ttl_window ORDER BY k;
SELECT * FROM state;
-- to 10, exactly ten minutes after b
INSERT INTO e VALUES (5, 'd', at(10));
SELECT checkpoint();
SELECT * FROM ttl ORDER BY k;
SELECT * FROM ttl_having ORDER BY k;
TABLE ttl_one;
SELECT * FROM ttl_distinct ORDER BY k;
TABLE ttl_above;
SELECT * FROM ttl_window ORDER BY k;
SELECT * FROM state;
-- b begins anew; c is not old enough
INSERT INTO e VALUES (6, 'b', at(10));
INSERT INTO e VALUES (7, 'c', at(15));
SELECT checkpoint();
SELECT * FROM ttl ORDER BY k;
SELECT * FROM ttl_having ORDER BY k;
TABLE ttl_above;
-- times of the past and none at all count as the watermark; all that was there before goes with the first of these
INSERT INTO e VALUES (8, 'x', at(25)), (9, 'gone', at(15)), (10, 'none', NULL);
INSERT INTO e VALUES (11, 'past', at(-100)), (12, 'infinite', 'infinity'), (13, 'null', NULL);
SELECT checkpoint();
SELECT * FROM ttl ORDER BY k;
TABLE ttl_above;
SELECT count(pause_pipeline(pipeline)) FROM pipelines WHERE pipeline LIKE 'ttl%';
SELECT count(resume_pipeline(pipeline)) FROM pipelines WHERE pipeline LIKE 'ttl%';
-- between two checkpoints, z is forgotten and comes back; x is touched in time, the last time by a row of the past
INSERT INTO e VALUES (14, 'z', at(34.999));
INSERT INTO e VALUES (15, 'x', at(35));
INSERT INTO e VALUES (16, 'x', at(44.999));
INSERT INTO e VALUES (17, 'x', at(40)), (18, 'z', at(46));
SELECT checkpoint();
SELECT * FROM ttl ORDER BY k;
SELECT * FROM ttl_having ORDER BY k;
TABLE ttl_one;
TABLE ttl_above;
SELECT * FROM state;
-- of a window that ends at 60, what is forgotten before goes, and what would be later stays
INSERT INTO e VALUES (19, 'w', at(55));
SELECT advance_watermark('e', at(120));
SELECT checkpoint();
TABLE ttl;
TABLE ttl_one;
TABLE ttl_above;
SELECT * FROM ttl_window ORDER BY k, n;
SELECT count(*) FROM no_ttl;
SELECT * FROM state WHERE pipeline <> 'ttl_one';

-- By commit time, where there is no event time. The clock is the last commit that was read: before the second
-- transaction it still stands at the first, so that b goes on.
CREATE FUNCTION wait(span interval) RETURNS void LANGUAGE plpgsql AS $$
DECLARE until timestamptz = clock_timestamp() + span;
BEGIN
    WHILE clock_timestamp() <= until LOOP
    END LOOP;
END $$;
SELECT create_stream('plain', 'id int, k text');
SELECT create_pipeline('short', 'SELECT k, count(*) AS n FROM plain GROUP BY k', state_ttl => '1 ms');
SELECT create_pipeline('long', 'SELECT k, count(*) AS n FROM plain GROUP BY k', state_ttl => '1 day');
INSERT INTO plain VALUES (1, 'a'), (1, 'b');
SELECT checkpoint();
SELECT wait('3 ms');
INSERT INTO plain VALUES (2, 'b'), (2, 'c');
SELECT checkpoint();
SELECT * FROM short ORDER BY k;
SELECT * FROM long ORDER BY k;
SELECT wait('3 ms');
INSERT INTO plain VALUES (3, 'd');
SELECT checkpoint();
TABLE short;
SELECT * FROM state WHERE pipeline IN ('short', 'long');
SELECT explain FROM explain_pipeline('short') explain WHERE explain ~ 'State: [a-z]';
SELECT explain FROM explain_pipeline('ttl_window') explain WHERE explain ~ 'State: [a-z]';

-- 200 windows: what they leave behind does not grow
SELECT create_stream('w', 'k int, v int, ts timestamptz', event_time => 'ts');
SELECT create_pipeline('tumbling', 'SELECT window_start, k, count(*) AS n, count(DISTINCT v) AS v FROM w, tumble(ts, ''1 min'') GROUP BY 1, 2');
SELECT create_pipeline('hopping', 'SELECT window_end, sum(v) AS s FROM w, hop(ts, ''1 min'', ''5 min'') GROUP BY 1', emit => 'final');
SELECT create_pipeline('sessions', 'SELECT window_end, k, array_agg(v ORDER BY v) AS v FROM w, session(ts, ''1 min'') GROUP BY 1, 2', emit => 'final');
SELECT create_pipeline('staged', 'SELECT window_end, max(n) AS x FROM (SELECT window_end, k, sum(v) AS n FROM w, tumble(ts, ''1 min'') GROUP BY 1, 2) x GROUP BY 1');
CREATE TABLE seen (n int, pipeline text, state_rows bigint, state_bytes bigint, entries bigint, shared bigint);
DO $$
BEGIN
    FOR number IN 1 .. 200 LOOP
        INSERT INTO w SELECT k, k % 7, at(number + k / 50.0) FROM generate_series(1, 40) k;
        COMMIT;
        IF number % 10 = 0 THEN
            PERFORM checkpoint();
            INSERT INTO seen SELECT number, pipeline, p.state_rows, p.state_bytes, entries, d.state_bytes
            FROM pipelines p JOIN stored USING (pipeline), database_stats() d WHERE pipeline IN ('tumbling', 'hopping', 'sessions', 'staged');
            COMMIT;
        END IF;
    END LOOP;
END $$;
SELECT pipeline, min(state_rows) AS least, max(state_rows) AS most, max(entries) <= 2 * max(state_rows) AS stored FROM seen WHERE n > 20 GROUP BY 1 ORDER BY 1;
SELECT a.pipeline, b.state_bytes <= a.state_bytes + 32768 AS flat, b.shared <= a.shared * 1.2 AS all_flat
FROM seen a JOIN seen b USING (pipeline) WHERE a.n = 20 AND b.n = 200 ORDER BY 1;
SELECT (SELECT count(*) FROM tumbling) AS tumbling, (SELECT count(*) FROM hopping) AS hopping, (SELECT count(*) FROM sessions) AS sessions, (SELECT count(*) FROM staged) AS staged;
SELECT advance_watermark('w', at(1000));
SELECT checkpoint();
SELECT * FROM state WHERE pipeline IN ('tumbling', 'hopping', 'sessions', 'staged');
-- what closed does not come back; what is stored of it goes with the next checkpoint, at the latest
SELECT count(pause_pipeline(pipeline)) FROM pipelines WHERE pipeline IN ('tumbling', 'hopping', 'sessions', 'staged');
SELECT count(resume_pipeline(pipeline)) FROM pipelines WHERE pipeline IN ('tumbling', 'hopping', 'sessions', 'staged');
INSERT INTO w VALUES (1, 1, at(1000));
SELECT checkpoint();
SELECT * FROM state JOIN stored USING (pipeline) WHERE pipeline IN ('tumbling', 'hopping', 'sessions', 'staged') ORDER BY 1;
SELECT count(*) FROM tumbling;

-- refused
CREATE FUNCTION refused(query text, ttl interval) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
    PERFORM create_pipeline('refused', query, state_ttl => ttl);
    PERFORM drop_pipeline('refused');
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate || ': ' || sqlerrm, nullif(hint, ''));
END $$;
CREATE VIEW viewed AS SELECT * FROM e;
SELECT refused('SELECT k, count(*) FROM e GROUP BY k', ttl) FROM unnest('{0,-1 s,1 month,1 month -1 day}'::interval[]) ttl;
SELECT refused(query, '1 min') FROM unnest(ARRAY['SELECT k FROM e', 'SELECT k, count(*) FROM viewed GROUP BY k', 'SELECT k, window_end, count(*) FROM e, session(ts, ''1 min'') GROUP BY 1, 2']) query;

SET client_min_messages = warning;
DROP SCHEMA expiry CASCADE;
SELECT count(*) AS pipelines FROM pipelines;
