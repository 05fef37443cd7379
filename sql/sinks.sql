-- Results in tables that were there before: what is needed of them, and what is theirs to keep.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA sinks;
SET search_path = sinks;
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION 'no error' USING ERRCODE = '00000';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
END $$;
SELECT stream_ckpt.create_stream('s', 'k text, v int');

-- a keyed result: columns by name, others keep their default and what was put there
CREATE TABLE kept (note text DEFAULT 'new', n bigint, k text, total bigint, twice bigint GENERATED ALWAYS AS (total * 2) STORED,
                   UNIQUE NULLS NOT DISTINCT (k));
INSERT INTO kept (note, k, n, total) VALUES ('was here', 'other', 1, 1), ('was here', 'a', -1, -1);
SELECT stream_ckpt.create_pipeline('keyed', 'SELECT k, count(*) AS n, sum(v) AS total FROM s GROUP BY k', sink => 'kept');
INSERT INTO s VALUES ('a', 1), ('b', 2), (NULL, 3);
SELECT stream_ckpt.checkpoint();
SELECT * FROM kept ORDER BY k;
UPDATE kept SET note = 'mine' WHERE k = 'b';
INSERT INTO s VALUES ('b', 20), (NULL, 30), ('c', 5);
SELECT stream_ckpt.checkpoint();
SELECT * FROM kept ORDER BY k;
-- a row that somebody deleted comes back with its next change
DELETE FROM kept WHERE k IN ('b', 'c');
INSERT INTO s VALUES ('b', 200);
SELECT stream_ckpt.checkpoint();
SELECT * FROM kept ORDER BY k;

-- an ungrouped result is added to what is there
CREATE TABLE log (id int GENERATED ALWAYS AS IDENTITY, v int CHECK (v < 1000), k varchar(3), at timestamptz DEFAULT now());
SELECT stream_ckpt.create_pipeline('logged', 'SELECT v, k FROM s WHERE k IS NOT NULL', sink => 'log');
INSERT INTO s VALUES ('a', 10), ('b', 20), (NULL, 30);
SELECT stream_ckpt.checkpoint();
SELECT id, v, k, at IS NOT NULL AS stamped FROM log ORDER BY id;

-- triggers, indexes, foreign keys of the result belong to its owner and work
CREATE TABLE audit (op text, k text, n bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO sinks.audit VALUES (TG_OP, NEW.k, NEW.n); RETURN NULL; END$$;
SELECT stream_ckpt.create_pipeline('watched', 'SELECT k, count(*) AS n FROM s GROUP BY k HAVING count(*) < 3');
SELECT stream_ckpt.checkpoint();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION note();
CREATE INDEX ON watched (n, upper(k));
INSERT INTO s VALUES ('x', 1);
SELECT stream_ckpt.checkpoint();
INSERT INTO s VALUES ('x', 1), ('y', 1);
SELECT stream_ckpt.checkpoint();
INSERT INTO s VALUES ('x', 1);
SELECT stream_ckpt.checkpoint();
SELECT * FROM audit ORDER BY k, n;
SELECT * FROM watched ORDER BY k;

-- refused
CREATE TABLE no_unique (k text, n bigint);
CREATE TABLE distinct_nulls (k text UNIQUE, n bigint);
CREATE TABLE partial (k text, n bigint);
CREATE UNIQUE INDEX ON partial (k) NULLS NOT DISTINCT WHERE n > 0;
CREATE TABLE lacking (k text UNIQUE NULLS NOT DISTINCT);
CREATE TABLE other_type (k text UNIQUE NULLS NOT DISTINCT, n point);
CREATE TABLE deferred (k text, n bigint, UNIQUE NULLS NOT DISTINCT (k) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE deferred_trigger (k text UNIQUE NULLS NOT DISTINCT, n bigint);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred_trigger DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE secured (k text UNIQUE NULLS NOT DISTINCT, n bigint);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
ALTER TABLE secured FORCE ROW LEVEL SECURITY;
CREATE VIEW a_view AS SELECT * FROM kept;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM kept;
CREATE TABLE parts (k text, n bigint, UNIQUE NULLS NOT DISTINCT (k)) PARTITION BY LIST (k);
CREATE SEQUENCE a_sequence;
CREATE TEMP TABLE temporary (k text UNIQUE NULLS NOT DISTINCT, n bigint);
SELECT sink, (try(format('SELECT stream_ckpt.create_pipeline(%L, %L, sink => %L)', 'p', 'SELECT k, count(*) AS n FROM s GROUP BY k', sink))).*
FROM unnest('{no_unique,distinct_nulls,partial,lacking,other_type,deferred,deferred_trigger,secured,a_view,a_matview,parts,a_sequence,temporary,pg_class,nosuch}'::text[]) sink;
-- a primary key cannot take NULL keys: fine as long as none comes
CREATE TABLE primary_key (k text PRIMARY KEY, n bigint);
SELECT stream_ckpt.create_pipeline('pk', 'SELECT k, count(*) AS n FROM s WHERE k IS NOT NULL GROUP BY k', sink => 'primary_key');
INSERT INTO s VALUES ('pk', 1), (NULL, 1);
SELECT stream_ckpt.checkpoint();
SELECT * FROM primary_key;

-- the result's table is held by its pipeline
DROP VIEW a_view;
DROP MATERIALIZED VIEW a_matview;
SELECT command, (try(command)).* FROM (VALUES
    ('DROP TABLE kept'), ('DROP TABLE watched')) v(command);

SELECT stream_ckpt.drop_pipeline('logged');

-- a row that the table refuses stops the pipeline; its owner mends the table and resumes; nothing is lost or doubled
SELECT stream_ckpt.create_pipeline('narrow', 'SELECT k, v FROM s', sink => 'log');
INSERT INTO s VALUES ('abc', 1);
SELECT stream_ckpt.checkpoint('narrow') > 0 AS done;
INSERT INTO s VALUES ('def', 2), ('abcd', 3);
SELECT (try($$SELECT stream_ckpt.checkpoint('narrow', '10 s')$$)).code <> '00000' AS stopped;
SELECT status, regexp_replace(error, '[0-9A-F]+/[0-9A-F]+', 'x/x', 'g') AS error FROM stream_ckpt.pipelines WHERE pipeline = 'narrow';
SELECT count(*) FROM log WHERE k = 'def';
INSERT INTO s VALUES ('ghi', 4);
SELECT stream_ckpt.checkpoint('keyed') > 0 AS done;
ALTER TABLE log ALTER COLUMN k TYPE text;
SELECT stream_ckpt.resume_pipeline('narrow');
SELECT stream_ckpt.checkpoint('narrow') > 0 AS done;
SELECT v, k FROM log WHERE k IN ('abc', 'def', 'abcd', 'ghi') ORDER BY v, k;

SET client_min_messages = warning;
DROP SCHEMA sinks CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
