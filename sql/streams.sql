-- Streams: made by function or by DDL, listed, altered, refused where a table would not be.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA streams;
SET search_path = streams;
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;

-- two ways to the same thing
SELECT stream_ckpt.create_stream('clicks', 'user_id int, url text, ts timestamptz',
                                 event_time => 'ts', watermark_delay => '5 s', idle_timeout => '1 min');
CREATE FOREIGN TABLE taps (user_id int, ts timestamp)
    SERVER stream_ckpt OPTIONS (event_time 'ts', watermark_delay '90 s');
SELECT stream_ckpt.create_stream('plain', 'a int NOT NULL, b int DEFAULT 5, c int GENERATED ALWAYS AS (a * 2) STORED, CHECK (b > 0)');
SELECT stream_ckpt.create_stream('streams."Odd Name"', '"a b" int, "select" text');
SELECT stream_ckpt.create_stream('columnless', '');
SELECT stream, event_time, watermark_delay, idle_timeout, watermark, pipelines
FROM stream_ckpt.streams ORDER BY stream::text COLLATE "C";
SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated
FROM pg_attribute WHERE attrelid = 'plain'::regclass AND attnum > 0 ORDER BY attnum;

-- options are checked
SELECT command, (try(command)).* FROM (VALUES
    ($$SELECT stream_ckpt.create_stream('bad', 'a int', event_time => 'b')$$),
    ($$SELECT stream_ckpt.create_stream('bad', 'a int', event_time => 'a')$$),
    ($$SELECT stream_ckpt.create_stream('bad', 'ts timestamptz', event_time => 'ts', watermark_delay => '-1 s')$$),
    ($$SELECT stream_ckpt.create_stream('bad', 'ts timestamptz', event_time => 'ts', watermark_delay => NULL)$$),
    ($$SELECT stream_ckpt.create_stream('bad', 'ts timestamptz', event_time => 'ts', idle_timeout => '-1 s')$$),
    ($$SELECT stream_ckpt.create_stream(NULL, 'ts timestamptz')$$),
    ($$SELECT stream_ckpt.create_stream('bad', NULL)$$),
    ($$SELECT stream_ckpt.create_stream('clicks', 'a int')$$),
    ($$SELECT stream_ckpt.create_stream('nowhere.bad', 'a int')$$),
    ($$SELECT stream_ckpt.create_stream('bad', 'a int) SERVER stream_ckpt; CREATE TABLE smuggled (a int')$$),
    ($$SELECT stream_ckpt.create_stream('bad', 'a nosuchtype')$$),
    ($$CREATE FOREIGN TABLE bad (a int) SERVER stream_ckpt OPTIONS (colour 'red')$$),
    ($$CREATE FOREIGN TABLE bad (a int, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'a')$$),
    ($$CREATE FOREIGN TABLE bad (ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts', watermark_delay 'soon')$$)
) v(command);
SELECT to_regclass('smuggled'), to_regclass('bad');

-- reading and changing is for tables
SELECT command, (try(command)).* FROM (VALUES
    ('SELECT * FROM clicks'),
    ('SELECT count(*) FROM clicks'),
    ('TABLE clicks'),
    ('UPDATE clicks SET url = $$x$$'),
    ('DELETE FROM clicks'),
    ('TRUNCATE clicks'),
    ('SELECT * FROM clicks FOR UPDATE'),
    ('COPY clicks TO STDOUT'),
    ('COPY (SELECT * FROM clicks) TO $$/dev/null$$'),
    ('INSERT INTO clicks VALUES (1) ON CONFLICT (user_id) DO UPDATE SET url = $$x$$'),
    ('MERGE INTO clicks USING (SELECT 1 AS i) x ON false WHEN NOT MATCHED THEN INSERT VALUES (x.i)'),
    ('CREATE INDEX ON clicks (user_id)'),
    ('INSERT INTO nosuch VALUES (1)')
) v(command);
EXPLAIN (COSTS OFF) SELECT * FROM clicks;
EXPLAIN (COSTS OFF) INSERT INTO clicks SELECT 1;

-- altering
ALTER FOREIGN TABLE clicks ADD COLUMN country text DEFAULT 'xx', DROP COLUMN url;
ALTER FOREIGN TABLE clicks OPTIONS (SET watermark_delay '10 s', DROP idle_timeout);
COMMENT ON FOREIGN TABLE clicks IS 'what people click';
ALTER FOREIGN TABLE taps RENAME TO touches;
SELECT stream, event_time, watermark_delay, idle_timeout FROM stream_ckpt.streams
WHERE stream IN ('clicks'::regclass, 'touches'::regclass) ORDER BY stream::text COLLATE "C";
SELECT (try('ALTER FOREIGN TABLE clicks OPTIONS (SET event_time ''country'')')).*;
SELECT (try('ALTER FOREIGN TABLE clicks OPTIONS (SET watermark_delay ''-1 s'')')).*;

-- dropping
SELECT command, (try(command)).* FROM (VALUES
    ($$SELECT stream_ckpt.drop_stream('nosuch')$$),
    ($$SELECT stream_ckpt.drop_stream('pg_class')$$),
    ($$SELECT stream_ckpt.drop_stream(NULL)$$)
) v(command);
SELECT stream_ckpt.drop_stream('clicks');
BEGIN;
SELECT stream_ckpt.drop_stream('plain');
ROLLBACK;
INSERT INTO plain VALUES (1);
DROP FOREIGN TABLE touches, plain;
SELECT stream_ckpt.drop_stream('"Odd Name"');
SELECT stream_ckpt.drop_stream('columnless');
SELECT count(*) FROM stream_ckpt.streams;
DROP SCHEMA streams CASCADE;
