-- Values of every kind of type arrive as they were sent, and group as PostgreSQL groups them.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
RESET client_min_messages;
CREATE SCHEMA types;
SET search_path = types, public;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

-- one column of each, in an order that needs padding between them
CREATE TABLE sent (
    id int, c_bool bool, c_int8 int8, c_char "char", c_int2 int2, c_float8 float8, c_bpchar char(5), c_float4 float4,
    c_numeric numeric, c_varchar varchar(10), c_text text, c_name name, c_bytea bytea, c_date date, c_time time, c_timetz timetz,
    c_timestamp timestamp, c_timestamptz timestamptz, c_interval interval, c_uuid uuid, c_inet inet, c_cidr cidr, c_macaddr macaddr,
    c_macaddr8 macaddr8, c_bit bit(3), c_varbit varbit, c_json json, c_jsonb jsonb, c_jsonpath jsonpath, c_xml xml, c_int_array int[], c_text_array text[],
    c_point point, c_line line, c_box box, c_path path, c_polygon polygon, c_circle circle, c_tsvector tsvector, c_tsquery tsquery,
    c_range int4range, c_numrange numrange, c_multirange int4multirange, c_money money, c_mood mood, c_pair pair, c_pairs pair[], c_positive positive,
    c_oid oid, c_xid xid, c_xid8 xid8, c_tid tid, c_lsn pg_lsn, c_regclass regclass, c_regtype regtype, c_refcursor refcursor,
    c_nocase text COLLATE nocase, c_snapshot pg_snapshot, c_aclitem aclitem);
INSERT INTO sent VALUES
    (1, true, 8, 'c', 2, 1.5, 'ab', 0.25, 12345.6789, 'varchar', 'text', 'name', '\x0001ff', '2024-02-29', '12:34:56.789', '12:34:56+02',
     '2024-02-29 12:00', '2024-02-29 12:00+00', '1 mon 2 days 03:04:05', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
     '08:00:2b:01:02:03:04:05', B'101', B'10101', '{"a" : 1}', '{"b": [1, 2.50, null]}', '$.a[*]', '<a>b</a>', '{1,NULL,3}', '{{a,b},{"c d",NULL}}',
     '(1,2)', '{1,2,3}', '((0,0),(1,1))', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>', 'a:1 b:2', 'a & b',
     '[1,5)', '(1.5,2.5]', '{[1,3),[5,7)}', '12.34', 'happy', '(1,"x y")', array[(1,'a'),(2,NULL)]::pair[], 5,
     42, '42', '42', '(1,2)', '1/2A', 'pg_class', 'int4', 'cur',
     'Abc', '10:20:10,14,15', 'pg_monitor=r/pg_monitor'),
    (2, false, -9223372036854775808, '', -32768, '-0', '', 'NaN', 'NaN', '', '', '', '', 'infinity', '00:00', '00:00+14',
     '-infinity', 'infinity', '-1 mons', '00000000-0000-0000-0000-000000000000', '::1', '::/0', '00:00:00:00:00:00',
     '00:00:00:00:00:00:00:00', B'000', B'', 'null', 'null', '$', '', '{}', '{}',
     '(NaN,Infinity)', '{1,0,0}', '((0,0),(0,0))', '((0,0))', '((0,0))', '<(0,0),0>', '', '',
     'empty', '(,)', '{}', '-0.01', 'sad', '(,)', '{}', 1,
     0, '0', '0', '(0,0)', '0/0', '0', '0', '',
     '', '1:1:', 'pg_monitor=/pg_monitor');
INSERT INTO sent (id) VALUES (3);
SELECT count(*) AS columns FROM pg_attribute WHERE attrelid = 'sent'::regclass AND attnum > 0;
SELECT format('CREATE FOREIGN TABLE s (%s) SERVER stream_ckpt',
              string_agg(format('%I %s%s', attname, format_type(atttypid, atttypmod),
                                CASE WHEN attname = 'c_nocase' THEN ' COLLATE nocase' ELSE '' END), ', ' ORDER BY attnum)) AS ddl
FROM pg_attribute WHERE attrelid = 'sent'::regclass AND attnum > 0 \gset
:ddl;
SELECT stream_ckpt.create_pipeline('received', 'SELECT * FROM s');
INSERT INTO s SELECT * FROM sent;
SELECT stream_ckpt.checkpoint();
SELECT (SELECT array_agg(t::text ORDER BY id) FROM sent t) = (SELECT array_agg(t::text ORDER BY id) FROM received t) AS same_rows;
SELECT atttypid::regtype, atttypmod, attcollation FROM pg_attribute WHERE attrelid = 'sent'::regclass AND attnum > 0
EXCEPT ALL
SELECT atttypid::regtype, atttypmod, attcollation FROM pg_attribute WHERE attrelid = 'received'::regclass AND attnum > 0;
TRUNCATE received;

-- each type that can be hashed, as the only key: 40 rows in few groups, NULL among them
CREATE TABLE keyed (type text, pipeline text);
DO $$
DECLARE
    col record;
BEGIN
    FOR col IN
        SELECT a.attname, a.atttypid::regtype::text AS type
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = 'sent'::regclass AND a.attnum > 1
          AND a.attname NOT IN ('c_json', 'c_jsonpath', 'c_xml', 'c_point', 'c_line', 'c_box', 'c_path', 'c_polygon', 'c_circle',
                                'c_tsvector', 'c_tsquery', 'c_money', 'c_bit', 'c_varbit', 'c_refcursor', 'c_snapshot', 'c_regclass', 'c_regtype')
        ORDER BY a.attnum
    LOOP
        PERFORM stream_ckpt.create_pipeline('by_' || col.attname,
            format('SELECT %I, count(*) AS n, sum(id) AS ids FROM s GROUP BY %1$I', col.attname));
        INSERT INTO keyed VALUES (col.type, 'by_' || col.attname);
    END LOOP;
END $$;
INSERT INTO s SELECT * FROM sent;
SELECT stream_ckpt.checkpoint();
INSERT INTO s SELECT * FROM sent;
SELECT stream_ckpt.checkpoint();
CREATE FUNCTION keys_agree(pipeline text, col text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM (SELECT * FROM %I r WHERE NOT EXISTS (
                        SELECT FROM (SELECT %I AS k, count(*) * 2 AS n, sum(id) * 2 AS ids FROM sent GROUP BY 1) o
                        WHERE o.k IS NOT DISTINCT FROM r.%2$I AND o.n = r.n AND o.ids = r.ids)) x', pipeline, col) INTO wrong;
    IF wrong = 0 THEN
        EXECUTE format('SELECT (SELECT count(*) FROM (SELECT %I FROM sent GROUP BY 1) x) - (SELECT count(*) FROM %I)', col, pipeline) INTO wrong;
    END IF;
    RETURN CASE WHEN wrong = 0 THEN 'ok' ELSE wrong || ' wrong' END;
END $$;
SELECT type, keys_agree(pipeline, substr(pipeline, 4)) FROM keyed ORDER BY pipeline COLLATE "C";

-- values that are equal and look different are one group
SELECT stream_ckpt.create_stream('e', 'n numeric, f float8, g float4, b char(4), t text COLLATE types.nocase, i interval, d numeric[], j jsonb, p types.pair, r numrange, z timestamptz');
SELECT stream_ckpt.create_pipeline('e_n', 'SELECT n, count(*) AS c FROM e GROUP BY n');
SELECT stream_ckpt.create_pipeline('e_f', 'SELECT f, count(*) AS c FROM e GROUP BY f');
SELECT stream_ckpt.create_pipeline('e_g', 'SELECT g, count(*) AS c FROM e GROUP BY g');
SELECT stream_ckpt.create_pipeline('e_b', 'SELECT b, count(*) AS c FROM e GROUP BY b');
SELECT stream_ckpt.create_pipeline('e_t', 'SELECT t, count(*) AS c FROM e GROUP BY t');
SELECT stream_ckpt.create_pipeline('e_i', 'SELECT i, count(*) AS c FROM e GROUP BY i');
SELECT stream_ckpt.create_pipeline('e_d', 'SELECT d, count(*) AS c FROM e GROUP BY d');
SELECT stream_ckpt.create_pipeline('e_j', 'SELECT j, count(*) AS c FROM e GROUP BY j');
SELECT stream_ckpt.create_pipeline('e_p', 'SELECT p, count(*) AS c FROM e GROUP BY p');
SELECT stream_ckpt.create_pipeline('e_r', 'SELECT r, count(*) AS c FROM e GROUP BY r');
SELECT stream_ckpt.create_pipeline('e_z', 'SELECT z, count(*) AS c FROM e GROUP BY z');
SELECT stream_ckpt.create_pipeline('e_all', 'SELECT n, f, g, b, t, i, d, j, p, r, z, count(*) AS c FROM e GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11');
INSERT INTO e VALUES (1.0, 0, 0, 'a', 'Éclair', '1 day', '{1.0}', '{"a": 1.0}', '(1,x)', '[1.0,2.0)', '2024-01-01 00:00+00');
SELECT stream_ckpt.checkpoint();
INSERT INTO e VALUES (1.00, '-0', '-0', 'a  ', 'éCLAIR', '24 hours', '{1.00}', '{"a": 1.00}', '(1,x)', '[1,2)', '2024-01-01 01:00+01'),
                     ('NaN', 'NaN', 'NaN', 'b', 'b', '30 days', '{NaN}', '{"a": 2}', '(,)', 'empty', 'infinity');
INSERT INTO e VALUES ('NaN', 'NaN', 'NaN', 'b', 'B', '1 mon', '{NaN}', '{"a": 2}', '(,)', '(1,1)', 'infinity');
INSERT INTO e (n) VALUES (NULL), (NULL);
SELECT stream_ckpt.checkpoint();
SELECT * FROM e_n ORDER BY 1;
SELECT * FROM e_f ORDER BY 1;
SELECT * FROM e_g ORDER BY 1;
SELECT * FROM e_b ORDER BY 1;
SELECT * FROM e_t ORDER BY t COLLATE "C";
SELECT * FROM e_i ORDER BY 1;
SELECT * FROM e_d ORDER BY 1;
SELECT * FROM e_j ORDER BY 1;
SELECT * FROM e_p ORDER BY 1;
SELECT * FROM e_r ORDER BY 1;
SELECT * FROM e_z ORDER BY 1;
SELECT c FROM e_all ORDER BY 1;

-- values far larger than a page, compressed and not
SELECT stream_ckpt.create_stream('big', 'id int, v text');
SELECT stream_ckpt.create_pipeline('big_copy', 'SELECT id, v FROM big');
SELECT stream_ckpt.create_pipeline('big_group', 'SELECT left(v, 10) AS v, count(*) AS n, max(v) AS max FROM big WHERE id > 2 GROUP BY left(v, 10)');
SELECT stream_ckpt.create_pipeline('long_key', 'SELECT v, count(*) AS n, sum(id) AS ids FROM big GROUP BY v');
CREATE TABLE toasted (id int, v text);
ALTER TABLE toasted ALTER COLUMN v SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 1000 * i) g) FROM generate_series(1, 3) i;
INSERT INTO toasted VALUES (4, repeat('x', 5000000));
INSERT INTO big SELECT * FROM toasted;
INSERT INTO big VALUES (5, repeat('x', 5000000));
SELECT stream_ckpt.checkpoint();
SELECT id, length(v), md5(v) = md5((SELECT v FROM toasted t WHERE t.id = least(b.id, 4))) AS same FROM big_copy b ORDER BY id;
SELECT v, n, length(max) FROM big_group ORDER BY 1;
SELECT length(v), n, ids FROM long_key ORDER BY 1;
INSERT INTO big SELECT id, v FROM toasted WHERE id < 4;
SELECT stream_ckpt.checkpoint();
SELECT length(v), n, ids FROM long_key ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA types CASCADE;
SELECT count(*) AS pipelines FROM stream_ckpt.pipelines;
