# Bad rows, groups and results: they become dead letters, once, and leave no
# trace anywhere else; retried, they count once.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time);

my $node = new_cluster('dead', 'stream_ckpt.fault' => "''");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub letters
{
	my ($pipeline) = @_;
	return sql("SELECT count(*) FROM stream_ckpt.dead_letters WHERE pipeline = '$pipeline'");
}

# Is a table, or a sub-select, what a query gives?
sub same
{
	my ($result, $oracle, $what) = @_;
	my $query = $result =~ /^\(/ ? "SELECT * FROM $result" : "TABLE $result";

	return is(sql("SELECT (SELECT count(*) FROM ($oracle EXCEPT ALL $query) x) + (SELECT count(*) FROM ($query EXCEPT ALL $oracle) x)"),
		'0', $what);
}

sub status
{
	my ($pipeline) = @_;
	return sql("SELECT status FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
}

# ---- Expressions, in queries with and without state ----

sql(<<'SQL');
SELECT stream_ckpt.create_stream('s', 'id int, g int, v text');
CREATE TABLE rows (id int, g int, v text);
SELECT stream_ckpt.create_pipeline('grouped', 'SELECT g, count(*) AS n, sum(v::int) AS v, sum(v::numeric) AS w, count(DISTINCT v::int) AS d FROM s GROUP BY g', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('linear', 'SELECT id, v::int AS v FROM s', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('stopped', 'SELECT g, sum(v::int) AS v FROM s GROUP BY g');
CREATE TABLE joined (j int PRIMARY KEY, name text);
INSERT INTO joined SELECT i, 'n' || i FROM generate_series(0, 9) i;
SELECT stream_ckpt.create_pipeline('by_name', 'SELECT name, count(*) AS n, sum(v::int) AS v FROM s JOIN joined ON j = g GROUP BY name', on_error => 'dead_letter');
SQL

sub insert
{
	my ($select) = @_;
	sql("BEGIN; INSERT INTO s $select; INSERT INTO rows $select; COMMIT;");
	return;
}

sub compare
{
	my ($when, $good) = @_;

	$good ||= q{v ~ '^[0-9]+$'};
	sql("SELECT stream_ckpt.checkpoint('$_')") foreach ('grouped', 'linear', 'by_name');
	same('grouped', "SELECT g, count(*), sum(v::int), sum(v::numeric), count(DISTINCT v::int) FROM rows WHERE $good GROUP BY g", "groups: $when");
	same('linear', "SELECT id, v::int FROM rows WHERE $good", "linear: $when");
	same('by_name', "SELECT name, count(*), sum(v::int) FROM rows JOIN joined ON j = g WHERE $good GROUP BY name", "joined: $when");
	same("(SELECT row_data FROM stream_ckpt.dead_letters WHERE pipeline = '$_') y", "SELECT to_jsonb(r) FROM rows r WHERE NOT ($good)",
		"dead letters of $_: $when") foreach ('grouped', 'linear', 'by_name');
	return;
}

insert(q{SELECT i, i % 10, i::text FROM generate_series(1, 5000) i});
compare('before any bad row');
insert(q{SELECT i, i % 10, CASE WHEN i = 7000 THEN 'bad' ELSE i::text END FROM generate_series(5001, 10000) i});
compare('one bad row');
is(sql(q{SELECT string_agg(DISTINCT sqlstate || ' ' || error || ' ' || retriable || ' ' || stage || ' ' || stream, ';') FROM stream_ckpt.dead_letters WHERE pipeline <> 'stopped'}),
	'22P02 invalid input syntax for type integer: "bad" true 0 s', 'a dead letter says what, why and whence');
is(status('stopped'), 'failed', 'on_error => stop stops');
like(sql(q{SELECT error FROM stream_ckpt.pipelines WHERE pipeline = 'stopped'}), qr/invalid input syntax/, 'and says why');
is(sql(q{SELECT sum(v) FROM stopped}), '12502500', 'with the state before that transaction');
sql(q{SELECT stream_ckpt.drop_pipeline('stopped')});

insert(q{SELECT i, i % 10, CASE WHEN i % 3 = 0 THEN 'x' || i ELSE i::text END FROM generate_series(10001, 15000) i});
insert(q{SELECT i, i % 10, 'all' FROM generate_series(15001, 16000) i});
insert(q{SELECT 16001, 1, '5'});
insert(q{SELECT i, i % 10, CASE WHEN i IN (16002, 17000) THEN 'ends' ELSE i::text END FROM generate_series(16002, 17000) i});
compare('many bad rows');

my $restarts = sql(q{SELECT restarts FROM stream_ckpt.pipelines WHERE pipeline = 'grouped'});
cmp_ok($restarts, '<=', 2, "bad rows cost $restarts replays");
my $start = time();
insert(q{SELECT i, i % 10, 'worse' FROM generate_series(20001, 60000) i});
compare('nothing but bad rows');
note(sprintf('40000 bad rows in three pipelines: %.1f s', time() - $start));
is(sql(q{SELECT restarts FROM stream_ckpt.pipelines WHERE pipeline = 'grouped'}), $restarts, 'and no further replay');
is(sql(q{SELECT rows_in FROM stream_ckpt.pipelines WHERE pipeline = 'grouped'}), sql('SELECT count(*) FROM rows'), 'all rows are counted as read');
is(sql(q{SELECT dead_letters FROM stream_ckpt.pipelines WHERE pipeline = 'grouped'}), letters('grouped'), 'dead letters are counted');

# ---- A restart does not double them, nor does a crash ----

insert(q{SELECT i, i % 10, CASE WHEN i % 100 = 0 THEN 'crash' ELSE i::text END FROM generate_series(70001, 71000) i});
$node->stop('immediate');
$node->start;
insert(q{SELECT i, i % 10, CASE WHEN i % 100 = 0 THEN 'crash' ELSE i::text END FROM generate_series(71001, 72000) i});
compare('after a crash');
foreach my $point ('chunks-written', 'before-commit', 'after-commit')
{
	$node->adjust_conf('postgresql.conf', 'stream_ckpt.fault', "'$point:kill'");
	$node->reload;
	my $offset = -s $node->logfile;
	try_psql($node, 'postgres', q{BEGIN; INSERT INTO s SELECT 80000, 1, 'killed'; INSERT INTO rows SELECT 80000, 1, 'killed'; COMMIT;});
	wait_for("a kill at $point", sub { return substr(slurp_file($node->logfile), $offset) =~ /terminated by signal 9/ }, 30);
	$node->adjust_conf('postgresql.conf', 'stream_ckpt.fault', "''");
	$node->reload;
	wait_for('the server', sub { accepts($node) }, 60);
	compare("after a kill at $point");
}

# ---- Retrying ----

is(sql(q{BEGIN; SELECT stream_ckpt.retry_dead_letters('grouped') > 0; ROLLBACK;}), 't', 'a retry can be rolled back');
compare('after a rollback');
my $bad = letters('grouped');
is(sql(q{SELECT stream_ckpt.retry_dead_letters('grouped')}), $bad, 'all dead letters are given again');
compare('retried without a change');
is(letters('grouped'), $bad, 'what fails again is a dead letter again');

sql(<<'SQL');
SELECT stream_ckpt.create_stream('t', 'id int, v text, j json, big text, ts timestamptz');
CREATE TABLE factor (f int);
INSERT INTO factor VALUES (0);
CREATE FUNCTION divided(i int) RETURNS int LANGUAGE sql AS 'SELECT i / f FROM factor';
SELECT stream_ckpt.create_pipeline('divisions', 'SELECT id % 3 AS g, sum(divided(id)) AS v, count(*) AS n FROM t GROUP BY 1', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('copies', 'SELECT id, v, j::text AS j, md5(big) AS big, ts FROM t WHERE divided(id) IS NOT NULL', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('plain', 'SELECT count(*) AS n FROM t');
INSERT INTO t SELECT i, 'v' || i, '{"b" :1,  "a":2, "a":3}', CASE WHEN i = 7 THEN repeat('long ', 500000) END, '2026-01-01' FROM generate_series(1, 100) i;
SELECT stream_ckpt.checkpoint('divisions');
SELECT stream_ckpt.checkpoint('copies');
SQL
is(letters('divisions') . ' ' . letters('copies'), '100 100', 'no row divides by zero');
sql(q{UPDATE factor SET f = 1; ALTER FOREIGN TABLE t ADD COLUMN more int;});
is(sql(q{SELECT stream_ckpt.retry_dead_letters('divisions') + stream_ckpt.retry_dead_letters('copies')}), '200', 'retried');
is(sql(q{SELECT stream_ckpt.retry_dead_letters('divisions')}), '0', 'none is left to be retried');
sql(q{SELECT stream_ckpt.checkpoint()});
is(sql(q{SELECT sum(v), sum(n) FROM divisions}), '5050|100', 'retried rows count once');
is(sql(q{SELECT count(*), min(j), max(big), count(DISTINCT v) FROM copies}),
	'100|{"b" :1,  "a":2, "a":3}|' . sql(q{SELECT md5(repeat('long ', 500000))}) . '|100', 'and are what they were');
is(sql(q{TABLE plain}), '100', 'other pipelines do not see them again');
is(letters('divisions') . ' ' . letters('copies'), '0 0', 'no dead letter is left');
$node->stop('immediate');
$node->start;
sql(q{SELECT stream_ckpt.checkpoint()});
is(sql(q{SELECT sum(v), sum(n) FROM divisions}), '5050|100', 'nor after a crash');

# ---- Transition functions ----

sql(<<'SQL');
SELECT stream_ckpt.create_stream('u', 'id int, g int, v int, ts timestamptz', event_time => 'ts');
CREATE TABLE urows (id int, g int, v int, ts timestamptz);
CREATE FUNCTION picky(state bigint, v int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN IF v % 7 = 0 THEN RAISE EXCEPTION 'no sevens: %', v; END IF; RETURN state + v; END$$;
CREATE FUNCTION picky_combine(a bigint, b bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE AGGREGATE picky_sum(int) (SFUNC = picky, STYPE = bigint, INITCOND = '0', COMBINEFUNC = picky_combine);
SELECT stream_ckpt.create_pipeline('picky_groups', 'SELECT g, count(*) AS n, sum(v::numeric) AS w, avg(v) AS a, stddev(v)::numeric(20,6) AS sd, array_agg(v ORDER BY v) AS l, count(DISTINCT v) AS d, picky_sum(v) AS v, max(id) AS m FROM u GROUP BY g', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('picky_hops', 'SELECT g, window_start, sum(v::numeric) AS w, count(DISTINCT v) AS d, picky_sum(CASE WHEN window_start >= ''2026-01-01 00:30'' THEN v ELSE 1 END) AS v FROM u, stream_ckpt.hop(ts, ''30 min'', ''1 hour'') GROUP BY g, window_start', on_error => 'dead_letter', allowed_lateness => '1 day');
SELECT stream_ckpt.create_pipeline('picky_sessions', 'SELECT g, window_start, window_end, count(*) AS n, count(DISTINCT v) AS d, array_agg(id ORDER BY id) AS l, picky_sum(v) AS v FROM u, stream_ckpt.session(ts, ''1 min'') GROUP BY g, window_start, window_end', on_error => 'dead_letter', allowed_lateness => '1 day');
SQL
my $rows = q{SELECT i, i % 4, (i * 37) % 1000, timestamptz '2026-01-01' + (i * 7919 % 5000) * interval '1 second' FROM generate_series};
foreach my $range ([1, 300], [301, 302], [303, 1500])
{
	my $select = "$rows($range->[0], $range->[1]) i";
	sql("BEGIN; INSERT INTO u $select; INSERT INTO urows $select; COMMIT;");
	sql(q{SELECT stream_ckpt.checkpoint('picky_groups'), stream_ckpt.checkpoint('picky_hops'), stream_ckpt.checkpoint('picky_sessions')});
	my $good = 'v % 7 <> 0';
	same('picky_groups', "SELECT g, count(*), sum(v::numeric), avg(v), stddev(v)::numeric(20,6), array_agg(v ORDER BY v), count(DISTINCT v), sum(v), max(id) FROM urows WHERE $good GROUP BY g",
		"a failed transition leaves no trace in a group: $range->[0] to $range->[1]");
	same('picky_sessions', <<"SQL", "nor in sessions, which it does not join: $range->[0] to $range->[1]");
SELECT g, min(ts), max(ts) + interval '1 min', count(*), count(DISTINCT v), array_agg(id ORDER BY id), sum(v) FROM
(SELECT *, sum(new) OVER (PARTITION BY g ORDER BY ts, id) AS s FROM
 (SELECT *, CASE WHEN ts - lag(ts) OVER (PARTITION BY g ORDER BY ts, id) < interval '1 min' THEN 0 ELSE 1 END AS new FROM urows WHERE $good) x) y
GROUP BY g, s
SQL
	same('picky_hops', <<"SQL", "nor in any of the windows of the row: $range->[0] to $range->[1]");
SELECT g, window_start, sum(v::numeric), count(DISTINCT v), sum(CASE WHEN window_start >= '2026-01-01 00:30' THEN v ELSE 1 END)
FROM urows, stream_ckpt.hop(ts, '30 min', '1 hour')
WHERE ts < '2026-01-01 00:30' OR $good GROUP BY g, window_start
SQL
	is(letters('picky_groups'), sql("SELECT count(*) FROM urows WHERE NOT ($good)"), "bad rows of groups are kept: $range->[0] to $range->[1]");
	is(letters('picky_sessions'), sql("SELECT count(*) FROM urows WHERE NOT ($good)"), "and of sessions: $range->[0] to $range->[1]");
}
is(sql(q{SELECT count(*) FROM stream_ckpt.pipelines WHERE status <> 'running'}), '0', 'all pipelines run');
$node->stop('immediate');
$node->start;
sql(q{SELECT stream_ckpt.checkpoint()});
same('picky_groups', "SELECT g, count(*), sum(v::numeric), avg(v), stddev(v)::numeric(20,6), array_agg(v ORDER BY v), count(DISTINCT v), sum(v), max(id) FROM urows WHERE v % 7 <> 0 GROUP BY g",
	'what was undone does not come back from the tables');

# ---- Results ----

sql(<<'SQL');
SELECT stream_ckpt.create_stream('r', 'g int, v int');
SELECT stream_ckpt.create_pipeline('ratio', 'SELECT g, 100 / sum(v) AS q, count(*) AS n FROM r GROUP BY g HAVING 10 / count(*) >= 0', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('chain', 'SELECT q, count(*) AS n FROM (SELECT g, 100 / sum(v) AS q FROM r GROUP BY g) x GROUP BY q', on_error => 'dead_letter');
CREATE TABLE checked (g int PRIMARY KEY, n bigint CHECK (n < 3));
SELECT stream_ckpt.create_pipeline('checks', 'SELECT g, count(*) AS n FROM r GROUP BY g', sink => 'checked', on_error => 'dead_letter');
CREATE TABLE checked_rows (g int, v int CHECK (v <> 13));
SELECT stream_ckpt.create_pipeline('check_rows', 'SELECT g, v FROM r', sink => 'checked_rows', on_error => 'dead_letter');
INSERT INTO r SELECT i, i FROM generate_series(1, 50) i;
SELECT stream_ckpt.checkpoint();
INSERT INTO r VALUES (5, -5), (6, 1);
SELECT stream_ckpt.checkpoint();
SQL
is(sql(q{SELECT count(*), sum(n) FROM ratio}), '49|50', 'a group whose result fails is withdrawn');
is(sql(q{SELECT count(*), min(row_data::text), min(sqlstate), bool_or(retriable), min(stage) FROM stream_ckpt.dead_letters WHERE pipeline = 'ratio'}),
	'1|{"g": 5}|22012|f|1', 'its dead letter has the key');
my $chain = q{SELECT q, count(*) FROM (SELECT 100 / sum(v) AS q FROM (VALUES %s) x (g, v) GROUP BY g HAVING sum(v) <> 0) y GROUP BY q};
my $values = join(',', map { "($_, $_)" } 1 .. 50);
same('chain', sprintf($chain, "$values, (5, -5), (6, 1)"), 'the same below another stage');
is(letters('chain'), '1', 'with a dead letter');
is(sql(q{SELECT count(*) FROM ratio WHERE g = 5}), '0', 'it is gone');
sql(q{INSERT INTO r VALUES (5, 4); SELECT stream_ckpt.checkpoint();});
is(sql(q{SELECT q, n FROM ratio WHERE g = 5}), '25|3', 'and comes back when it is touched');
same('chain', sprintf($chain, "$values, (5, -5), (6, 1), (5, 4)"), 'in the stage above, too');
is(sql(q{SELECT count(*), sum(n) FROM checked}), '49|50', 'a row that the table refuses is withdrawn');
is(sql(q{SELECT row_data, sqlstate, stage FROM stream_ckpt.dead_letters WHERE pipeline = 'checks'}), '{"g": 5, "n": 3}|23514|2', 'and kept');
is(sql(q{SELECT count(*) FROM checked_rows}), '52', 'rows that a table refuses');
is(sql(q{SELECT row_data, sqlstate, retriable FROM stream_ckpt.dead_letters WHERE pipeline = 'check_rows'}), '{"g": 13, "v": 13}|23514|t', 'are kept to be retried');
sql(q{ALTER TABLE checked_rows DROP CONSTRAINT checked_rows_v_check; SELECT stream_ckpt.retry_dead_letters('check_rows'); SELECT stream_ckpt.checkpoint('check_rows');});
is(sql(q{SELECT count(*) FROM checked_rows WHERE v = 13}), '1', 'and go through once the constraint is gone');

# windows that close
sql(<<'SQL');
SELECT stream_ckpt.create_stream('w', 'g int, v int, ts timestamptz', event_time => 'ts');
SELECT stream_ckpt.create_pipeline('closing', 'SELECT window_start, g, 10 / sum(v) AS q FROM w, stream_ckpt.tumble(ts, ''1 min'') GROUP BY window_start, g', emit => 'final', on_error => 'dead_letter');
CREATE TABLE closed (window_start timestamptz, g int, q bigint CHECK (q <> 5));
SELECT stream_ckpt.create_pipeline('closing2', 'SELECT window_start, g, 10 / sum(v) AS q FROM w, stream_ckpt.tumble(ts, ''1 min'') GROUP BY window_start, g', emit => 'final', sink => 'closed', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('expanded', 'SELECT window_start, 10 / v AS q FROM w, stream_ckpt.hop(ts, ''1 min'', ''2 min'')', on_error => 'dead_letter');
INSERT INTO w VALUES (1, 1, '2026-01-01 00:00'), (2, 0, '2026-01-01 00:00'), (3, 2, '2026-01-01 00:00');
INSERT INTO w VALUES (9, 1, '2026-01-01 00:05');
INSERT INTO w VALUES (9, 1, '2026-01-01 00:01'), (9, 1, '2026-01-01 00:07');
SELECT stream_ckpt.checkpoint();
SQL
is(sql(q{SELECT string_agg(g || ':' || q, ' ' ORDER BY window_start, g) FROM closing}), '1:10 3:5 9:10', 'final results without the one that fails');
is(sql(q{SELECT string_agg(stage || ' ' || sqlstate, ', ' ORDER BY stage, sqlstate) FROM stream_ckpt.dead_letters WHERE pipeline = 'closing'}), '0 SC001, 1 22012', 'which is kept, with the late row');
is(sql(q{SELECT string_agg(g || ':' || q, ' ' ORDER BY window_start, g) FROM closed}), '1:10 9:10', 'or that a table refuses');
is(sql(q{SELECT string_agg(stage || ' ' || sqlstate, ', ' ORDER BY stage, sqlstate) FROM stream_ckpt.dead_letters WHERE pipeline = 'closing2'}), '0 SC001, 1 22012, 2 23514', 'each with its dead letter');
is(sql(q{SELECT count(*) FROM expanded}), '8', 'linear windows');
is(sql(q{SELECT stream_ckpt.retry_dead_letters('closing')}), '0', 'late rows and results cannot be retried');

# ---- Who may ----

sql(q{CREATE ROLE other; GRANT USAGE ON SCHEMA stream_ckpt TO other;});
my ($state) = sql_state($node, 'postgres', q{SET ROLE other; SELECT stream_ckpt.retry_dead_letters('closing')});
is($state, '42501', 'only the owner retries');
($state) = sql_state($node, 'postgres', q{SELECT stream_ckpt.retry_dead_letters('nothing')});
is($state, '42704', 'an unknown pipeline');
($state) = sql_state($node, 'postgres', q{SET default_transaction_read_only = on; SELECT stream_ckpt.retry_dead_letters('closing')});
is($state, '25006', 'not in a read-only transaction');

$node->stop('fast');
done_testing();
