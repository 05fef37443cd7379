# Joins of streams against the same SQL over tables, under crashes: after each, workers load both sides' rows again and read on.
#
# One producer: each transaction writes streams and tables alike.  Rows of one transaction are within the streams' watermark_delay, so that none is late for
# joins on times near each other.
#
# STREAM_CKPT_JOIN_ROUNDS or LONG=1 for more rounds; STREAM_CKPT_PARALLELISM="1 4" says for which numbers of tasks.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $rounds = $ENV{STREAM_CKPT_JOIN_ROUNDS} || ($ENV{LONG} ? 150 : 14);
my $step = 0;
my %count;

seed_random();

my $node = new_cluster('joins', 'stream_ckpt.fault' => "''", 'stream_ckpt.restart_backoff_min' => "'10ms'", 'stream_ckpt.workers' => 2);
my @levels = parallelisms($node);

$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA live;
CREATE SCHEMA plain;
SELECT stream_ckpt.create_stream('live.a', 'id int, k int, v text, ts timestamptz', event_time => 'ts', watermark_delay => '10 s'),
	stream_ckpt.create_stream('live.b', 'id int, k bigint, v text, ts timestamptz', event_time => 'ts', watermark_delay => '10 s');
CREATE TABLE plain.a (id int, k int, v text, ts timestamptz);
CREATE TABLE plain.b (id int, k bigint, v text, ts timestamptz);
SQL

my %queries = (
	inner_on => 'SELECT a.id AS a_id, b.id AS b_id, a.v, b.v AS w FROM a JOIN b ON a.k = b.k AND a.v <> b.v',
	self => 'SELECT x.id AS x_id, y.id AS y_id FROM a x JOIN a y ON x.k = y.k AND x.id < y.id AND x.v = y.v',
	grouped => 'SELECT a.k, count(*) AS n, sum(b.id) AS s, max(b.v) AS m FROM a JOIN b ON a.k = b.k GROUP BY a.k',
	left_on => 'SELECT a.id AS a_id, b.id AS b_id FROM a LEFT JOIN b ON a.k = b.k AND a.v = b.v',
	full_groups => 'SELECT x.k, y.k AS other, x.n, y.m FROM (SELECT k, count(*) AS n FROM a GROUP BY k) x FULL JOIN (SELECT k, max(id) AS m FROM b GROUP BY k) y ON x.k = y.k',
	anti => 'SELECT a.id, a.k FROM a WHERE NOT EXISTS (SELECT FROM b WHERE b.k = a.k AND b.v = a.v)',
	three => 'SELECT a.k, count(*) AS n, sum(c.id) AS s FROM a JOIN b ON b.k = a.k JOIN a c ON c.id = b.id AND c.v = b.v GROUP BY a.k',
	by_counts => 'SELECT x.k, y.k AS other, x.n FROM (SELECT k, count(*) AS n FROM a GROUP BY k) x JOIN (SELECT k, count(*) AS n FROM b GROUP BY k) y ON x.n = y.n',
	with_leaf => 'SELECT x.v, x.n, b.id FROM (SELECT v, count(*) % 30 AS n FROM a GROUP BY v) x LEFT JOIN b ON b.id = x.n',
	same_key => 'SELECT x.k, count(*) AS n, count(y.id) AS m, sum(z.id) AS s FROM a x LEFT JOIN a y ON y.k = x.k AND y.id = x.id + 1 JOIN a z ON z.k = x.k AND z.v < x.v GROUP BY x.k',
	semi => 'SELECT a.id, a.k FROM a WHERE k IN (SELECT k FROM b GROUP BY k HAVING count(*) % 2 = 0)',
	left_grouped => 'SELECT a.v, count(b.id) AS n, count(*) AS c FROM a LEFT JOIN b ON a.k = b.k GROUP BY a.v',
	near => "SELECT a.id AS a_id, b.id AS b_id FROM a FULL JOIN b ON a.k = b.k AND a.ts = b.ts",
	between => "SELECT a.id AS a_id, b.id AS b_id, a.ts FROM a LEFT JOIN b ON a.k = b.k AND a.ts BETWEEN b.ts - interval '3 s' AND b.ts + interval '20 s'",
	less => 'SELECT a.v, count(*) AS n FROM a JOIN b ON a.k < b.k AND a.ts >= b.ts GROUP BY a.v',
	having => 'SELECT k, count(*) AS n FROM a GROUP BY k HAVING count(*) > (SELECT avg(n) FROM (SELECT count(*) AS n FROM b GROUP BY k) x)',
	share => 'SELECT v, 1000 * count(*) / (SELECT count(*) FROM a) AS n, (SELECT max(ts) FROM b) AS last FROM a GROUP BY v',
	correlated => 'SELECT a.id, a.v, (SELECT count(*) + a.k FROM b WHERE b.k = a.k) AS n FROM a',
	not_in => 'SELECT a.id, a.k FROM a WHERE k NOT IN (SELECT k FROM b WHERE k < 5 AND id % 8 < 3)',
	except_all => 'SELECT k, v FROM a EXCEPT ALL SELECT k, v FROM b',
	intersect_in => 'SELECT k, count(*) AS n FROM (SELECT k, v FROM a INTERSECT ALL SELECT k, v FROM b) x GROUP BY k',
	united => 'SELECT k, count(*) AS n FROM a GROUP BY k UNION ALL SELECT a.k, b.id FROM a LEFT JOIN b ON b.k = a.k AND b.v = a.v UNION ALL SELECT k, id FROM b',
	window => "SELECT x.window_start AS w, x.id, y.n FROM (SELECT window_start, window_end, k, id FROM a, stream_ckpt.tumble(ts, '10 s')) x
		LEFT JOIN (SELECT window_start, window_end, k, count(*) AS n FROM b, stream_ckpt.tumble(ts, '10 s') GROUP BY 1, 2, 3) y ON y.window_start = x.window_start AND y.window_end = x.window_end AND y.k = x.k");

foreach my $name (sort keys %queries)
{
	foreach my $n (@levels)
	{
		$node->safe_psql('postgres', "SET search_path = live; SELECT stream_ckpt.create_pipeline('live.r_${name}_$n', \$\$$queries{$name}\$\$, parallelism => $n)");
	}
}

# Some transactions, each of one or both streams; one in ten does not happen.
sub put
{
	my ($may_fail) = @_;
	my $transactions = 1 + int rand 6;
	my @sql;

	foreach (1 .. $transactions)
	{
		$step++;
		push @sql, 'BEGIN';
		foreach my $stream (rand() < 0.5 ? qw(a b) : rand() < 0.5 ? qw(b a) : (qw(a b))[rand 2])
		{
			my @rows = map {
				my $k = rand() < 0.1 ? 'NULL' : int rand 12;
				my $v = chr(ord('a') + int rand 3);
				my $seconds = $step * 3 - int rand 9;

				"($step, $k, '$v', timestamptz '2024-01-01Z' + interval '$seconds s')"
			} 1 .. 1 + int rand 8;

			push @sql, "INSERT INTO $_.$stream VALUES " . join(', ', @rows) foreach qw(live plain);
		}
		push @sql, rand() < 0.1 ? 'ROLLBACK' : 'COMMIT';
	}
	return try_psql($node, 'postgres', join(";\n", @sql)) if $may_fail;
	$node->safe_psql('postgres', join(";\n", @sql));
	return;
}

sub check
{
	my ($when) = @_;
	my @wrong;

	checkpoint($node);
	foreach my $name (sort keys %queries)
	{
		my $sql = "SET search_path = plain; CREATE TEMP TABLE expected AS $queries{$name}; SELECT count(*) FROM expected;";

		foreach my $n (@levels)
		{
			my $result = "live.r_${name}_$n";

			$sql .= "SELECT '$n tasks: ' || missing || ' missing, ' || extra || ' extra' FROM (SELECT (SELECT count(*) FROM (TABLE expected EXCEPT ALL TABLE $result) x) AS missing,
				(SELECT count(*) FROM (TABLE $result EXCEPT ALL TABLE expected) x) AS extra) x WHERE missing + extra > 0;";
		}
		my ($rows, @differences) = split /\n/, $node->safe_psql('postgres', $sql);

		push @wrong, map { "$name, $_" } @differences;
		$count{$name} = $rows;
	}
	is(join("\n", @wrong), '', $when);
	return;
}

put();
check('at first');
foreach my $round (1 .. $rounds)
{
	put();
	if ($round % 3 == 0)
	{
		my ($point) = (qw(chunks-written before-commit after-commit barrier restore))[ $round / 3 % 5 ];

		set_fault($node, "$point:kill");
		kill_pid('TERM', worker_pid($node)) if $point eq 'restore';
		put('may fail');
		try_psql($node, 'postgres', "SELECT stream_ckpt.checkpoint(interval '2 s')");
		clear_fault($node);
		put();
		check("round $round, after a crash at $point");
		next;
	}
	if ($round % 3 == 1)
	{
		kill_server($node);
		start_again($node);
	}
	else
	{
		kill_pid('TERM', worker_pid($node));
	}
	put();
	check("round $round");
}

is(join(' ', grep { !$count{$_} } sort keys %queries), '', 'each has rows');
is($node->safe_psql('postgres', q{SELECT string_agg(pipeline, ' ') FROM stream_ckpt.pipelines WHERE late_rows > 0}), '', 'none is late');
done_testing();
