-- What is rolled back never happened; what is prepared happens when it is committed.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA transactions;
SET search_path = transactions;
SELECT stream_ckpt.create_stream('s', 'k text, v int');
SELECT stream_ckpt.create_pipeline('p', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');
SELECT stream_ckpt.create_pipeline('l', 'SELECT k, v FROM s');

BEGIN; INSERT INTO s VALUES ('committed', 1); COMMIT;
BEGIN; INSERT INTO s VALUES ('rolled back', 1); ROLLBACK;
BEGIN; INSERT INTO s SELECT 'rolled back', i FROM generate_series(1, 5000) i; ROLLBACK;

-- savepoints, nested and released
BEGIN;
INSERT INTO s VALUES ('savepoint', 1);
SAVEPOINT a;
INSERT INTO s VALUES ('rolled back', 2);
SAVEPOINT b;
INSERT INTO s VALUES ('rolled back', 3);
RELEASE b;
ROLLBACK TO a;
INSERT INTO s VALUES ('savepoint', 4);
SAVEPOINT c;
INSERT INTO s VALUES ('savepoint', 5);
RELEASE c;
COMMIT;

-- only a subtransaction writes
BEGIN;
SAVEPOINT a;
INSERT INTO s VALUES ('only sub', 1);
RELEASE a;
COMMIT;
BEGIN;
SAVEPOINT a;
INSERT INTO s VALUES ('rolled back', 1);
ROLLBACK TO a;
COMMIT;

-- more subtransactions than a backend caches
DO $$
BEGIN
    FOR i IN 1..200 LOOP
        BEGIN
            INSERT INTO s VALUES ('exceptions', i);
            IF i % 2 = 0 THEN
                RAISE division_by_zero;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
END $$;

-- a statement that fails within a transaction that goes on
\set VERBOSITY sqlstate
BEGIN;
INSERT INTO s VALUES ('survivor', 1);
SAVEPOINT a;
INSERT INTO s SELECT 'failed statement', 1 / (500 - i) FROM generate_series(1, 1000) i;
ROLLBACK TO a;
INSERT INTO s VALUES ('survivor', 2);
COMMIT;
BEGIN;
INSERT INTO s VALUES ('rolled back', 1);
SELECT 1 / 0;
COMMIT;
\set VERBOSITY default

-- procedures that commit
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..4 LOOP
        INSERT INTO s VALUES ('procedure', i);
        IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF;
    END LOOP;
END $$;
CALL commits();

-- two phases
BEGIN;
INSERT INTO s VALUES ('prepared', 1);
SAVEPOINT a;
INSERT INTO s VALUES ('prepared', 2);
SAVEPOINT b;
INSERT INTO s VALUES ('rolled back', 3);
ROLLBACK TO b;
PREPARE TRANSACTION 'stream_ckpt one';
BEGIN;
INSERT INTO s VALUES ('rolled back', 4);
PREPARE TRANSACTION 'stream_ckpt two';
SELECT stream_ckpt.checkpoint();
SELECT * FROM p WHERE k = 'prepared';
COMMIT PREPARED 'stream_ckpt one';
ROLLBACK PREPARED 'stream_ckpt two';

SELECT stream_ckpt.checkpoint();
SELECT * FROM p ORDER BY k COLLATE "C";
SELECT k, count(*) AS n, sum(v) AS v FROM l GROUP BY k EXCEPT ALL TABLE p;
-- rows of a transaction keep their order
SELECT array_agg(v ORDER BY ctid) FROM l WHERE k IN ('savepoint', 'prepared');

-- of its own transaction a pipeline sees what follows it
BEGIN;
INSERT INTO s VALUES ('before', 1);
SELECT stream_ckpt.create_pipeline('own', 'SELECT k, count(*) AS n FROM s GROUP BY k');
INSERT INTO s VALUES ('after', 1), ('after', 2);
COMMIT;
-- and it can be rolled back
BEGIN;
SELECT stream_ckpt.create_stream('gone', 'a int');
SELECT stream_ckpt.create_pipeline('gone_p', 'SELECT count(*) FROM gone');
INSERT INTO gone VALUES (1);
ROLLBACK;
SELECT to_regclass('gone'), to_regclass('gone_p');
-- stream, pipeline and rows in one transaction
BEGIN;
SELECT stream_ckpt.create_stream('s2', 'a int');
INSERT INTO s2 VALUES (1);
SELECT stream_ckpt.create_pipeline('p2', 'SELECT count(*), sum(a) FROM s2');
INSERT INTO s2 VALUES (2), (3);
COMMIT;
SELECT stream_ckpt.checkpoint();
SELECT * FROM own ORDER BY k;
SELECT * FROM p2;

-- checkpoint() in the transaction that made the pipeline could wait for ever: an error at once
BEGIN;
SELECT stream_ckpt.create_pipeline('soon', 'SELECT count(*) FROM s2');
\set VERBOSITY sqlstate
SELECT stream_ckpt.checkpoint('soon');
\set VERBOSITY default
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA transactions CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
