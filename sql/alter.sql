-- alter_pipeline(): what is unchanged keeps its state, what is new begins with the next row
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
\pset null -
SELECT stream_ckpt.create_stream('alt', 'k int, v int, t text');
CREATE TABLE alt_rows (n serial, k int, v int, t text, phase int);
-- the same rows into the stream and a table
CREATE FUNCTION alt_add(at_phase int, low int, high int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO alt_rows (k, v, t, phase) SELECT i % 5, i * 7 % 13, 'r' || i, at_phase FROM generate_series(low, high) i;
    INSERT INTO alt SELECT k, v, t FROM alt_rows WHERE phase = at_phase AND n BETWEEN low AND high ORDER BY n;
$$;

SELECT stream_ckpt.create_pipeline('alt_p', 'SELECT k, count(*) AS n, sum(v) AS total, count(DISTINCT v) AS d,
    string_agg(t, '','' ORDER BY t) AS list FROM alt GROUP BY k');
SELECT alt_add(1, 1, 20);

-- other order, other aliases, a lost call, new ones
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT string_agg(a.t, '','' ORDER BY a.t) AS list, max(v) AS top, count(*) AS n, a.k,
    count(DISTINCT a.v) AS d, sum(DISTINCT v) AS ds, count(*) FILTER (WHERE v > 5) AS big FROM alt AS a GROUP BY a.k');
TABLE alt_p ORDER BY k;
SELECT alt_add(2, 21, 40);
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
SELECT k, list = string_agg(t, ',' ORDER BY t) AND a.n = count(r.n) AND d = count(DISTINCT v) AS kept,
    top IS NOT DISTINCT FROM max(v) FILTER (WHERE phase = 2) AND ds IS NOT DISTINCT FROM sum(DISTINCT v) FILTER (WHERE phase = 2)
    AND big = count(*) FILTER (WHERE phase = 2 AND v > 5) AS fresh
FROM alt_p a JOIN alt_rows r USING (k) GROUP BY k, list, a.n, d, top, ds, big ORDER BY k;

-- what comes back has forgotten
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n, sum(v) AS total FROM alt GROUP BY k');
TABLE alt_p ORDER BY k;
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'alt_p'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum;
SELECT indexdef FROM pg_indexes WHERE tablename = 'alt_p';

-- HAVING takes effect at once, on all groups; WHERE on rows from now on; a projection changes type; a key its name
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k AS key, count(*)::numeric / 2 AS n, sum(v) AS total FROM alt WHERE v < 100 GROUP BY k HAVING k <> 3');
TABLE alt_p ORDER BY key;
INSERT INTO alt VALUES (1, 200, 'no'), (1, 1, 'yes'), (3, 1, 'hidden'), (7, 3, 'new');
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
TABLE alt_p ORDER BY key;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n, sum(v) AS total FROM alt GROUP BY k');
TABLE alt_p ORDER BY k;

-- ROLLBACK goes on with the old query and loses nothing
BEGIN;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, min(v) AS low FROM alt GROUP BY k');
TABLE alt_p ORDER BY k;
INSERT INTO alt VALUES (1, 0, 'never');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n FROM alt GROUP BY k');	-- what it has lost in between is gone
TABLE alt_p ORDER BY k;
ROLLBACK;
INSERT INTO alt VALUES (1, 10, 'x');
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
TABLE alt_p ORDER BY k;
-- the same of a savepoint, and after an error
BEGIN;
SAVEPOINT a;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, min(v) AS low FROM alt GROUP BY k');
ROLLBACK TO a;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n, sum(v) AS total, 1 / (k - 1) AS bad FROM alt GROUP BY k');
ROLLBACK TO a;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n, sum(v) AS total, k * 2 AS twice FROM alt GROUP BY k');
COMMIT;
INSERT INTO alt VALUES (1, 10, 'x');
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
TABLE alt_p ORDER BY k;

-- views, and columns that users have added
CREATE VIEW alt_v AS SELECT k, twice FROM alt_p;
ALTER TABLE alt_p ADD COLUMN note text DEFAULT 'mine';
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n FROM alt GROUP BY k');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n, k * 2 AS twice, max(t) AS note FROM alt GROUP BY k');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n, k * 3 AS twice FROM alt GROUP BY k');
SELECT * FROM alt_v ORDER BY k;
DROP VIEW alt_v;
TABLE alt_p ORDER BY k;

-- what cannot keep its state
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT v, count(*) AS n FROM alt GROUP BY v');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, t, count(*) AS n FROM alt GROUP BY k, t');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT count(*) AS n FROM alt');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, v FROM alt');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n FROM (SELECT k, v, count(*) AS m FROM alt GROUP BY k, v) s GROUP BY k');
SELECT stream_ckpt.create_stream('alt_other', 'k int, v int');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n FROM alt_other GROUP BY k', reset_state => true);
SELECT stream_ckpt.alter_pipeline('alt_p', sink => 'alt_rows');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT nothing FROM alt');
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n FROM alt GROUP BY k', emit => 'final');
SELECT stream_ckpt.alter_pipeline('nothing', emit => 'final');
SELECT stream_ckpt.alter_pipeline(NULL);
SELECT stream_ckpt.alter_pipeline('alt_p', reset_state => NULL);
SELECT stream_ckpt.alter_pipeline('alt_p', emit => 'never');
SELECT stream_ckpt.alter_pipeline('alt_p', on_error => 'never');
SELECT stream_ckpt.alter_pipeline('alt_p', parallelism => 0);
SELECT stream_ckpt.alter_pipeline('alt_p', parallelism => 1025);
SELECT stream_ckpt.alter_pipeline('alt_p', retained_checkpoints => -1);
SELECT stream_ckpt.alter_pipeline('alt_p', checkpoint_interval => '-1 s');
SELECT stream_ckpt.alter_pipeline('alt_p', allowed_lateness => '1 month');
SELECT stream_ckpt.alter_pipeline('alt_p', state_ttl => '-1 s');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT k, count(*) AS n FROM alt GROUP BY k');
ROLLBACK;
BEGIN READ ONLY;
SELECT stream_ckpt.alter_pipeline('alt_p', checkpoint_interval => '2 s');
ROLLBACK;
ALTER FOREIGN TABLE alt ALTER COLUMN v TYPE bigint;

-- starting over: other keys, an empty result with another index, and only rows from now on
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT t AS word, v % 2 AS odd, count(*) AS n FROM alt GROUP BY t, v % 2', reset_state => true);
TABLE alt_p;
SELECT indexdef FROM pg_indexes WHERE tablename = 'alt_p';
INSERT INTO alt VALUES (1, 1, 'a'), (2, 1, 'a'), (2, 2, 'a');
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
SELECT word, odd, n FROM alt_p ORDER BY 1, 2;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT count(*) AS n FROM alt', reset_state => true);
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
SELECT n FROM alt_p;
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT t, v FROM alt', reset_state => true);
INSERT INTO alt VALUES (1, 1, 'a');
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
SELECT t, v FROM alt_p;
SELECT indexdef FROM pg_indexes WHERE tablename = 'alt_p';

-- without grouping: columns follow, rows that are there stay
SELECT stream_ckpt.alter_pipeline('alt_p', 'SELECT t, k, v + 0.5 AS v FROM alt WHERE v > 1');
INSERT INTO alt VALUES (1, 1, 'b'), (1, 2, 'c');
SELECT stream_ckpt.checkpoint('alt_p') > 0 AS done;
SELECT t, k, v FROM alt_p ORDER BY t;
SELECT stream_ckpt.drop_pipeline('alt_p');

-- options
SELECT stream_ckpt.create_pipeline('alt_o', 'SELECT k, count(*) AS n FROM alt GROUP BY k');
INSERT INTO alt VALUES (1, 1, 'a');
SELECT stream_ckpt.checkpoint('alt_o') > 0 AS done;
SELECT stream_ckpt.alter_pipeline('alt_o');
SELECT stream_ckpt.alter_pipeline('alt_o', on_error => 'dead_letter', checkpoint_interval => '5 ms', retained_checkpoints => 3, state_ttl => '1 day');
SELECT emit, on_error, checkpoint_interval, retained_checkpoints, parallelism FROM stream_ckpt.pipelines WHERE pipeline = 'alt_o';
SELECT stream_ckpt.alter_pipeline('alt_o', checkpoint_interval => '0', retained_checkpoints => 0, state_ttl => '0');
SELECT emit, on_error, checkpoint_interval, retained_checkpoints, parallelism FROM stream_ckpt.pipelines WHERE pipeline = 'alt_o';
INSERT INTO alt VALUES (1, 1, 'a');
SELECT stream_ckpt.checkpoint('alt_o') > 0 AS done;
TABLE alt_o;
-- a paused one stays so; its rows since the last checkpoint go through the new query
SELECT stream_ckpt.pause_pipeline('alt_o');
INSERT INTO alt VALUES (1, 5, 'a');
SELECT stream_ckpt.alter_pipeline('alt_o', 'SELECT k, count(*) AS n, sum(v) AS total FROM alt GROUP BY k');
TABLE alt_o;
SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'alt_o';
SELECT stream_ckpt.resume_pipeline('alt_o');
SELECT stream_ckpt.checkpoint('alt_o') > 0 AS done;
TABLE alt_o;
-- a failed one tries again
SELECT stream_ckpt.alter_pipeline('alt_o', 'SELECT k, count(*) AS n, sum(10 / v) AS total FROM alt GROUP BY k', on_error => 'stop');
INSERT INTO alt VALUES (1, 0, 'a');
SELECT stream_ckpt.checkpoint('alt_o');
SELECT stream_ckpt.alter_pipeline('alt_o', 'SELECT k, count(*) AS n, sum(10 / nullif(v, 0)) AS total FROM alt GROUP BY k');
INSERT INTO alt VALUES (1, 5, 'a');
SELECT stream_ckpt.checkpoint('alt_o') > 0 AS done;
TABLE alt_o;
-- only the owner
CREATE ROLE alt_nobody;
GRANT USAGE ON SCHEMA stream_ckpt TO alt_nobody;
SET ROLE alt_nobody;
SELECT stream_ckpt.alter_pipeline('alt_o', on_error => 'stop');
RESET ROLE;
-- in the transaction that creates it
BEGIN;
SELECT stream_ckpt.create_pipeline('alt_c', 'SELECT k, count(*) AS n FROM alt GROUP BY k');
INSERT INTO alt VALUES (1, 1, 'a');
SELECT stream_ckpt.alter_pipeline('alt_c', 'SELECT k, count(*) AS n, sum(v) AS total FROM alt GROUP BY k');
COMMIT;
SELECT stream_ckpt.checkpoint('alt_c') > 0 AS done;
TABLE alt_c;
SELECT stream_ckpt.drop_pipeline('alt_c');
SELECT stream_ckpt.drop_pipeline('alt_o');

-- an existing table: its columns must be there, its rows are not ours to delete
CREATE TABLE alt_t (k int PRIMARY KEY, n bigint, other text DEFAULT 'x');
SELECT stream_ckpt.create_pipeline('alt_e', 'SELECT k, count(*) AS n FROM alt GROUP BY k', sink => 'alt_t');
INSERT INTO alt VALUES (1, 1, 'a'), (2, 1, 'a');
SELECT stream_ckpt.alter_pipeline('alt_e', 'SELECT k, count(*) AS n, sum(v) AS total FROM alt GROUP BY k');
ALTER TABLE alt_t ADD COLUMN total bigint;
SELECT stream_ckpt.alter_pipeline('alt_e', 'SELECT k, count(*) AS n, sum(v) AS total FROM alt GROUP BY k');
SELECT stream_ckpt.alter_pipeline('alt_e', 'SELECT k, count(*) AS n FROM alt WHERE v > 0 GROUP BY k', reset_state => true);
INSERT INTO alt VALUES (1, 1, 'a');
SELECT stream_ckpt.checkpoint('alt_e') > 0 AS done;
SELECT k, n, other, total FROM alt_t ORDER BY k;
SELECT stream_ckpt.drop_pipeline('alt_e');

-- grouped sub-selects: HAVING and projection of each level; new aggregates above would see rows taken back that they have not seen
SELECT stream_ckpt.create_pipeline('alt_s', 'SELECT m, count(*) AS n, max(total) AS top FROM
    (SELECT k, t, count(*) AS m, sum(v) AS total FROM alt GROUP BY k, t) s GROUP BY m');
INSERT INTO alt VALUES (1, 1, 'a'), (1, 2, 'a'), (2, 3, 'a'), (2, 4, 'b'), (3, 1, 'c');
SELECT stream_ckpt.checkpoint('alt_s') > 0 AS done;
TABLE alt_s ORDER BY m;
SELECT stream_ckpt.alter_pipeline('alt_s', 'SELECT m, count(*) AS n, max(total) AS top, min(total) AS low FROM
    (SELECT k, t, count(*) AS m, sum(v) AS total FROM alt GROUP BY k, t) s GROUP BY m');
SELECT stream_ckpt.alter_pipeline('alt_s', 'SELECT m, count(*) AS n, max(total) AS top FROM
    (SELECT k, t, sum(v) AS m, count(*) AS total FROM alt GROUP BY k, t) s GROUP BY m');
SELECT stream_ckpt.alter_pipeline('alt_s', 'SELECT m, count(*) AS n, max(total) * 10 AS top FROM
    (SELECT t, k, sum(v) AS total, max(v), count(*) AS m FROM alt GROUP BY t, k HAVING k < 3) s GROUP BY m HAVING m < 100');
TABLE alt_s ORDER BY m;
INSERT INTO alt VALUES (2, 4, 'b'), (3, 1, 'c'), (1, 100, 'z');
SELECT stream_ckpt.checkpoint('alt_s') > 0 AS done;
TABLE alt_s ORDER BY m;
SELECT m, count(*) AS n, max(total) * 10 AS top FROM (SELECT t, k, sum(v) AS total, count(*) AS m FROM (VALUES (1, 1, 'a'), (1, 2, 'a'),
    (2, 3, 'a'), (2, 4, 'b'), (3, 1, 'c'), (2, 4, 'b'), (3, 1, 'c'), (1, 100, 'z')) a (k, v, t) GROUP BY t, k HAVING k < 3) s GROUP BY m ORDER BY m;
SELECT stream_ckpt.drop_pipeline('alt_s');

-- windows: closed ones stay as they are, and closed
SELECT stream_ckpt.create_stream('alt_w', 'k int, v int, ts timestamp', event_time => 'ts');
SELECT stream_ckpt.create_pipeline('alt_win', 'SELECT window_start, k, count(*) AS n FROM alt_w, stream_ckpt.tumble(ts, ''1 hour'') GROUP BY window_start, k');
INSERT INTO alt_w VALUES (1, 1, '2024-01-01 00:10'), (1, 2, '2024-01-01 01:10'), (1, 3, '2024-01-01 02:10');
SELECT stream_ckpt.checkpoint('alt_win') > 0 AS done;
SELECT stream_ckpt.alter_pipeline('alt_win', 'SELECT window_start, k, count(*) AS n FROM alt_w, stream_ckpt.tumble(ts, ''30 minutes'') GROUP BY window_start, k');
SELECT stream_ckpt.alter_pipeline('alt_win', 'SELECT w.window_start AS hour, w.window_end, x.k, count(*) AS n FROM alt_w x, stream_ckpt.tumble(x.ts, ''60 min'') w GROUP BY 1, 2, 3');
SELECT stream_ckpt.alter_pipeline('alt_win', 'SELECT w.window_start AS hour, x.k, sum(v) AS total, count(*) AS n FROM alt_w x, stream_ckpt.tumble(x.ts, ''60 min'') w GROUP BY 1, 2',
    allowed_lateness => '90 minutes');
INSERT INTO alt_w VALUES (1, 4, '2024-01-01 00:20'), (1, 5, '2024-01-01 01:20'), (1, 6, '2024-01-01 02:20');
SELECT stream_ckpt.checkpoint('alt_win') > 0 AS done;
SELECT hour, k, n, total FROM alt_win ORDER BY hour;
INSERT INTO alt_w VALUES (2, 4, '2024-01-01 03:20');
INSERT INTO alt_w VALUES (2, 4, '2024-01-01 02:20'), (2, 4, '2024-01-01 01:20');
SELECT stream_ckpt.checkpoint('alt_win') > 0 AS done;
SELECT hour, k, n, total FROM alt_win ORDER BY hour, k;
-- 'final' takes the rows of open windows back, and puts each there when it closes; and back again
SELECT stream_ckpt.alter_pipeline('alt_win', emit => 'final', allowed_lateness => '0');
SELECT hour, k, n, total FROM alt_win ORDER BY hour, k;
INSERT INTO alt_w VALUES (2, 5, '2024-01-01 04:20'), (2, 6, '2024-01-01 05:20');
SELECT stream_ckpt.checkpoint('alt_win') > 0 AS done;
SELECT hour, k, n, total FROM alt_win ORDER BY hour, k;
SELECT stream_ckpt.alter_pipeline('alt_win', emit => 'changes');
INSERT INTO alt_w VALUES (2, 5, '2024-01-01 04:20'), (2, 6, '2024-01-01 05:20');
SELECT stream_ckpt.checkpoint('alt_win') > 0 AS done;
SELECT hour, k, n, total FROM alt_win ORDER BY hour, k;
SELECT late_rows FROM stream_ckpt.pipelines WHERE pipeline = 'alt_win';
SELECT stream_ckpt.drop_pipeline('alt_win');

-- sessions
SELECT stream_ckpt.create_pipeline('alt_ses', 'SELECT window_start, window_end, k, count(*) AS n FROM alt_w, stream_ckpt.session(ts, ''10 min'') GROUP BY window_start, window_end, k');
INSERT INTO alt_w VALUES (1, 1, '2024-01-02 00:00'), (1, 2, '2024-01-02 00:05'), (2, 3, '2024-01-02 00:02');
SELECT stream_ckpt.alter_pipeline('alt_ses', 'SELECT k, window_start, window_end, max(v) AS top, count(*) AS n FROM alt_w, stream_ckpt.session(ts, ''10 min'') GROUP BY k, window_start, window_end');
INSERT INTO alt_w VALUES (1, 4, '2024-01-02 00:14'), (2, 1, '2024-01-02 00:11');
SELECT stream_ckpt.checkpoint('alt_ses') > 0 AS done;
SELECT k, window_start, window_end, n, top FROM alt_ses ORDER BY k, 2;
SELECT stream_ckpt.alter_pipeline('alt_ses', 'SELECT k, window_start, window_end, count(*) AS n FROM alt_w, stream_ckpt.session(ts, ''20 min'') GROUP BY k, window_start, window_end');
SELECT stream_ckpt.drop_pipeline('alt_ses');

REVOKE ALL ON SCHEMA stream_ckpt FROM alt_nobody;
DROP ROLE alt_nobody;
SELECT stream_ckpt.drop_stream('alt'), stream_ckpt.drop_stream('alt_other'), stream_ckpt.drop_stream('alt_w');
DROP TABLE alt_rows, alt_t;
DROP FUNCTION alt_add;
