-- Columns come and go while rows are still unread in the log.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA columns;
SET search_path = columns;
SELECT stream_ckpt.create_stream('s', 'a int, b text, c float8');
SELECT stream_ckpt.create_pipeline('by_a', 'SELECT a, count(*) AS n, count(c) AS cs, sum(c) AS c FROM s GROUP BY a');
SELECT stream_ckpt.create_pipeline('copied', 'SELECT a, c FROM s');
SELECT stream_ckpt.checkpoint();

-- rows of four row types, read all at once
SELECT stream_ckpt.pause_pipeline('by_a');
SELECT stream_ckpt.pause_pipeline('copied');
INSERT INTO s VALUES (1, 'first', 1);
ALTER FOREIGN TABLE s ADD COLUMN d int DEFAULT 5;
INSERT INTO s VALUES (1, 'second', 2, 20);
INSERT INTO s (a, b) VALUES (2, 'second');
ALTER FOREIGN TABLE s DROP COLUMN b;
INSERT INTO s VALUES (1, 4, 40), (2, 8, NULL);
ALTER FOREIGN TABLE s ADD COLUMN b numeric;
INSERT INTO s VALUES (3, 16, 160, 1.5);
SELECT stream_ckpt.resume_pipeline('by_a');
SELECT stream_ckpt.resume_pipeline('copied');
SELECT stream_ckpt.checkpoint();
SELECT * FROM by_a ORDER BY a;
SELECT * FROM copied ORDER BY a, c;

-- a new pipeline sees the new row type; what a column's default was applies to older rows of the same pipeline
SELECT stream_ckpt.create_pipeline('by_d', 'SELECT d, b, count(*) AS n FROM s GROUP BY d, b');
INSERT INTO s VALUES (4, 1, 7, 2.5), (4, 1, NULL, 2.50), (4, 1, 7, NULL);
SELECT stream_ckpt.checkpoint();
SELECT * FROM by_d ORDER BY d, b;

-- within one transaction
BEGIN;
INSERT INTO s (a, c) VALUES (5, 1);
ALTER FOREIGN TABLE s ADD COLUMN e text DEFAULT 'e';
INSERT INTO s (a, c, e) VALUES (5, 2, 'x');
ALTER FOREIGN TABLE s DROP COLUMN d CASCADE;
INSERT INTO s (a, c) VALUES (5, 4);
ROLLBACK;
BEGIN;
INSERT INTO s (a, c) VALUES (6, 1);
ALTER FOREIGN TABLE s ADD COLUMN e text DEFAULT 'e';
INSERT INTO s (a, c, e) VALUES (6, 2, 'x');
COMMIT;
SELECT stream_ckpt.checkpoint();
SELECT * FROM by_a WHERE a >= 5 ORDER BY a;

-- a row type has a column more than the rows that are unread: NULL or its default
SELECT stream_ckpt.create_stream('t', 'a int');
SELECT stream_ckpt.create_pipeline('whole', 'SELECT t.*, 1 AS one FROM t');
SELECT stream_ckpt.checkpoint('whole') > 0 AS done;
INSERT INTO t VALUES (1);
ALTER FOREIGN TABLE t ADD COLUMN z text;
ALTER FOREIGN TABLE t ADD COLUMN y int DEFAULT 9;
INSERT INTO t VALUES (2, 'z', 1);
SELECT stream_ckpt.checkpoint('whole') > 0 AS done;
SELECT * FROM whole ORDER BY a;

-- names and columns that a pipeline's query uses stay
ALTER FOREIGN TABLE s DROP COLUMN a;
ALTER FOREIGN TABLE s RENAME COLUMN a TO renamed;
ALTER FOREIGN TABLE s RENAME TO renamed;
ALTER FOREIGN TABLE s SET SCHEMA public;
ALTER FOREIGN TABLE s ALTER COLUMN a TYPE text;
-- a column that no pipeline uses can go
ALTER FOREIGN TABLE s DROP COLUMN e;
INSERT INTO s (a, c) VALUES (7, 1);
SELECT stream_ckpt.checkpoint('by_a') > 0 AS done;
SELECT a, n FROM by_a WHERE a = 7;

-- with CASCADE, what uses it goes
SET client_min_messages = warning;
ALTER FOREIGN TABLE s DROP COLUMN c CASCADE;
RESET client_min_messages;
SELECT pipeline FROM stream_ckpt.pipelines ORDER BY 1;
INSERT INTO s (a, d) VALUES (8, 9);
SELECT stream_ckpt.checkpoint();
SELECT * FROM by_d WHERE d = 9;

-- its type can change only when nothing unread needs the old one
\set VERBOSITY sqlstate
BEGIN;
INSERT INTO t (a) VALUES (3);
ALTER FOREIGN TABLE t ALTER COLUMN a TYPE text;
ROLLBACK;
\set VERBOSITY default

SET client_min_messages = warning;
DROP SCHEMA columns CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
