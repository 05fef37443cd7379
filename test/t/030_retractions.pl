# Aggregates over rows that change, with crashes: what is added and subtracted is what plain SQL computes from all rows, to the last digit.
#
# Each key's last row counts, unless it says that the key is gone; so groups above lose and get values of all kinds, empty, and come back.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $rounds = $ENV{STREAM_CKPT_ROUNDS} || 48;
my $seed = seed_random();
my $node = new_cluster('retractions', 'stream_ckpt.checkpoint_interval' => "'150ms'", 'stream_ckpt.restart_backoff_min' => "'10ms'");
my $columns = 'id int, k int, gone bool, i int, l bigint, n numeric, v interval, t text, b bool, f float8';
my $last = join ', ', map { "(array_agg($_ ORDER BY id DESC))[1] AS $_" } qw(gone i l n v t b f);
my $x = "WITH x AS (SELECT k % 4 AS g, k, $last FROM s GROUP BY k HAVING NOT (array_agg(gone ORDER BY id DESC))[1])";
my %queries = (
	sums => "$x SELECT g, count(*) AS c, count(i) AS ci, sum(i) AS i, sum(l) AS l, sum(n) AS n, sum(v) AS v, sum(f) AS f FROM x GROUP BY g",
	averages => "$x SELECT g, avg(i) AS i, avg(l) AS l, avg(n) AS n, avg(v) AS v, avg(f) AS f, avg(n) FILTER (WHERE b) AS nb FROM x GROUP BY g",
	deviations => "$x SELECT g, stddev(i) AS i, var_pop(l) AS l, variance(n) AS n, stddev_pop(n) AS np FROM x GROUP BY g",
	extremes => "$x SELECT g, min(i) AS i, max(l) AS l, min(t) AS t, max(f) AS f, bool_and(b) AS b, bool_or(b) AS bo, max(k) FILTER (WHERE b) AS k FROM x GROUP BY g",
	overall => "$x SELECT count(*) AS c, sum(n) AS n, min(i) AS lo, max(i) AS hi, avg(l) AS a, count(DISTINCT t) AS d, array_agg(n ORDER BY k) AS ns FROM x",
	three => "$x SELECT c, count(*) AS n, sum(s) AS s, min(lo) AS lo FROM (SELECT g, count(*) AS c, sum(n) AS s, min(i) AS lo FROM x GROUP BY g) y GROUP BY c",
	within => "$x SELECT k, max(i) AS i, sum(n) AS n FROM x GROUP BY k");
my @pipelines;

$node->safe_psql('postgres', "CREATE SCHEMA plain; CREATE TABLE plain.s ($columns); SELECT stream_ckpt.create_stream('s', '$columns')");
foreach my $tasks (parallelisms($node))
{
	foreach my $name (sort keys %queries)
	{
		push @pipelines, { name => "${name}_$tasks", query => $queries{$name} };
		$node->safe_psql('postgres', "SELECT stream_ckpt.create_pipeline('${name}_$tasks', \$q\$$queries{$name}\$q\$, parallelism => $tasks)");
	}
}

sub pick { return $_[ int rand @_ ]; }

my $id = 0;

sub row
{
	my $scale = rand() < 0.1 ? 3 + int rand 6 : int rand 3;
	my $n = rand() < 0.1 ? 'NULL' : rand() < 0.02 ? "'NaN'" : sprintf "%.${scale}f", rand(200) - 100;

	return '(' . join(', ', ++$id, int rand 30, rand() < 0.25 ? 'true' : 'false', rand() < 0.15 ? 'NULL' : int(rand 40) - 20, (int(rand 9) - 4) . '000000000000', $n,
		pick(qw('1day' '24:00' '-1mon' NULL '0:00:01')), pick(qw('a' 'b' 'B' '' NULL 'zz')), pick(qw(true false NULL)), (int(rand 40) - 20) * 0.25) . ')';
}

# What differs, if anything: rows as they look.
sub wrong
{
	my @wrong;

	checkpoint($node);
	foreach my $p (@pipelines)
	{
		my $diff = $node->safe_psql('postgres', qq{SET search_path = plain, public; SELECT string_agg(x, ' ') FROM (
			(SELECT 'missing ' || q::text AS x FROM (SELECT q::text FROM ($p->{query}) q EXCEPT ALL SELECT q::text FROM public.$p->{name} q) q)
			UNION ALL (SELECT 'extra ' || q::text FROM (SELECT q::text FROM public.$p->{name} q EXCEPT ALL SELECT q::text FROM ($p->{query}) q) q)) x});

		push @wrong, "$p->{name}: $diff" if $diff ne '';
	}
	return join "\n", @wrong;
}

my %done = (kill => 0, end => 0, none => 0);
my @wrong;

foreach my $round (1 .. $rounds)
{
	my $how = $round % 8 == 0 ? 'kill' : $round % 8 == 4 ? 'end' : 'none';

	foreach (1 .. 1 + int rand 3)
	{
		my $rows = join ', ', map { row() } 1 .. (rand() < 0.3 ? 40 : 1 + int rand 5);

		$node->safe_psql('postgres', "BEGIN; INSERT INTO s VALUES $rows; INSERT INTO plain.s VALUES $rows; " . (rand() < 0.9 ? 'COMMIT' : 'ROLLBACK'));
	}
	$done{$how}++;
	if ($how eq 'kill')
	{
		kill_server($node);
		start_again($node);
	}
	kill_pid('TERM', worker_pid($node)) if $how eq 'end';
	my $wrong = $round % 2 == 0 ? wrong() : '';

	push @wrong, "round $round ($how): $wrong" if $wrong ne '';
	last if @wrong > 2;
}
is(join("\n", @wrong), '', "results are those of plain SQL, $done{kill} times after a crash, $done{end} after the worker's end (seed $seed)");
is($node->safe_psql('postgres', q{SELECT string_agg(pipeline || ': ' || error, ' ') FROM stream_ckpt.pipelines WHERE error IS NOT NULL}), '', 'no pipeline has an error');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM sums_1}), '>', 1, 'groups are there');
$node->stop('fast');
done_testing();
