# Joins of many rows between two checkpoints: those that are due go before they have ever been stored, so that a backlog takes little memory; those that
# will soon be due wait for that, or for the barrier, instead of being kept.  The result is that of the same SQL over tables, also when a worker that has
# let rows go is killed and reads them again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $node = new_cluster('join_backlog', 'stream_ckpt.fault' => "''", 'stream_ckpt.restart_backoff_min' => "'10ms'", 'stream_ckpt.workers' => 2,
	'stream_ckpt.checkpoint_interval' => "'1h'", 'stream_ckpt.state_memory' => "'1GB'");
my @levels = parallelisms($node);
my %queries = (
	near => 'SELECT a.id AS a_id, b.id AS b_id FROM a FULL JOIN b ON a.k = b.k AND a.ts = b.ts',
	between => "SELECT a.k, count(*) AS n, count(b.id) AS m, sum(b.id) AS s FROM a LEFT JOIN b ON a.k = b.k AND a.ts BETWEEN b.ts - interval '3 s' AND b.ts + interval '8 s' GROUP BY a.k",
	unmatched => "SELECT a.id FROM a WHERE NOT EXISTS (SELECT FROM b WHERE b.k = a.k AND b.ts BETWEEN a.ts AND a.ts + interval '2 s')",
	# one side has many more rows: it waits
	few => "SELECT a.id AS a_id, b.id AS b_id, a.ts, b.ts AS b_ts FROM a JOIN b ON a.k = b.k AND a.ts > b.ts AND a.ts < b.ts + interval '2 s' WHERE b.id % 10 = 0",
	few_others => 'SELECT a.id AS a_id, b.id AS b_id FROM a FULL JOIN (SELECT * FROM b WHERE id % 7 = 0) b ON a.k = b.k AND b.ts = a.ts',
	seen => "SELECT a.id, a.k FROM a WHERE id % 5 = 0 AND EXISTS (SELECT FROM b WHERE b.k = a.k AND b.ts <= a.ts AND b.ts >= a.ts - interval '3 s')",
	# the other side is a stage: rows wait for the barrier
	highest => "SELECT x.window_start AS w, x.id, x.k FROM (SELECT window_start, window_end, id, k FROM a, stream_ckpt.tumble(ts, '10 s')) x
		JOIN (SELECT window_start, window_end, max(k % 50) AS highest FROM a, stream_ckpt.tumble(ts, '10 s') GROUP BY 1, 2) y
		ON y.window_start = x.window_start AND y.window_end = x.window_end AND y.highest = x.k % 50",
	with_count => "SELECT x.window_start AS w, x.id, y.n FROM (SELECT window_start, window_end, id, k FROM a, stream_ckpt.tumble(ts, '5 s')) x
		LEFT JOIN (SELECT window_start, window_end, k, count(*) AS n FROM b, stream_ckpt.tumble(ts, '5 s') WHERE id % 3 > 0 GROUP BY 1, 2, 3) y
		ON y.window_start = x.window_start AND y.window_end = x.window_end AND y.k = x.k",
	twice => "SELECT x.k, count(*) AS n FROM a x JOIN a y ON y.k = x.k AND y.ts BETWEEN x.ts AND x.ts + interval '1 s' JOIN b ON b.k = x.k AND b.ts = y.ts GROUP BY x.k");

$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA live;
CREATE SCHEMA plain;
SELECT stream_ckpt.create_stream('live.a', 'id int, k int, ts timestamptz', event_time => 'ts', watermark_delay => '5 s'),
	stream_ckpt.create_stream('live.b', 'id int, k int, ts timestamptz', event_time => 'ts', watermark_delay => '5 s');
CREATE TABLE plain.a (id int, k int, ts timestamptz);
CREATE TABLE plain.b (id int, k int, ts timestamptz);

-- rows of a transaction are within 4 seconds of each other, in no order
CREATE PROCEDURE put(transactions int, n int) LANGUAGE plpgsql AS $$
DECLARE
	first int := (SELECT coalesce(max(id) / n + 1, 0) FROM plain.a);
BEGIN
	FOR t IN first .. first + transactions - 1 LOOP
		CREATE TEMP TABLE batch ON COMMIT DROP AS
			SELECT t * n + i AS id, (random() * 3000)::int AS k, timestamptz '2024-01-01Z' + (t * 2 + (random() * 4)::int) * interval '1 s' AS ts, random() < 0.5 AS side
			FROM generate_series(1, n) i;
		INSERT INTO plain.a SELECT id, k, ts FROM batch WHERE side;
		INSERT INTO live.a SELECT id, k, ts FROM batch WHERE side;
		INSERT INTO plain.b SELECT id, k, ts FROM batch WHERE NOT side;
		INSERT INTO live.b SELECT id, k, ts FROM batch WHERE NOT side;
		COMMIT;
	END LOOP;
END $$;
SQL

foreach my $name (sort keys %queries)
{
	foreach my $n (@levels)
	{
		$node->safe_psql('postgres', "SET search_path = live; SELECT stream_ckpt.create_pipeline('live.r_${name}_$n', \$\$$queries{$name}\$\$, parallelism => $n)");
	}
}

sub check
{
	my ($when) = @_;

	checkpoint($node);
	foreach my $name (sort keys %queries)
	{
		my $sql = "SET search_path = plain; SET work_mem = '64MB'; ANALYZE plain.a, plain.b; CREATE TEMP TABLE expected AS $queries{$name};";

		$sql .= "SELECT $_, (SELECT count(*) FROM (TABLE live.r_${name}_$_ EXCEPT ALL TABLE expected) x), (SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE live.r_${name}_$_) x), count(*) > 100 FROM expected;"
			foreach @levels;
		is($node->safe_psql('postgres', $sql), join("\n", map { "$_|0|0|t" } @levels), "$when: $name");
	}
	return;
}

sub caught_up
{
	$node->poll_query_until('postgres', 'SELECT bool_and(lag_bytes < 100000) FROM stream_ckpt.pipelines') or die 'not caught up';
	return;
}

# A pair that cannot be computed: of the row that came later, which may have waited.
my $bad = "SELECT a.id AS a_id, b.id AS b_id, 100 / (a.id + 5) AS q FROM a JOIN b ON a.k = b.k AND a.ts >= b.ts AND a.ts <= b.ts + interval '2 s' WHERE (b.id % 10 = 0 OR b.id < 0)";
foreach my $on_error (qw(dead_letter stop))
{
	$node->safe_psql('postgres', "SET search_path = live; SELECT stream_ckpt.create_pipeline('live.bad_$on_error', \$\$$bad\$\$, on_error => '$on_error')");
}
$node->safe_psql('postgres', 'CALL put(60, 1000)');
foreach my $schema (qw(plain live))
{
	$node->safe_psql('postgres', "INSERT INTO $schema.b SELECT -5, -5, max(ts) FROM plain.b WHERE k >= 0; INSERT INTO $schema.a SELECT -5, -5, max(ts) FROM plain.b WHERE k >= 0");
}
$node->safe_psql('postgres', 'CALL put(40, 1000)');
$node->poll_query_until('postgres', q{SELECT status = 'failed' FROM stream_ckpt.pipelines WHERE pipeline = 'bad_stop'}) or die 'not stopped';
like($node->safe_psql('postgres', q{SELECT error FROM stream_ckpt.pipelines WHERE pipeline = 'bad_stop'}), qr/division by zero.*"id": -5/, 'stopped before the row of a bad pair');
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('bad_stop')});
check('at first');
is($node->safe_psql('postgres', "SET search_path = plain; CREATE TEMP TABLE expected AS $bad AND a.id <> -5;
	SELECT (SELECT count(*) FROM (TABLE live.bad_dead_letter EXCEPT ALL TABLE expected) x), (SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE live.bad_dead_letter) x), count(*) > 100 FROM expected"),
	'0|0|t', 'all pairs but the bad one');
is($node->safe_psql('postgres', q{SELECT stream || ' ' || error || ' ' || (row_data->>'id') FROM stream_ckpt.dead_letters WHERE pipeline = 'bad_dead_letter'}),
	'live.a division by zero -5', 'its row is a dead letter');
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('bad_dead_letter')});

# No checkpoint meanwhile: 150,000 rows have come, of which few can still match.
$node->safe_psql('postgres', 'CALL put(150, 1000)');
caught_up();
is($node->safe_psql('postgres', q{SELECT string_agg(pipeline, ' ' ORDER BY pipeline) FROM stream_ckpt.tasks WHERE pipeline LIKE '%near%' AND state_rows > 60000}), '',
	'what is due has gone before the checkpoint');
foreach my $point (qw(barrier chunks-written before-commit))
{
	set_fault($node, "$point:kill");
	try_psql($node, 'postgres', "SELECT stream_ckpt.checkpoint(interval '2 s')");
	clear_fault($node);
	$node->safe_psql('postgres', 'CALL put(30, 1000)');
	check("after a crash at $point");
}
$node->safe_psql('postgres', 'CALL put(60, 1000)');
caught_up();
kill_server($node);
start_again($node);
check('after a crash of the server');
is($node->safe_psql('postgres', q{SELECT string_agg(pipeline, ' ') FROM stream_ckpt.pipelines WHERE late_rows > 0}), '', 'none is late');
done_testing();
