# Pipelines that several tasks do, in several workers: their results are those of one task at every moment, whatever happens to tasks, heads
# and workers, and nothing is left behind.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";

use StreamCkpt;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_cluster('parallel',
	'stream_ckpt.workers' => 3,
	'stream_ckpt.max_pipelines' => 1000,
	'stream_ckpt.checkpoint_interval' => "'100ms'",
	'stream_ckpt.restart_backoff_min' => "'50ms'");

sub ask { return $node->safe_psql('postgres', $_[0]) }

my %queries = (
	groups => 'SELECT k, count(*) AS n, sum(v) AS v, max(t) AS t FROM s GROUP BY k',
	sets => 'SELECT k % 20 AS k, count(DISTINCT v) AS d, array_agg(DISTINCT v % 5 ORDER BY v % 5) AS l FROM s GROUP BY k % 20',
	sessions => q{SELECT k, window_start, window_end, count(*) AS n, sum(v) AS v FROM s, stream_ckpt.session(ts, '5 s') GROUP BY k, window_start, window_end},
	windows => q{SELECT k, window_start, count(*) AS n, count(DISTINCT v) AS d FROM s, stream_ckpt.hop(ts, '5 s', '10 s') GROUP BY k, window_start},
	closed => q{SELECT k, window_start, count(*) AS n FROM s, stream_ckpt.tumble(ts, '5 s') GROUP BY k, window_start},
	histogram => 'SELECT n, count(*) AS groups, sum(v) AS v FROM (SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k) x GROUP BY n',
	whole => 'SELECT count(*) AS groups, max(n) AS n FROM (SELECT k, count(*) AS n FROM s GROUP BY k) x');
my %oracles = (
	sessions => q{SELECT k, min(ts) AS window_start, max(ts) + interval '5 s' AS window_end, count(*) AS n, sum(v) AS v
		FROM (SELECT *, count(*) FILTER (WHERE new) OVER (PARTITION BY k ORDER BY ts) AS session
			FROM (SELECT *, ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) >= interval '5 s' AS new FROM oracle.s) x) x GROUP BY k, session},
	closed => q{SELECT * FROM (SELECT k, window_start, count(*) AS n FROM oracle.s, stream_ckpt.tumble(ts, '5 s') GROUP BY k, window_start, window_end
		HAVING window_end <= (SELECT max(ts) FROM oracle.s)) x});
my %columns = map { my ($list) = $queries{$_} =~ /^SELECT (.*?) FROM/; $_ => [] } keys %queries;

ask(q{
	CREATE SCHEMA oracle;
	CREATE TABLE oracle.s (k int, v int, t text, ts timestamptz);
	CREATE FOREIGN TABLE s (k int, v int, t text, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts');
	CREATE FUNCTION put(first int, last int, keys int) RETURNS void LANGUAGE sql AS $$
		WITH rows AS (SELECT i * 7919 % keys, i % 1000, 'row ' || i, '2024-01-01Z'::timestamptz + i / 10 * interval '1 s' FROM generate_series(first, last) i),
			kept AS (INSERT INTO oracle.s SELECT * FROM rows)
		INSERT INTO s SELECT * FROM rows $$;
});
foreach my $name (sort keys %queries)
{
	my $emit = $name eq 'closed' ? 'final' : 'changes';

	ask("SELECT stream_ckpt.create_pipeline('$name', \$\$$queries{$name}\$\$, parallelism => 4, emit => '$emit')");
}
my $row = 0;

sub put
{
	my ($rows, $keys) = @_;
	my $first = $row + 1;

	$row += $rows;
	ask('SELECT put(' . join(', ', $first, $row, $keys || 300) . ')');
	return;
}

# Which results differ from their queries over the table?
sub wrong
{
	my @wrong;

	checkpoint($node);
	foreach my $name (sort keys %queries)
	{
		my $oracle = $oracles{$name} || $queries{$name} =~ s/FROM s\b/FROM oracle.s/r;
		my @names = map { [ split /\|/ ] } split /\n/, ask("SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = '$name'::regclass AND attnum > 0");
		my $differences = ask('SELECT ' . differences($name, $oracle, @names));

		push @wrong, "$name: $differences" if $differences ne '0';
	}
	return join ', ', @wrong;
}

sub restarts { return ask('SELECT sum(restarts) FROM stream_ckpt.pipelines') }

put(2000);
is(wrong(), '', 'results of parallel tasks');
is(ask('SELECT count(DISTINCT worker_pid) FROM stream_ckpt.tasks'), '3', 'tasks in all workers');
is(history_faults($node), '', 'the views');

# ---- A head that begins anew while the worker of other tasks is busy ----

ask(q{
	CREATE FOREIGN TABLE slow (seconds float8) SERVER stream_ckpt;
	SELECT stream_ckpt.create_pipeline('slow_' || i, 'SELECT pg_sleep(seconds) IS NULL AS b FROM slow WHERE seconds > ' || i) FROM generate_series(0, 2) i;
	SELECT stream_ckpt.checkpoint();
});
foreach my $round (1 .. 3)
{
	ask("INSERT INTO slow VALUES (0.7 + $round - 1)") if $round < 3;
	foreach (1 .. 3)
	{
		usleep(100_000);
		ask('SELECT stream_ckpt.pause_pipeline(p) FROM unnest(ARRAY[' . join(', ', map { "'$_'" } sort keys %queries) . ']) p');
		ask('SELECT stream_ckpt.resume_pipeline(p) FROM unnest(ARRAY[' . join(', ', map { "'$_'" } sort keys %queries) . ']) p');
	}
	put(500);
	is(wrong(), '', "nothing is taken in twice after heads have begun anew, $round");
}

# ---- Rescale ----

foreach my $n (3, 1, 4, 2, 1, 3)
{
	put(300);
	ask(join '', map { "SELECT stream_ckpt.alter_pipeline('$_', parallelism => $n);" } sort keys %queries);
	put(300);
	is(wrong(), '', "results with $n tasks");
	foreach my $pid (worker_pids($node)) { kill_pid('TERM', $pid); }
	put(300);
	is(wrong(), '', "results with $n tasks, and workers anew");
	is(ask(q{SELECT string_agg(DISTINCT x, ' ') FROM (SELECT count(*)::text AS x FROM stream_ckpt.tasks WHERE pipeline NOT LIKE 'slow%' GROUP BY pipeline) x}), $n, "$n tasks");
}
is(history_faults($node), '', 'the views');

$node->stop;
done_testing();
