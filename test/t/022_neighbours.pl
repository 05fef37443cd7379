# Failures that do not spread: connections to other servers that are lost,
# back-off, and what a pipeline that fails in a loop costs the others.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time);

my $node = new_cluster('neighbours', 'stream_ckpt.restart_backoff_max' => "'800ms'");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub column
{
	my ($pipeline, $column) = @_;
	return sql("SELECT $column FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
}

sql(<<'SQL');
SELECT stream_ckpt.create_stream('s', 'id int, v int');
SELECT stream_ckpt.create_pipeline('healthy', 'SELECT count(*) AS n, sum(v) AS v FROM s');
SELECT stream_ckpt.checkpoint();
SQL

# ---- A foreign server that goes away and comes back ----

SKIP:
{
	my ($wrapper) = sql_state($node, 'postgres', 'CREATE EXTENSION postgres_fdw');
	skip 'postgres_fdw is not there', 1 if $wrapper ne '00000';

	my $remote = PostgreSQL::Test::Cluster->new('remote');
	$remote->init;
	$remote->start;
	$remote->safe_psql('postgres', q{CREATE TABLE names (id int PRIMARY KEY, name text); INSERT INTO names SELECT i, 'n' || i FROM generate_series(0, 9) i;
		CREATE TABLE copies (id int, name text)});
	sql(sprintf q{CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER remote;
		CREATE FOREIGN TABLE names (id int, name text) SERVER remote;
		CREATE FOREIGN TABLE copies (id int, name text) SERVER remote}, $remote->host, $remote->port);
	foreach my $on_error ('stop', 'dead_letter')
	{
		sql("SELECT stream_ckpt.create_pipeline('by_name_$on_error', 'SELECT name, count(*) AS n FROM s JOIN names ON names.id = s.id % 10 GROUP BY name', on_error => '$on_error')");
		sql("SELECT stream_ckpt.create_pipeline('copied_$on_error', 'SELECT s.id, ''$on_error'' AS name FROM s', sink => 'copies', on_error => '$on_error')");
	}
	my @remote = qw(by_name_stop by_name_dead_letter copied_stop copied_dead_letter);
	my $rows = 0;
	sql(q{SELECT stream_ckpt.checkpoint()});
	foreach my $how (qw(fast immediate))
	{
		sql(q{INSERT INTO s SELECT i, 1 FROM generate_series(1, 100) i; SELECT stream_ckpt.checkpoint()});
		$rows += 100;

		# a connection is open: it breaks
		$remote->stop($how);
		sql(q{INSERT INTO s SELECT i, 1 FROM generate_series(1, 100) i});
		$rows += 100;
		my %restarts = map { $_ => column($_, 'restarts') } @remote;
		foreach my $pipeline (@remote)
		{
			wait_for("restarts of $pipeline", sub { return column($pipeline, 'restarts') >= $restarts{$pipeline} + 2 }, 60);
			like(column($pipeline, "status || ' ' || coalesce(error, '')"), qr/^(restarting|running|starting) .*(connection|connect|terminat)/, "$how: $pipeline tries again, and says what is lacking");
		}
		sql(q{SELECT stream_ckpt.checkpoint('healthy')});
		is(sql('SELECT n FROM healthy'), $rows, "$how: another one goes on");
		$remote->start;
		sql(q{SELECT stream_ckpt.checkpoint()});
		is(sql("SELECT sum(n) FROM by_name_stop") . ' ' . sql("SELECT sum(n) FROM by_name_dead_letter"), "$rows $rows", "$how: and it goes on when the server is there");
		cmp_ok($remote->safe_psql('postgres', q{SELECT count(*) FROM copies WHERE name = 'stop'}), '>=', $rows, "$how: also what writes there");
	}
	is(sql('SELECT count(*) FROM stream_ckpt.dead_letters'), '0', 'no row is blamed');
	sql("SELECT stream_ckpt.drop_pipeline('$_')") foreach @remote;
	$remote->stop;
}

# ---- Back-off grows, up to its bound ----

sql(<<'SQL');
CREATE TABLE failure (code text);
CREATE FUNCTION fails(v int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE c text;
BEGIN
	SELECT code INTO c FROM failure;
	IF c IS NOT NULL THEN RAISE EXCEPTION 'failure %', c USING ERRCODE = c; END IF;
	RETURN v;
END$$;
SELECT stream_ckpt.create_pipeline('failing', 'SELECT id % 1000 AS g, sum(fails(v)) AS v FROM s WHERE id % 20 = 1 GROUP BY 1');
SELECT stream_ckpt.create_pipeline('failing_linear', 'SELECT id, fails(v) AS v FROM s WHERE id % 20 = 1');
SELECT stream_ckpt.checkpoint();
INSERT INTO failure VALUES ('40001');
INSERT INTO s VALUES (1, 1);
SQL
wait_for('restarts', sub { return column('failing', 'restarts') >= 6 }, 60);
my @pauses = split /\n/, sql(q{SELECT round(extract(epoch FROM restored_at - lag(restored_at) OVER (ORDER BY restored_at)) * 1000)
	FROM stream_ckpt.restores WHERE pipeline = 'failing' ORDER BY restored_at});
@pauses = grep { $_ ne '' } @pauses;
note("ms between restarts: @pauses");
cmp_ok($pauses[-1], '>=', 750, 'the last pause is as long as restart_backoff_max');
cmp_ok($pauses[-1], '<', 3000, 'and not much longer');
cmp_ok($pauses[-1], '>', 2 * $pauses[0], 'they grow');
sql(q{DELETE FROM failure; SELECT stream_ckpt.checkpoint()});

# ---- What others notice of a pipeline that fails again and again, with a backlog that grows ----

sub measure
{
	my ($what) = @_;
	my ($rows, $worst) = (0, 0);
	my $start = time();

	while (time() < $start + 2.5)
	{
		my $before = time();
		sql(q{INSERT INTO s SELECT i, i FROM generate_series(1, 20000) i; SELECT stream_ckpt.checkpoint('healthy')});
		my $took = time() - $before;
		$worst = $took if $took > $worst;
		$rows += 20000;
	}
	my $rate = $rows / (time() - $start);
	note(sprintf '%s: %.0f rows a second, at most %.0f ms until they are in the result', $what, $rate, 1000 * $worst);
	return ($rate, $worst);
}
sql(q{SELECT stream_ckpt.pause_pipeline('failing'), stream_ckpt.pause_pipeline('failing_linear')});
my ($rate, $worst) = measure('alone');
sql(q{SELECT stream_ckpt.resume_pipeline('failing'), stream_ckpt.resume_pipeline('failing_linear'); SELECT stream_ckpt.checkpoint()});
foreach my $code ('40001', '22012')
{
	sql("INSERT INTO failure VALUES ('$code')");
	my ($rate_beside, $worst_beside) = measure("beside $code in a loop");
	# bounds with room for a busy machine; what they are to catch is waiting for a back-off, or for whole replays
	cmp_ok($rate_beside, '>', $rate / 4, "speed beside $code in a loop");
	cmp_ok($worst_beside, '<', 1 + 4 * $worst, "delay beside $code in a loop");
	sql(q{DELETE FROM failure; SELECT stream_ckpt.resume_pipeline('failing'), stream_ckpt.resume_pipeline('failing_linear'); SELECT stream_ckpt.checkpoint()});
}
is(sql('SELECT sum(v) FROM failing_linear'), sql('SELECT sum(v) FROM failing'), 'the same rows in both results');

# one that raises in a loop inside its function, each time caught and raised anew
sql(<<'SQL');
CREATE OR REPLACE FUNCTION fails(v int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		BEGIN
			RAISE EXCEPTION 'inner';
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	RAISE EXCEPTION 'outer' USING ERRCODE = '40001';
END$$;
SQL
my ($rate_loop, $worst_loop) = measure('beside a loop of errors');
cmp_ok($rate_loop, '>', $rate / 4, 'speed beside a loop of errors');
cmp_ok($worst_loop, '<', 1 + 4 * $worst, 'delay beside a loop of errors');

$node->stop('fast');
done_testing();
