-- Streams joined with ordinary tables.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA joins;
SET search_path = joins;
SELECT stream_ckpt.create_stream('orders', 'id int, customer int, amount numeric');
CREATE TABLE customer (id int PRIMARY KEY, country text, name text);
CREATE TABLE discount (country text, above numeric, percent int);
INSERT INTO customer VALUES (1, 'de', 'Anna'), (2, 'fr', 'Bob'), (3, NULL, 'Cleo');
INSERT INTO discount VALUES ('de', 10, 5), ('de', 100, 10), ('fr', 0, 1);
CREATE VIEW german AS SELECT * FROM customer WHERE country = 'de';
CREATE FUNCTION country_of(customer_id int) RETURNS text LANGUAGE plpgsql STABLE AS
    $$BEGIN RETURN (SELECT country FROM joins.customer WHERE id = customer_id); END$$;

SELECT stream_ckpt.create_pipeline('inner_join', 'SELECT o.id, c.name FROM orders o JOIN customer c ON c.id = o.customer');
SELECT stream_ckpt.create_pipeline('left_join', 'SELECT o.id, c.name FROM orders o LEFT JOIN customer c ON c.id = o.customer');
SELECT stream_ckpt.create_pipeline('right_join', 'SELECT o.id, c.name FROM customer c RIGHT JOIN orders o ON c.id = o.customer');
SELECT stream_ckpt.create_pipeline('many', 'SELECT o.id, d.percent FROM orders o JOIN customer c ON c.id = o.customer JOIN discount d ON d.country = c.country AND o.amount > d.above');
SELECT stream_ckpt.create_pipeline('lateral_join', 'SELECT o.id, l.percent FROM orders o JOIN customer c ON c.id = o.customer LEFT JOIN LATERAL (SELECT percent FROM discount d WHERE d.country = c.country AND o.amount > d.above ORDER BY percent DESC LIMIT 1) l ON true');
SELECT stream_ckpt.create_pipeline('grouped', 'SELECT c.country, count(*) AS n, sum(o.amount) AS amount FROM orders o LEFT JOIN customer c ON c.id = o.customer GROUP BY c.country');
SELECT stream_ckpt.create_pipeline('sub_select', 'SELECT o.id, (SELECT max(percent) FROM discount) AS best FROM orders o WHERE o.customer IN (SELECT id FROM customer WHERE country IS NOT NULL)');
SELECT stream_ckpt.create_pipeline('not_exists', 'SELECT o.id FROM orders o WHERE NOT EXISTS (SELECT FROM customer c WHERE c.id = o.customer)');
SELECT stream_ckpt.create_pipeline('through_view', 'SELECT o.id, g.name FROM orders o, german g WHERE g.id = o.customer');
SELECT stream_ckpt.create_pipeline('with_cte', 'WITH big AS (SELECT * FROM orders WHERE amount > 50), r AS MATERIALIZED (SELECT country, count(*) AS c FROM customer GROUP BY country) SELECT b.id, r.c FROM big b JOIN customer c ON c.id = b.customer JOIN r ON r.country = c.country');
SELECT stream_ckpt.create_pipeline('by_function', 'SELECT country_of(customer) AS country, count(*) AS n FROM orders GROUP BY country_of(customer)');
SELECT stream_ckpt.create_pipeline('unnested', 'SELECT o.id, u.i FROM orders o, generate_series(1, o.customer) u(i)');
SELECT stream_ckpt.create_pipeline('srf', 'SELECT id, generate_series(1, customer) AS i, unnest(array[10, 20]) AS j FROM orders');
SELECT stream_ckpt.create_pipeline('sub_query', 'SELECT k, count(*) AS n FROM (SELECT customer % 2 AS k, amount FROM orders WHERE amount IS NOT NULL) q GROUP BY k');
SELECT stream_ckpt.create_pipeline('values_join', 'SELECT o.id, v.w FROM orders o JOIN (VALUES (1, ''one''), (2, ''two'')) v(i, w) ON v.i = o.customer');

INSERT INTO orders VALUES (1, 1, 150), (2, 1, 50), (3, 2, 5), (4, 3, 60), (5, 4, 70), (6, NULL, NULL);
SELECT stream_ckpt.checkpoint();
SELECT * FROM inner_join ORDER BY 1, 2;
SELECT * FROM left_join ORDER BY 1, 2;
SELECT * FROM right_join EXCEPT ALL SELECT * FROM left_join;
SELECT count(*) FROM right_join;
SELECT * FROM many ORDER BY 1, 2;
SELECT * FROM lateral_join ORDER BY 1, 2;
SELECT * FROM grouped ORDER BY 1;
SELECT * FROM sub_select ORDER BY 1;
SELECT * FROM not_exists ORDER BY 1;
SELECT * FROM through_view ORDER BY 1;
SELECT * FROM with_cte ORDER BY 1;
SELECT * FROM by_function ORDER BY 1;
SELECT * FROM unnested ORDER BY 1, 2;
SELECT * FROM srf ORDER BY 1, 2, 3;
SELECT * FROM sub_query ORDER BY 1;
SELECT * FROM values_join ORDER BY 1;

-- later rows see the tables as they are then; earlier results stay
UPDATE customer SET name = 'Anne', country = 'at' WHERE id = 1;
INSERT INTO customer VALUES (4, 'es', 'Dora');
INSERT INTO orders VALUES (7, 1, 10), (8, 4, 20);
SELECT stream_ckpt.checkpoint();
SELECT * FROM inner_join ORDER BY 1, 2;
SELECT * FROM grouped ORDER BY 1;
SELECT * FROM by_function ORDER BY 1;

-- a row and the dimension row that it needs, written by one transaction, in either order
BEGIN;
INSERT INTO orders VALUES (9, 5, 1);
INSERT INTO customer VALUES (5, 'it', 'Emil');
INSERT INTO orders VALUES (10, 5, 1);
COMMIT;
SELECT stream_ckpt.checkpoint();
SELECT * FROM inner_join WHERE id >= 9 ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA joins CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
