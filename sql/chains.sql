-- Pipelines that write into streams that pipelines read.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA chains;
SET search_path = chains;
SELECT stream_ckpt.create_stream('raw', 'line text');
SELECT stream_ckpt.create_stream('parsed', 'k text NOT NULL, v int DEFAULT -1, twice int GENERATED ALWAYS AS (v * 2) STORED');
SELECT stream_ckpt.create_stream('large', 'k text, v int');
SELECT stream_ckpt.create_pipeline('parse', $$SELECT split_part(line, '=', 1) AS k, split_part(line, '=', 2)::int AS v FROM raw WHERE line LIKE '%=%'$$, sink => 'parsed');
SELECT stream_ckpt.create_pipeline('pick', 'SELECT k, v FROM parsed WHERE v >= 100', sink => 'large');
SELECT stream_ckpt.create_pipeline('by_key', 'SELECT k, count(*) AS n, sum(v) AS v, sum(twice) AS twice FROM parsed GROUP BY k');
SELECT stream_ckpt.create_pipeline('large_by_key', 'SELECT k, count(*) AS n FROM large GROUP BY k');
SELECT pipeline, result FROM stream_ckpt.pipelines ORDER BY 1;

-- checkpoint() without a name follows the chain to its end
INSERT INTO raw SELECT 'k' || i % 3 || '=' || i FROM generate_series(1, 300) i;
INSERT INTO raw VALUES ('noise');
SELECT stream_ckpt.checkpoint();
SELECT * FROM by_key ORDER BY k;
SELECT * FROM large_by_key ORDER BY k;

-- rows inserted by hand are as good
INSERT INTO parsed VALUES ('hand', 500), ('hand', DEFAULT);
SELECT stream_ckpt.checkpoint();
SELECT * FROM by_key WHERE k = 'hand';
SELECT * FROM large_by_key WHERE k = 'hand';

-- a pause in the middle holds what comes after it
SELECT stream_ckpt.pause_pipeline('pick');
INSERT INTO raw VALUES ('paused=1000');
SELECT stream_ckpt.checkpoint('parse') > 0 AS done;
SELECT stream_ckpt.checkpoint('by_key') > 0 AS done;
SELECT * FROM by_key WHERE k = 'paused';
SELECT stream_ckpt.resume_pipeline('pick');
SELECT stream_ckpt.checkpoint();
SELECT * FROM large_by_key WHERE k = 'paused';

-- a circle would never end; a stream that is written to stays
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
SELECT (try($$SELECT stream_ckpt.create_pipeline('circle', 'SELECT k || ''='' || v AS line FROM large', sink => 'raw')$$)).*;
SELECT (try($$SELECT stream_ckpt.create_pipeline('self', 'SELECT k, v FROM large', sink => 'large')$$)).*;
SELECT (try($$SELECT stream_ckpt.create_pipeline('grouped', 'SELECT k, count(*)::int AS v FROM parsed GROUP BY k', sink => 'large')$$)).*;
SELECT (try($$SELECT stream_ckpt.drop_stream('parsed')$$)).*;
SELECT (try($$DROP FOREIGN TABLE parsed$$)).*;

-- through views and partitions, too, and when a partition is attached later
CREATE TABLE parts (k text, v int) PARTITION BY LIST (k);
CREATE FOREIGN TABLE part_a PARTITION OF parts FOR VALUES IN ('a') SERVER stream_ckpt;
CREATE TABLE part_rest PARTITION OF parts DEFAULT;
CREATE VIEW parts_view AS SELECT v, k FROM parts;
SELECT (try($$SELECT stream_ckpt.create_pipeline('circle', 'SELECT k, v FROM part_a', sink => 'parts')$$)).*;
SELECT (try($$SELECT stream_ckpt.create_pipeline('circle', 'SELECT k, v FROM part_a', sink => 'parts_view')$$)).*;
SELECT stream_ckpt.create_pipeline('routed', 'SELECT k, v FROM large', sink => 'parts_view');
INSERT INTO large VALUES ('a', 1), ('b', 2);
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.create_pipeline('back', 'SELECT k, v FROM part_a', sink => 'part_rest');
SELECT (try($$SELECT stream_ckpt.create_pipeline('circle', 'SELECT k, v FROM part_a', sink => 'large')$$)).*;
SELECT stream_ckpt.drop_pipeline('routed');
SELECT stream_ckpt.create_pipeline('forth', 'SELECT k, v FROM part_a', sink => 'large');
ALTER TABLE parts DETACH PARTITION part_a;
SELECT stream_ckpt.create_pipeline('routed', 'SELECT k, v FROM large', sink => 'parts_view');
SELECT (try($$ALTER TABLE parts ATTACH PARTITION part_a FOR VALUES IN ('a')$$)).*;
SELECT stream_ckpt.drop_pipeline('forth');
ALTER TABLE parts ATTACH PARTITION part_a FOR VALUES IN ('a');
SELECT stream_ckpt.drop_pipeline('routed'), stream_ckpt.drop_pipeline('back');

-- a row that the stream would refuse stops the pipeline that writes it, and no other
SELECT stream_ckpt.create_pipeline('nulls', $$SELECT nullif(line, 'bad') AS k FROM raw$$, sink => 'parsed');
INSERT INTO raw VALUES ('good');
SELECT stream_ckpt.checkpoint();
INSERT INTO raw VALUES ('bad'), ('good');
SELECT (try($$SELECT stream_ckpt.checkpoint('nulls', '10 s')$$)).code <> '00000' AS stopped;
SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'nulls';
SELECT stream_ckpt.checkpoint('by_key') > 0 AS done;
SELECT * FROM by_key WHERE k = 'good';
SELECT stream_ckpt.drop_pipeline('nulls');

SET client_min_messages = warning;
DROP SCHEMA chains CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
SELECT count(*) AS streams FROM stream_ckpt.streams;
