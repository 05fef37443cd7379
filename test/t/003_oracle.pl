# Many queries over random rows: after each of several checkpoints, a restart
# and a crash, each result equals the same SQL text over a table of the same rows.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $seed = seed_random();
my $node = new_cluster('oracle', 'stream_ckpt.checkpoint_interval' => "'300ms'");
my @queries;

# Types as keys: column, SQL type, an expression of a random number x in 0 .. 999.
my @columns = (
	[ c_bool => 'bool', 'x % 2 = 0' ],
	[ c_int2 => 'int2', 'x % 20 - 10' ],
	[ c_int4 => 'int4', 'x % 50 - 25' ],
	[ c_int8 => 'int8', '(x % 30)::bigint * 10000000000 - 5' ],
	[ c_float4 => 'float4', q{(ARRAY['0', '-0', 'NaN', 'Infinity', '-Infinity', '0.1', '1e-30'])[x % 7 + 1]::float4} ],
	[ c_float8 => 'float8', q{(ARRAY['0', '-0', 'NaN', 'Infinity', '-Infinity', '0.1', '1e-300', '1'])[x % 8 + 1]::float8} ],
	[ c_numeric => 'numeric', q{(ARRAY['1', '1.0', '1.00', '0', '-0.0', 'NaN', 'Infinity', '123456789012345678901234567890.5', '1e-20'])[x % 9 + 1]::numeric} ],
	[ c_text => 'text', q{repeat(chr(97 + x % 5), x % 3)} ],
	[ c_utf8 => 'text', q{(ARRAY['ä', 'Ä', 'ae', 'ß', 'ss', '日本', '😀'])[x % 7 + 1]} ],
	[ c_varchar => 'varchar(8)', q{substr(md5((x % 12)::text), 1, 8)} ],
	[ c_bpchar => 'char(6)', q{rpad('ab', x % 7)} ],
	[ c_nocase => 'text COLLATE nocase', q{(ARRAY['abc', 'ABC', 'Abc', 'abd', 'É', 'é', 'e'])[x % 7 + 1]} ],
	[ c_noaccent => 'text COLLATE noaccent', q{(ARRAY['É', 'é', 'e', 'E', 'f', ''])[x % 6 + 1]} ],
	[ c_citext => 'citext', q{(ARRAY['Hello', 'HELLO', 'hello', 'world', 'World'])[x % 5 + 1]::citext} ],
	[ c_name => 'name', q{('n' || x % 5)::name} ],
	[ c_char => '"char"', q{chr(65 + x % 5)::"char"} ],
	[ c_bytea => 'bytea', q{decode(lpad(to_hex(x % 6), 4, '0'), 'hex')} ],
	[ c_date => 'date', q{CASE x % 6 WHEN 0 THEN 'infinity' WHEN 1 THEN '4000-01-01 BC' ELSE date '2024-02-28' + x % 6 END} ],
	[ c_time => 'time', q{time '00:00' + x % 7 * interval '1:23:45.678'} ],
	[ c_timetz => 'timetz', q{(ARRAY['12:00+00', '13:00+01', '12:00+01'])[x % 3 + 1]::timetz} ],
	[ c_timestamp => 'timestamp', q{timestamp '2024-01-01' + x % 11 * interval '7:11:13.5'} ],
	[ c_timestamptz => 'timestamptz', q{CASE x % 9 WHEN 0 THEN '-infinity' ELSE timestamptz '2024-03-31 00:30+00' + x % 9 * interval '30 min' END} ],
	[ c_interval => 'interval', q{(ARRAY['1 day', '24 hours', '1 mon', '30 days', '-1 hour', '0'])[x % 6 + 1]::interval} ],
	[ c_uuid => 'uuid', q{md5((x % 8)::text)::uuid} ],
	[ c_inet => 'inet', q{(ARRAY['10.0.0.1', '10.0.0.1/32', '10.0.0.1/8', '::1'])[x % 4 + 1]::inet} ],
	[ c_cidr => 'cidr', q{(ARRAY['10.0.0.0/8', '10.1.0.0/16', '::/0'])[x % 3 + 1]::cidr} ],
	[ c_macaddr => 'macaddr', q{('08:00:2b:01:02:0' || x % 4)::macaddr} ],
	[ c_jsonb => 'jsonb', q{(ARRAY['{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}', '[1, 2]', '"x"', 'null', '1', '1.00'])[x % 7 + 1]::jsonb} ],
	[ c_ints => 'int[]', q{(ARRAY['{}', '{1,2}', '{1,NULL}', '{{1,2},{3,4}}', '[0:1]={1,2}'])[x % 5 + 1]::int[]} ],
	[ c_texts => 'text[]', q{ARRAY['a', repeat('b', x % 3), NULLIF(x % 3, 0)::text]} ],
	[ c_numerics => 'numeric[]', q{ARRAY[(ARRAY['1', '1.0', '2'])[x % 3 + 1]::numeric]} ],
	[ c_enum => 'mood', q{(ARRAY['sad', 'ok', 'happy'])[x % 3 + 1]::mood} ],
	[ c_enums => 'mood[]', q{ARRAY[(ARRAY['sad', 'ok', 'happy'])[x % 3 + 1]::mood]} ],
	[ c_pair => 'pair', q{ROW(x % 3, NULLIF(x % 4, 0))::pair} ],
	[ c_domain => 'positive', q{x % 5 + 1} ],
	[ c_range => 'int4range', q{int4range(x % 3, x % 3 + x % 4)} ],
	[ c_numrange => 'numrange', q{numrange(0, (ARRAY['1', '1.0', '2'])[x % 3 + 1]::numeric)} ],
	[ c_tsrange => 'tstzrange', q{tstzrange('2024-01-01', NULLIF(timestamptz '2024-01-01' + x % 4 * interval '1 day', '2024-01-01'))} ],
	[ c_multirange => 'int4multirange', q{int4multirange(int4range(0, x % 4), int4range(10, 11))} ],
	[ c_oid => 'oid', q{(x % 4)::oid} ],
	[ c_xid => 'xid', q{(x % 4)::text::xid} ],
	[ c_tid => 'tid', q{format('(%s,1)', x % 4)::tid} ],
	[ c_lsn => 'pg_lsn', q{'0/0'::pg_lsn + x % 4} ]);

# Each key type alone; EXCEPT ALL compares keys with the type's own equality.
push @queries, map { "SELECT $_->[0], count(*) AS n, sum(v) AS v FROM s GROUP BY $_->[0]" } @columns;

my @aggregates = map { "SELECT k, $_ FROM s GROUP BY k" } (
	'count(*) AS n, count(v) AS v, count(c_text) AS t, count(s.*) AS r',
	'sum(c_int2) AS a, sum(c_int4) AS b, sum(c_int8) AS c, sum(d) AS d, sum(c_interval) AS e, sum(d::money) AS f',
	'avg(c_int2) AS a, avg(c_int4) AS b, avg(c_int8) AS c, avg(d) AS d, avg(c_interval) AS e',
	'sum(c_numeric) AS a, avg(c_numeric) AS b, max(c_numeric) AS c, min(c_numeric) AS e',
	'sum(f) AS approx_a, avg(f) AS approx_b, sum(f::float4) AS b4, min(f) AS c, max(f) AS d',
	'sum(c_float8) AS approx_a, avg(c_float8) AS approx_b, max(c_float8) AS c, min(c_float4) AS d',
	'stddev(f) AS approx_a, stddev_pop(f) AS approx_b, variance(f) AS approx_c, var_pop(f) AS approx_d, var_samp(f) AS approx_e',
	'stddev(d) AS a, stddev_pop(d) AS b, variance(d) AS c, var_pop(d) AS e, stddev_samp(d) AS f',
	'stddev(v) AS a, var_pop(v) AS b, stddev(c_int2) AS c, variance(c_int8) AS d, stddev_pop(c_int2) AS e, var_samp(c_int8) AS f',
	'corr(f, v) AS approx_a, covar_pop(f, v) AS approx_b, covar_samp(f, v) AS approx_c',
	'regr_avgx(f, v) AS approx_a, regr_avgy(f, v) AS approx_b, regr_count(f, v) AS c, regr_intercept(f, v) AS approx_d, regr_r2(f, v) AS approx_e',
	'regr_slope(f, v) AS approx_a, regr_sxx(f, v) AS approx_b, regr_sxy(f, v) AS approx_c, regr_syy(f, v) AS approx_d',
	'min(c_text) AS a, max(c_text) AS b, min(c_bpchar) AS c, max(c_varchar) AS d, max(c_citext) AS e',
	'min(c_date) AS a, max(c_time) AS b, min(c_timetz) AS c, max(c_timestamp) AS d, min(c_timestamptz) AS e, max(c_interval) AS f',
	'min(c_inet) AS a, max(c_enum) AS b, min(c_oid) AS c, max(c_tid) AS d, min(c_lsn) AS e, max(c_ints) AS f, min(c_numerics) AS g, max(d::money) AS h',
	'bool_and(c_bool) AS a, bool_or(c_bool) AS b, every(v > -400) AS c',
	'bit_and(c_int2) AS a, bit_or(c_int4) AS b, bit_xor(c_int8) AS c, bit_and(v::bit(12)) AS d, bit_or(v::bit(12)) AS e, bit_xor(v::bit(12)) AS f',
	'range_agg(c_range) AS a, range_intersect_agg(c_numrange) AS b, range_intersect_agg(c_multirange) AS c',
	'count(*) FILTER (WHERE v > 0) AS a, sum(v) FILTER (WHERE c_bool) AS b, max(c_text) FILTER (WHERE v IS NULL) AS c, avg(d) FILTER (WHERE false) AS e',
	'product(f / 500 + 1) AS approx_p, first(c_int4) AS f, list(c_char) AS l');
# range_agg keeps a state that cannot be stored
@aggregates = map { s/range_agg\(c_range\) AS a, //r } @aggregates;
push @queries, @aggregates;

# keys, HAVING, expressions, no grouping
push @queries, (
	'SELECT k, c_bool, c_text, count(*) AS n, max(v) AS v FROM s GROUP BY k, c_bool, c_text',
	'SELECT c_int2, c_int4, c_float8, c_numeric, c_nocase, c_jsonb, count(*) AS n FROM s GROUP BY 1, 2, 3, 4, 5, 6',
	'SELECT k % 3 AS a, upper(c_text) AS b, v > 0 AS c, count(*) * 2 + 1 AS n, sum(v) / count(*) AS q FROM s GROUP BY 1, 2, 3',
	'SELECT date_trunc(\'hour\', ts) AS h, count(*) AS n FROM s GROUP BY 1',
	'SELECT extract(dow FROM ts) AS dow, to_char(ts, \'HH24\') AS h, count(*) AS n, min(ts) AS f, max(ts) - min(ts) AS l FROM s GROUP BY 1, 2',
	'SELECT k, count(*) AS n FROM s GROUP BY k HAVING count(*) > 30',
	'SELECT k, sum(v) AS v FROM s WHERE v IS NOT NULL GROUP BY k HAVING sum(v) BETWEEN -2000 AND 2000 AND k IS NOT NULL',
	'SELECT k, CASE WHEN count(*) > 20 THEN max(c_text) ELSE min(c_varchar) END AS c, coalesce(sum(v), k, 0) AS v FROM s GROUP BY k',
	'SELECT count(*) AS n, sum(v) AS v, max(c_text) AS t, avg(d) AS d FROM s',
	'SELECT count(*) AS n FROM s HAVING count(*) > 100',
	'SELECT sum(v) AS v FROM s WHERE false',
	'SELECT max(v) AS top FROM s WHERE k = 3 HAVING max(v) IS NOT NULL',
	'SELECT k FROM s GROUP BY k',
	'SELECT k, k + 1 AS k1, k::text || c_bool AS t, c_bool FROM s GROUP BY k, c_bool',
	'SELECT NULL::int AS nothing, count(*) AS n FROM s GROUP BY 1',
	'SELECT c_text COLLATE "C" AS c, max(c_utf8 COLLATE "de-x-icu") AS m FROM s GROUP BY 1');

# windows without functions for them
push @queries, (
	q{SELECT date_bin('1 hour', ts, '2000-01-03') AS w, k, count(*) AS n FROM s GROUP BY date_bin('1 hour', ts, '2000-01-03'), k},
	q{SELECT w, sum(v) AS v FROM s, generate_series(date_bin('20 min', ts, '2000-01-03') - interval '40 min', date_bin('20 min', ts, '2000-01-03'), '20 min') w GROUP BY w},
	q{SELECT date_bin('7 min', ts, '2024-01-01 00:03+00') AS w, v FROM s WHERE v > 400});

# joins with tables, sub-queries, LATERAL
push @queries, (
	'SELECT d.name, count(*) AS n, sum(s.v * d.factor) AS v FROM s JOIN dim d ON d.id = s.k GROUP BY d.name',
	'SELECT d.name, count(*) AS n, count(d.id) AS m FROM s LEFT JOIN dim d ON d.id = s.k GROUP BY d.name',
	'SELECT s.k, s.v, d.name FROM s LEFT JOIN dim d ON d.id = s.k AND d.factor > 1',
	'SELECT d.name, s.v FROM dim d RIGHT JOIN s ON d.id = s.k WHERE s.v % 7 = 0',
	'SELECT s.v, x.n FROM s, LATERAL (SELECT count(*) AS n FROM dim d WHERE d.factor > s.k) x WHERE s.v > 300',
	'SELECT k, v FROM s WHERE k IN (SELECT id FROM dim WHERE factor > 2)',
	'SELECT k, v FROM s WHERE NOT EXISTS (SELECT FROM dim WHERE id = s.k)',
	'SELECT k, (SELECT name FROM dim WHERE id = s.k) AS name, v FROM s WHERE v < -300',
	'SELECT a.name, b.name AS other, count(*) AS n FROM s JOIN dim a ON a.id = s.k JOIN dim b ON b.factor = a.factor AND b.id <> a.id GROUP BY 1, 2',
	'SELECT q.b, count(*) AS n, max(q.v) AS v FROM (SELECT k % 4 AS b, v FROM s WHERE v IS NOT NULL) q GROUP BY q.b',
	'WITH w AS (SELECT k, v FROM s WHERE c_bool), m AS MATERIALIZED (SELECT factor, count(*) AS c FROM dim GROUP BY 1) SELECT w.k, m.c, count(*) AS n FROM w JOIN dim d ON d.id = w.k JOIN m USING (factor) GROUP BY 1, 2',
	'SELECT g, count(*) AS n FROM s, generate_series(1, abs(s.k)) g GROUP BY g',
	'SELECT u, count(*) AS n FROM s, unnest(c_texts) u GROUP BY u',
	'SELECT j.key, j.value, count(*) AS n FROM s, jsonb_each_text(CASE WHEN jsonb_typeof(c_jsonb) = \'object\' THEN c_jsonb END) j GROUP BY 1, 2',
	'SELECT twice(k) AS t, count(*) AS n, max(plus(v)) AS p FROM s GROUP BY twice(k)');

# no grouping
push @queries, (
	'SELECT * FROM s WHERE v % 5 = 0',
	'SELECT k, v * 2 AS v, upper(c_text) || \'!\' AS t, c_jsonb -> \'a\' AS j FROM s WHERE v > 0 OR c_bool',
	'SELECT s.c_pair, (c_pair).b, s IS NULL AS n, ROW(k, v) = ROW(1, v) AS r FROM s WHERE k = 1',
	'SELECT k, unnest(c_ints) AS u, generate_series(1, 2) AS g FROM s WHERE v > 350',
	'SELECT k, point(k, v) AS p, to_json(c_texts) AS j FROM s WHERE v IS NOT NULL AND k < 3',
	'SELECT f, f * 3 AS f3, f / 7 AS f7, sqrt(abs(f)) AS r FROM s');

my @optional;
my %installed;
foreach my $extension ('hll', 'tdigest')
{
	$installed{$extension} = $node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = '$extension'");
}
push @queries, 'SELECT k, hll_cardinality(hll_add_agg(hll_hash_text(c_varchar))) AS approx_h, hll_cardinality(hll_add_agg(hll_hash_integer(v))) AS approx_c FROM s WHERE v IS NOT NULL GROUP BY k'
  if $installed{hll};
push @queries, 'SELECT k, tdigest_count(tdigest(f, 100)) AS c FROM s WHERE f IS NOT NULL GROUP BY k' if $installed{tdigest};

# ---- the stream, a table of the same name in another schema, and what queries use ----

my $definition = join ', ', 'k int, v int, f float8, d numeric(12,3), ts timestamptz', map { "$_->[0] $_->[1]" } @columns;
my $names = join ', ', qw(k v f d ts), map { $_->[0] } @columns;

$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION citext;
@{[ map { $installed{$_} ? "CREATE EXTENSION $_;" : '' } 'hll', 'tdigest' ]}
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION noaccent (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
CREATE TYPE mood AS ENUM ('sad', 'ok');
ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok';
CREATE TYPE pair AS (a int, b numeric);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE dim (id int PRIMARY KEY, name text, factor int);
INSERT INTO dim SELECT i, 'name ' || i % 4, i % 3 + 1 FROM generate_series(0, 8) i;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT \$1 * 2';
CREATE FUNCTION plus(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN \$1 + 1; END';
CREATE FUNCTION keep_first(anyelement, anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE STRICT AS 'SELECT \$1';
CREATE AGGREGATE first (anyelement) (sfunc = keep_first, stype = anyelement);
CREATE AGGREGATE product (float8) (sfunc = float8mul, stype = float8, initcond = '1');
CREATE FUNCTION collect(text, "char") RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN \$1 || coalesce(\$2::text, ''-''); END';
CREATE AGGREGATE list ("char") (sfunc = collect, stype = text, initcond = '>');
CREATE SCHEMA live;
CREATE SCHEMA oracle;
SET search_path = oracle, public;
-- a table keeps no order, and some aggregates depend on it
CREATE TABLE oracle.rows ($definition, seq bigserial);
CREATE VIEW oracle.s AS SELECT $names FROM oracle.rows ORDER BY seq;
CREATE FOREIGN TABLE live.s ($definition) SERVER stream_ckpt;
CREATE TABLE public.batch ($definition);
SQL

sub quoted
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

my $create = "SET search_path = live, public;\n";
foreach my $i (0 .. $#queries)
{
	$create .= sprintf "SELECT stream_ckpt.create_pipeline('q%03d', %s);\n", $i, quoted($queries[$i]);
}
my $error = '';
$node->psql('postgres', $create, on_error_stop => 0, on_error_die => 0, stderr => \$error);
is($error, '', scalar(@queries) . ' pipelines were created');
cmp_ok(scalar(@queries), '>=', 80, 'as many as were promised');

# a query that was refused has been reported above; go on with the others
my %columns;
foreach (split /\n/, $node->safe_psql('postgres', q{SELECT attrelid::regclass, attname, format_type(atttypid, NULL)
	FROM stream_ckpt.pipelines JOIN pg_attribute ON attrelid = result WHERE attnum > 0 ORDER BY attrelid, attnum}))
{
	my ($relation, $name, $type) = split /\|/;
	push @{ $columns{$relation} }, [ $name, $type ];
}

my $batch = 0;

# Some transactions of random rows, among them ones that do not happen.
sub produce
{
	my ($transactions, $rows) = @_;
	my $values = join ', ', map { "CASE WHEN random() < 0.1 THEN NULL ELSE (SELECT $_->[2] FROM (SELECT (random() * 1000)::int % 1000 + 0 * i AS x) r) END" } @columns;
	my $random = "SELECT NULLIF((random() * 9)::int, 9), NULLIF((random() * 1000)::int - 500, 0), (random() * 1000 - 400) * (i % 100 <> 1)::int, (random() * 100)::numeric(12,3), "
	  . "'2024-01-01 00:00Z'::timestamptz + random() * interval '10 hours', $values FROM generate_series(1, $rows) i";
	my $sql = sprintf "SELECT setseed(%f);\n", ($seed % 1000) / 1000 * 0.5 + ++$batch / 1000;

	foreach my $i (1 .. $transactions)
	{
		$sql .= "TRUNCATE batch;\nINSERT INTO batch $random;\nBEGIN;\nINSERT INTO live.s TABLE batch;\n";
		$sql .= $i % 4 == 3 ? "ROLLBACK;\n" : "INSERT INTO oracle.s TABLE batch;\nCOMMIT;\n";
	}
	$node->safe_psql('postgres', $sql);
	return;
}

sub compare
{
	my ($when) = @_;
	my $sql = "SET search_path = oracle, public;\n";
	my (@wrong, %seen);

	checkpoint($node);
	foreach my $relation (sort keys %columns)
	{
		my ($number) = $relation =~ /q(\d+)/;
		$sql .= "SELECT '$number', " . differences($relation, $queries[$number], @{ $columns{$relation} }) . ";\n";
	}
	my ($rc, $answer, $problem) = $node->psql('postgres', $sql, on_error_stop => 0);

	foreach (split /\n/, $answer)
	{
		my ($number, $count) = split /\|/;
		next if !defined $count;
		$seen{$number} = 1;
		push @wrong, "$count differences: $queries[$number]" if $count ne '0';
	}
	is(join("\n", @wrong, $problem), '', "results are right $when");
	is(scalar(keys %seen), scalar(keys %columns), 'all were compared');
	return;
}

compare('over no rows');
produce(8, 40);
compare('after the first rows');
produce(20, 1);
produce(4, 200);
compare('after more');
$node->restart;
compare('after a restart');
produce(5, 30);
compare('and some rows');
produce(3, 50);
$node->stop('immediate');
$node->start;
compare('after a crash');
produce(5, 30);
$node->stop('immediate');
$node->start;
produce(5, 30);
compare('and after another, with rows before and after');
is($node->safe_psql('postgres', q{SELECT string_agg(pipeline || ': ' || error, '; ') FROM stream_ckpt.pipelines WHERE status <> 'running'}), '', 'all pipelines run');

# state and results agree about the number of groups
is( $node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.pipelines WHERE query LIKE 'SELECT c\_%, count(*) AS n, sum(v) AS v FROM s GROUP BY%'
	AND state_rows <> (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', result), false, true, '')))[1]::text::bigint}),
	'0', 'state_rows counts groups');
$node->stop('fast');
done_testing();
