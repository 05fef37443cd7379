# on_error => 'stop': the pipeline stops just before the row that raises a data
# error, says which it is, and goes on from there.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

# So long an interval that no checkpoint comes by chance.
my $node = new_cluster('stop', 'stream_ckpt.checkpoint_interval' => "'10min'", 'stream_ckpt.fault' => "''");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub column
{
	my ($pipeline, $column) = @_;
	return sql("SELECT $column FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
}

sub wait_failed
{
	my ($pipeline) = @_;
	wait_for("the end of $pipeline", sub { return column($pipeline, 'status') eq 'failed' }, 60);
	return;
}

# ---- The row, and what comes before it ----

sql(<<'SQL');
SELECT stream_ckpt.create_stream('s', 'id int, g int, v text, ts timestamptz', event_time => 'ts');
CREATE TABLE bad (v text, code text);
CREATE FUNCTION number(v text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE c text;
BEGIN
	SELECT code INTO c FROM bad WHERE bad.v = number.v;
	IF c IS NOT NULL THEN RAISE EXCEPTION 'bad number %', v USING ERRCODE = c; END IF;
	RETURN v::int;
END$$;
CREATE FUNCTION pick(state bigint, v text) RETURNS bigint LANGUAGE sql AS 'SELECT state + number(v)';
CREATE AGGREGATE picked(text) (SFUNC = pick, STYPE = bigint, INITCOND = '0');
SELECT stream_ckpt.create_pipeline('grouped', 'SELECT g, count(*) AS n, sum(number(v)) AS v, count(DISTINCT v) AS d FROM s GROUP BY g');
SELECT stream_ckpt.create_pipeline('aggregate', 'SELECT g, count(*) AS n, picked(v) AS v FROM s GROUP BY g');
SELECT stream_ckpt.create_pipeline('linear', 'SELECT id, g, number(v) AS v FROM s');
SELECT stream_ckpt.create_pipeline('windows', 'SELECT window_start, count(*) AS n, sum(number(v)) AS v FROM s, stream_ckpt.tumble(ts, ''1 min'') GROUP BY window_start');
SELECT stream_ckpt.create_pipeline('expanded', 'SELECT window_start, number(v) AS v FROM s, stream_ckpt.tumble(ts, ''1 min'')');
SELECT stream_ckpt.create_pipeline('stages', 'SELECT n, count(*) AS c, sum(v) AS v FROM (SELECT g, count(*) AS n, sum(number(v)) AS v FROM s GROUP BY g) x GROUP BY n');
CREATE TABLE checked (id int, v text CHECK (v <> '4711'));
SELECT stream_ckpt.create_pipeline('checked', 'SELECT id, v FROM s', sink => 'checked');
SELECT stream_ckpt.create_pipeline('healthy', 'SELECT count(*) AS n FROM s');
SELECT stream_ckpt.checkpoint();
SQL
my @pipelines = qw(grouped aggregate linear windows expanded stages checked);
# rows and their sum, of each result
my %totals = (
	grouped => 'SELECT sum(n), sum(v) FROM grouped',
	aggregate => 'SELECT sum(n), sum(v) FROM aggregate',
	linear => 'SELECT count(*), sum(v) FROM linear',
	windows => 'SELECT sum(n), sum(v) FROM windows',
	expanded => 'SELECT count(*), sum(v) FROM expanded',
	stages => 'SELECT sum(n * c), sum(v) FROM stages',
	checked => 'SELECT count(*), sum(v::int) FROM checked');

sub insert
{
	my ($from, $to, %options) = @_;
	my $bad = $options{bad} // 0;
	return sql("INSERT INTO s SELECT i, i % 7, CASE WHEN i = $bad THEN '4711' ELSE '1' END, "
		  . "timestamptz '2026-01-01' + i * interval '1 ms' FROM generate_series($from, $to) i");
}

sub stops
{
	my ($before, $what) = @_;

	foreach my $pipeline (@pipelines)
	{
		wait_failed($pipeline);
		is(sql($totals{$pipeline}), "$before|$before", "$pipeline: $what: everything before the bad transaction is there, nothing of it");
		like(column($pipeline, 'error'),
			qr{(bad number|violates check constraint).*stopped before the transaction that committed at [0-9A-F]+/[0-9A-F]+, for row \d+ of the record of stream "s" at [0-9A-F]+/[0-9A-F]+: .*4711},
			"$pipeline: $what: the error says where");
	}
	sql(q{SELECT stream_ckpt.checkpoint('healthy')});
	is(column('healthy', 'status'), 'running', "$what: others go on");
	return;
}

sql(q{INSERT INTO bad VALUES ('4711', '22023')});
insert(1, 1000);
insert(1001, 1100);
insert(1101, 2000, bad => 1777);
insert(2001, 3000);
# linear queries run at checkpoints
foreach my $pipeline (@pipelines)
{
	my ($state) = sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$pipeline')");
	is($state, '55000', "checkpoint() tells that $pipeline has failed");
}
stops(1100, 'a bad row');
like(column('grouped', 'error'), qr/"id": 1777/, 'the row is shown');
is(sql('TABLE healthy'), '3000', 'another pipeline has read it all');
is(sql(q{SELECT count(*) FROM stream_ckpt.dead_letters}), '0', 'no row is put aside');
cmp_ok(sql(q{SELECT max(restarts) FROM stream_ckpt.pipelines}), '<=', 2, 'it is found in two passes');
is(sql(q{SELECT count(DISTINCT position) FROM stream_ckpt.checkpoints WHERE retained AND pipeline <> 'healthy'}), '1', 'all stand at the same position');

# ---- Again, as long as it is bad ----

sql("SELECT stream_ckpt.resume_pipeline('$_')") foreach @pipelines;
foreach my $pipeline (@pipelines)
{
	my ($state) = sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$pipeline')");
	is($state, '55000', "$pipeline: resuming tries from there, in vain");
}
stops(1100, 'still bad');

# a crash in between loses nothing
$node->stop('immediate');
$node->start;
stops(1100, 'after a crash');

# ---- On, when it is not any more ----

sql(q{TRUNCATE bad; ALTER TABLE checked DROP CONSTRAINT checked_v_check});
sql("SELECT stream_ckpt.resume_pipeline('$_')") foreach @pipelines;
sql(q{SELECT stream_ckpt.checkpoint()});
foreach my $pipeline (@pipelines)
{
	is(sql($totals{$pipeline}), '3000|7710', "$pipeline: it goes on, with every row once");
}

# ---- In the middle of many, and in a large transaction ----

sql(q{INSERT INTO bad VALUES ('4711', 'P0001'); ALTER TABLE checked ADD CHECK (id <= 3000 OR v <> '4711')});
insert(3001, 3001, bad => 3001);
sql("SELECT stream_ckpt.checkpoint('healthy')");
foreach my $pipeline (@pipelines) { sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$pipeline')"); }
foreach my $pipeline (@pipelines)
{
	wait_failed($pipeline);
	is(sql($totals{$pipeline}), '3000|7710', "$pipeline: nothing before it");
}
sql(q{TRUNCATE bad; ALTER TABLE checked DROP CONSTRAINT checked_check});
sql("SELECT stream_ckpt.resume_pipeline('$_')") foreach @pipelines;
sql(q{SELECT stream_ckpt.checkpoint()});

sql(q{INSERT INTO bad VALUES ('-1', '22023')});
sql(q{INSERT INTO s SELECT 5000, 0, '1', '2026-01-01'});
sql(q{INSERT INTO s SELECT i, i % 7, CASE WHEN i = 1200000 THEN '-1' ELSE '1' END, '2026-01-01' FROM generate_series(1000001, 1300000) i});
sql(q{INSERT INTO s SELECT 5001, 0, '1', '2026-01-01'});
foreach my $pipeline (qw(linear grouped))
{
	my ($state) = sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$pipeline')");
	is($state, '55000', "$pipeline: a bad row in a large transaction");
	is(sql($totals{$pipeline}), '3002|12422', "$pipeline: is stopped before");
	like(column($pipeline, 'error'), qr/"id": 1200000/, "$pipeline: and found");
}
sql(q{TRUNCATE bad});
sql("SELECT stream_ckpt.resume_pipeline('$_')") foreach @pipelines;
sql(q{SELECT stream_ckpt.checkpoint()});
foreach my $pipeline (qw(linear grouped))
{
	is(sql($totals{$pipeline}), '303003|312421', "$pipeline: it goes through when nothing is bad");
}
sql("SELECT stream_ckpt.drop_pipeline('$_')") foreach @pipelines;

# ---- Killed on the way ----

sql(q{SELECT stream_ckpt.create_stream('k', 'v text'); SELECT stream_ckpt.create_pipeline('killed', 'SELECT count(*) AS n, sum(v::int) AS v FROM k');
	SELECT stream_ckpt.checkpoint('killed')});
my $sum = 0;
foreach my $point ('checkpoint-trigger', 'barrier', 'chunks-written', 'before-commit', 'after-commit', 'restore')
{
	sql(q{INSERT INTO k SELECT 2 FROM generate_series(1, 100)});
	$sum += 100;
	set_fault($node, "$point:kill");
	my $offset = -s $node->logfile;
	try_psql($node, 'postgres', q{INSERT INTO k VALUES ('x')});
	wait_for("a kill at $point", sub { return substr(slurp_file($node->logfile), $offset) =~ /terminated by signal 9/ }, 60);
	clear_fault($node);
	wait_for('the server', sub { return accepts($node) }, 60);
	wait_failed('killed');
	is(sql('TABLE killed'), $sum . '|' . 2 * $sum, "killed at $point: it stops where it should");
	# the row stays bad: drop the stream's past by a new pipeline
	sql(q{SELECT stream_ckpt.drop_pipeline('killed'); SELECT stream_ckpt.create_pipeline('killed', 'SELECT count(*) AS n, sum(v::int) AS v FROM k'); SELECT stream_ckpt.checkpoint('killed')});
	$sum = 0;
}

# ---- What is no row's ----

sql(<<'SQL');
SELECT stream_ckpt.create_stream('r', 'g int, v int');
SELECT stream_ckpt.create_pipeline('ratio', 'SELECT g, 100 / sum(v) AS q FROM r GROUP BY g');
SELECT stream_ckpt.create_pipeline('upper', 'SELECT q, count(*) AS n FROM (SELECT g, 100 / sum(v) AS q FROM r GROUP BY g) x GROUP BY q');
CREATE TABLE few (g int PRIMARY KEY, n bigint CHECK (n < 3));
SELECT stream_ckpt.create_pipeline('few', 'SELECT g, count(*) AS n FROM r GROUP BY g', sink => 'few');
INSERT INTO r SELECT i, i FROM generate_series(1, 5) i;
SELECT stream_ckpt.checkpoint();
INSERT INTO r VALUES (5, 1);
INSERT INTO r VALUES (5, -6);
SQL
foreach my $pipeline (qw(ratio upper few))
{
	sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$pipeline')");
	wait_failed($pipeline);
	like(column($pipeline, 'error'), qr/(division by zero|violates check constraint).*No row raises it by itself: the pipeline stopped at its last checkpoint/,
		"$pipeline: an error of a result is no row's");
}
is(sql('SELECT count(*), min(q) FROM ratio'), '5|20', 'its result is that of the last checkpoint');
is(sql('SELECT count(*), sum(n) FROM few'), '5|5', 'that of the sink, too');
sql(q{INSERT INTO r VALUES (5, 10); SELECT stream_ckpt.resume_pipeline('ratio'); SELECT stream_ckpt.resume_pipeline('upper');
	ALTER TABLE few DROP CONSTRAINT few_n_check; SELECT stream_ckpt.resume_pipeline('few'); SELECT stream_ckpt.checkpoint()});
is(sql('SELECT q FROM ratio WHERE g = 5'), '10', 'what passes over it later goes on');
is(sql('SELECT n FROM few WHERE g = 5'), '4', 'or when the constraint is gone');

# ---- An error that does not come again stops nothing ----

sql(<<'SQL');
CREATE SEQUENCE calls;
CREATE FUNCTION once(v int) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN IF nextval('calls') = 50 THEN RAISE EXCEPTION 'only once'; END IF; RETURN v; END$$;
SELECT stream_ckpt.create_pipeline('flaky', 'SELECT sum(once(v)) AS v, count(*) AS n FROM r');
INSERT INTO r SELECT 1, 1 FROM generate_series(1, 100);
SELECT stream_ckpt.checkpoint('flaky');
SQL
is(sql('TABLE flaky'), '100|100', 'it goes on');
is(column('flaky', "status || ' ' || restarts"), 'running 1', 'after one restart');
# one that always comes, but at another row each time, does
sql(<<'SQL');
CREATE OR REPLACE FUNCTION once(v int) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN IF nextval('calls') % 4 < 2 THEN RAISE EXCEPTION 'now and then'; END IF; RETURN v; END$$;
INSERT INTO r SELECT 1, 1 FROM generate_series(1, 100);
SQL
sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('flaky')");
wait_failed('flaky');
is(sql('TABLE flaky'), '100|100', 'an error that wanders stops the pipeline all the same');

# ---- A long message in more than one byte a character ----

sql(<<'SQL');
CREATE FUNCTION loud(v int) RETURNS int LANGUAGE plpgsql AS
	$$BEGIN RAISE EXCEPTION '%', 'x' || repeat('ä€', 1000); END$$;
SELECT stream_ckpt.create_pipeline('loud', 'SELECT sum(loud(v)) AS v FROM r');
SELECT stream_ckpt.checkpoint('loud');
INSERT INTO r VALUES (1, 1);
SQL
sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('loud')");
wait_failed('loud');
like(column('loud', 'error'), qr/^xä?.*stopped before the transaction/, 'a long message leaves room for the place');
is(sql(q{SELECT convert_from(convert_to(cause, 'UTF8'), 'UTF8') = cause FROM stream_ckpt.restores WHERE pipeline = 'loud' AND cause LIKE 'x%' LIMIT 1}), 't',
	'and is not cut in the middle of a character');

$node->stop('fast');
done_testing();
