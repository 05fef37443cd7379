-- Every way a row can be inserted, and none that a table would refuse.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA inserts;
SET search_path = inserts;
SELECT stream_ckpt.create_stream('s', 'id int NOT NULL, how text DEFAULT ''default'', n int DEFAULT 7 CHECK (n < 1000), twice int GENERATED ALWAYS AS (id * 2) STORED');
SELECT stream_ckpt.create_pipeline('copied', 'SELECT * FROM s');
SELECT stream_ckpt.create_pipeline('counted', 'SELECT how, count(*), sum(n), sum(twice) AS twice FROM s GROUP BY how');

INSERT INTO s (id, how) VALUES (1, 'single');
INSERT INTO s (id, how) VALUES (2, 'multi'), (3, 'multi'), (4, 'multi');
INSERT INTO s (id, how, n) SELECT i, 'select', i FROM generate_series(5, 104) i;
INSERT INTO s (id) VALUES (105);
INSERT INTO s VALUES (106, DEFAULT, DEFAULT);
INSERT INTO s (id, how, n) VALUES (107, NULL, NULL);
INSERT INTO s (id, how) SELECT 1, 'none' WHERE false;

-- RETURNING, and what is built on it
INSERT INTO s (id, how) VALUES (108, 'returning'), (109, 'returning') RETURNING *;
INSERT INTO s (id, how) VALUES (110, 'returning') RETURNING id + 1 AS next, twice, tableoid::regclass;
WITH i AS (INSERT INTO s (id, how) SELECT g, 'cte' FROM generate_series(111, 113) g RETURNING id, twice)
SELECT count(*), sum(twice) FROM i;
INSERT INTO s (id, how) VALUES (114, 'conflict') ON CONFLICT DO NOTHING;

-- prepared, more often than a generic plan takes to come
PREPARE ins(int, text) AS INSERT INTO s (id, how) VALUES ($1, $2);
EXECUTE ins(120, 'prepared');
EXECUTE ins(121, 'prepared');
EXECUTE ins(122, 'prepared');
EXECUTE ins(123, 'prepared');
EXECUTE ins(124, 'prepared');
EXECUTE ins(125, 'prepared');
EXECUTE ins(126, 'prepared');
DEALLOCATE ins;

-- COPY: text, csv, binary
COPY s (id, how, n) FROM STDIN;
200	copy text	1
201	copy text	\N
202	copy\ttab	3
\.
COPY s (id, how, n) FROM STDIN (FORMAT csv, HEADER);
id,how,n
210,"copy, csv",1
211,"copy, csv",
\.
COPY s (id, how) FROM STDIN WHERE id > 220;
220	filtered
221	filtered
\.
CREATE TABLE t (id int, how text, n int);
INSERT INTO t SELECT i, 'binary', 1 FROM generate_series(230, 239) i;
\copy t TO 'results/inserts.bin' (FORMAT binary)
\copy s (id, how, n) FROM 'results/inserts.bin' (FORMAT binary)

-- from functions and triggers
CREATE FUNCTION put(i int) RETURNS void LANGUAGE sql AS $$INSERT INTO s (id, how) VALUES (i, 'sql function')$$;
SELECT put(i) FROM generate_series(240, 242) i;
DO $$BEGIN FOR i IN 250..254 LOOP INSERT INTO s (id, how) VALUES (i, 'plpgsql'); END LOOP; END$$;
CREATE FUNCTION forward() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO s (id, how) VALUES (NEW.id, 'trigger'); RETURN NEW; END$$;
CREATE TRIGGER forward AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION forward();
INSERT INTO t (id) VALUES (260), (261);

-- triggers of the stream itself
CREATE FUNCTION upper_how() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.id = 271 THEN RETURN NULL; END IF; NEW.how := upper(NEW.how); RETURN NEW; END$$;
CREATE TRIGGER upper_how BEFORE INSERT ON s FOR EACH ROW EXECUTE FUNCTION upper_how();
INSERT INTO s (id, how) VALUES (270, 'before row'), (271, 'skipped'), (272, 'before row');
DROP TRIGGER upper_how ON s;

-- a view over the stream, and a rule on a table
CREATE VIEW v AS SELECT id, how FROM s WITH LOCAL CHECK OPTION;
INSERT INTO v VALUES (280, 'view');
CREATE TABLE ruled (id int);
CREATE RULE send AS ON INSERT TO ruled DO INSTEAD INSERT INTO s (id, how) VALUES (NEW.id, 'rule');
INSERT INTO ruled VALUES (290), (291);

-- a partitioned table routes to a stream; its constraint holds
CREATE TABLE parent (id int NOT NULL, how text, n int) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF parent FOR VALUES FROM (0) TO (1000);
CREATE FOREIGN TABLE high PARTITION OF parent FOR VALUES FROM (1000) TO (2000) SERVER stream_ckpt;
SELECT stream_ckpt.create_pipeline('routed', 'SELECT how, count(*), min(id), max(id) FROM high GROUP BY how');
INSERT INTO parent SELECT i, 'routed', 1 FROM generate_series(990, 1009) i;
COPY parent FROM STDIN;
999	copied	1
1999	copied	1
\.
\set VERBOSITY sqlstate
INSERT INTO parent VALUES (2000, 'nowhere');
INSERT INTO high VALUES (1, 'wrong partition');

-- constraints hold, and a failed statement leaves nothing
INSERT INTO s (id) VALUES (NULL);
INSERT INTO s (id, n) VALUES (301, 1000);
INSERT INTO s (id, how, n) SELECT i, 'failed', CASE WHEN i = 900 THEN 1000 END FROM generate_series(301, 999) i;
INSERT INTO s (id, how) SELECT i, 'failed' || 1 / (900 - i) FROM generate_series(301, 999) i;
INSERT INTO s (id, twice) VALUES (301, 1);
INSERT INTO s (id, nosuch) VALUES (301, 1);
COPY s (id, how) FROM STDIN;
301	failed
x	failed
\.
\set VERBOSITY default

SELECT stream_ckpt.checkpoint();
SELECT * FROM counted ORDER BY how COLLATE "C";
SELECT how, count(*), sum(n), sum(twice) FROM copied GROUP BY how
EXCEPT ALL SELECT * FROM counted;
SELECT count(*), count(DISTINCT id), sum(id), bool_and(twice = id * 2) FROM copied;
SELECT * FROM copied WHERE id BETWEEN 100 AND 110 ORDER BY id;
SELECT * FROM routed ORDER BY how;
SELECT count(*) FROM low;

SET client_min_messages = warning;
DROP SCHEMA inserts CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
SELECT count(*) AS streams FROM stream_ckpt.streams;
