# Queries over several streams against an independent oracle, under crashes: UNION ALL
# with and without windows, watermarks of the slowest stream, stored and read again
# stream by stream, and heartbeats of silent streams.
#
# One producer at a time: transactions are numbered, and commit in that order, so that
# ordinary tables written in the same transactions tell what each row is judged by.
#
# STREAM_CKPT_UNION_ROUNDS or LONG=1 for more rounds.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(usleep time);

my $rounds = $ENV{STREAM_CKPT_UNION_ROUNDS} || ($ENV{LONG} ? 150 : 16);
my $transactions = 40;		# of a round
my $span = 300;				# seconds of event time in a round
my $delay = 7;				# of stream a
my $origin = '2000-01-03 00:00Z';
my $base = 1_704_110_400;	# 2024-01-01 12:00Z
my ($id, $tx) = (0, 0);

seed_random();

my $node = new_cluster('unions',
	'stream_ckpt.log_memory' => "'1MB'",
	'stream_ckpt.fault' => "''",
	checkpoint_timeout => "'30s'",
	max_wal_size => "'1GB'");
my $scripts = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', <<"SQL");
SELECT stream_ckpt.create_stream('a', 'id bigint, k int, v int, ts timestamptz, pad text', event_time => 'ts', watermark_delay => '$delay s');
SELECT stream_ckpt.create_stream('b', 'ts timestamptz, pad text, v int, k int, id bigint', event_time => 'ts');
SELECT stream_ckpt.create_stream('c', 'id bigint, ts timestamptz, k int, v int');
CREATE FOREIGN TABLE both_streams (id bigint, k int, v int, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts');
CREATE TABLE done (tx bigint, s text, id bigint, k int, v int, ts timestamptz);
CREATE TABLE advanced (tx bigint, s text, wm timestamptz);
SQL

# ---- pipelines ----

my $ab = 'SELECT id, k, v, ts FROM a UNION ALL SELECT id, k, v, ts FROM b';
my $abc = "$ab UNION ALL SELECT id, k, v, ts FROM c";
my $self = 'SELECT id, k, v, ts FROM a UNION ALL SELECT -id, k, v, ts FROM a WHERE v > 5 UNION ALL SELECT id, k, v, ts FROM b WHERE v > 2';
my $tumble = "LATERAL (SELECT d AS window_start, d + interval '1 minute' AS window_end FROM date_bin('1 minute', ts, '$origin') d) w";
my $hop = "LATERAL (SELECT d AS window_start, d + interval '1 minute' AS window_end
	FROM generate_series(date_bin('20 s', ts, '$origin') - interval '40 s', date_bin('20 s', ts, '$origin'), '20 s') d) w";
# rows of the oracle, by what is read; `w` is the watermark before the row's transaction
my %rows = (
	$ab => q{(SELECT * FROM e WHERE s IN ('a', 'b'))},
	$abc => q{(SELECT * FROM e)},
	$self => q{(SELECT s, id, k, v, ts, w FROM e WHERE s = 'a' OR s = 'b' AND v > 2 UNION ALL SELECT s, -id, k, v, ts, w FROM e WHERE s = 'a' AND v > 5)});
my @pipelines;

sub windowed
{
	my ($name, $from, $window, $targets, $keys, %p) = @_;
	my ($call, $oracle) = $window eq 'hop' ? ("stream_ckpt.hop(u.ts, '20 s', '1 minute')", $hop) : ("stream_ckpt.tumble(u.ts, '1 minute')", $tumble);
	my $lateness = $p{lateness} || '0';
	my $group = $keys ? "GROUP BY $keys" : '';
	my $closed = $p{final} ? "HAVING max(window_end) + interval '$lateness' <= (SELECT w FROM at_end)" : '';

	push @pipelines, { name => $name,
		query => "SELECT $targets FROM ($from) u, $call $group",
		options => "allowed_lateness => '$lateness'" . ($p{final} ? ", emit => 'final'" : ''),
		oracle => "SELECT $targets FROM $rows{$from} u, $oracle WHERE window_end > u.w - interval '$lateness' $group $closed",
		late => "SELECT count(DISTINCT (s, abs(id))) FROM $rows{$from} u, $oracle WHERE window_end <= u.w - interval '$lateness'" };
	return;
}

windowed('tumble_changes', $abc, 'tumble', 'window_start, k, count(*) AS n, sum(v) AS v', '1, 2');
windowed('tumble_final', $abc, 'tumble', 'window_start, window_end, count(*) AS n, min(id) AS lo, max(id) AS hi', '1, 2', final => 1);
windowed('hop_final', $self, 'hop', 'window_end, k, count(*) AS n, sum(v) AS v, array_agg(id ORDER BY id) AS ids', '1, 2', final => 1, lateness => '15 s');
windowed('hop_changes', $ab, 'hop', 'window_end, count(*) AS n, count(DISTINCT k) AS d', '1');
windowed('linear_windows', $ab, 'hop', 'id, window_start', '');
push @pipelines, { name => 'sessions', options => "emit => 'final'",
	query => "SELECT k, window_start, window_end, count(*) AS n, sum(v) AS v FROM ($ab) u, stream_ckpt.session(u.ts, '10 s') GROUP BY 1, 2, 3",
	oracle => "SELECT k, min(ts), max(ts) + interval '10 s', count(*), sum(v)
		FROM (SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY k ORDER BY ts, id) AS island
			FROM (SELECT *, coalesce(ts - lag(ts) OVER (PARTITION BY k ORDER BY ts, id) >= interval '10 s', true) AS fresh
				FROM $rows{$ab} u WHERE ts >= w) x) y
		GROUP BY k, island HAVING max(ts) + interval '10 s' <= (SELECT w FROM at_end)",
	late => "SELECT count(*) FROM $rows{$ab} u WHERE ts < w" };
push @pipelines, { name => 'linear', query => $abc, oracle => "SELECT id, k, v, ts FROM $rows{$abc} u" };
push @pipelines, { name => 'grouped',
	query => "SELECT k, count(*) AS n, sum(v) AS v, max(ts) AS ts FROM ($self) u GROUP BY k",
	oracle => "SELECT k, count(*) AS n, sum(v) AS v, max(ts) AS ts FROM $rows{$self} u GROUP BY k" };
push @pipelines, { name => 'to_both', query => "SELECT id, k, v, ts FROM ($ab) u WHERE v > 1", options => "sink => 'both_streams'" };
push @pipelines, { name => 'chained',
	query => 'SELECT k, count(*) AS n, sum(id) AS id FROM (SELECT id, k FROM both_streams UNION ALL SELECT id, k FROM c) u GROUP BY k',
	oracle => q{SELECT k, count(*), sum(id) FROM e WHERE s = 'c' OR v > 1 GROUP BY k} };

foreach my $p (@pipelines)
{
	my $options = $p->{options} ? ", $p->{options}" : '';

	$node->safe_psql('postgres', "SELECT stream_ckpt.create_pipeline('$p->{name}', \$q\$$p->{query}\$q\$$options)");
}

# ---- the producer ----

sub timestamp
{
	my ($seconds) = @_;

	return "'" . POSIX::strftime('%Y-%m-%d %H:%M:%S', gmtime($seconds)) . sprintf('.%03dZ', ($seconds - POSIX::floor($seconds)) * 1000) . "'";
}

# Rows of one stream; b is behind a, or ahead of it, by what the round says.
sub rows
{
	my ($stream, $clock, $count, $kept) = @_;
	my @values;

	foreach (1 .. $count)
	{
		my $time = rand() < 0.8 ? $clock - rand(15) : $clock - rand(150);

		$time = POSIX::floor($time / 20) * 20 if rand() < 0.2;
		push @values, sprintf '(%d::bigint, %d, %d, %s::timestamptz)', ++$id, int(rand(4)), int(rand(10)), rand() < 0.03 ? "'infinity'" : timestamp($time);
	}
	my $columns = $stream eq 'c' ? 'id, ts, k, v' : $stream eq 'b' ? 'ts, v, k, id' : 'id, k, v, ts';
	my $insert = "INSERT INTO $stream ($columns) SELECT $columns FROM r";

	return 'WITH r(id, k, v, ts) AS MATERIALIZED (VALUES ' . join(', ', @values) . ')'
	  . ($kept ? ", i AS ($insert) INSERT INTO done SELECT $tx, '$stream', * FROM r;\n" : " $insert;\n");
}

# More than the log reader keeps in memory, or than a linear query keeps for its checkpoint.
sub large
{
	my ($clock, $count, $width) = @_;
	my $first = $id + 1;
	my $time = timestamp($clock);

	$id += $count;
	return "CREATE TEMP TABLE big ON COMMIT DROP AS SELECT $first + i AS id, i % 4 AS k, i % 10 AS v, $time\::timestamptz - i % 40 * interval '1 s' AS ts FROM generate_series(0::bigint, $count - 1) i;\n"
	  . "INSERT INTO a SELECT *, repeat('x', $width) FROM big WHERE id % 2 = 0;\nINSERT INTO b (ts, v, k, id, pad) SELECT ts, v, k, id, repeat('x', $width) FROM big WHERE id % 2 = 1;\n"
	  . "INSERT INTO done SELECT $tx, CASE WHEN id % 2 = 0 THEN 'a' ELSE 'b' END, * FROM big;\n";
}

sub transaction
{
	my ($clock, %lag) = @_;
	my $sql = "BEGIN;\n";
	my $shape = rand();

	$tx++;
	foreach my $stream (sort { rand() <=> 0.5 } 'a', 'b', 'c')
	{
		$sql .= rows($stream, $clock - ($lag{$stream} || 0), 1 + int(rand(4)), 1) if rand() < 0.6;
	}
	if ($shape < 0.1)
	{
		my $stream = rand() < 0.5 ? 'a' : 'b';
		my $time = timestamp($clock - 20 - rand(30) - ($lag{$stream} || 0));

		$sql .= "SELECT stream_ckpt.advance_watermark('$stream', $time);\nINSERT INTO advanced VALUES ($tx, '$stream', $time);\n";
	}
	elsif ($shape < 0.25)
	{
		$sql .= "SAVEPOINT s;\n" . rows('a', $clock + 10_000, 2, 1) . rows('b', $clock + 10_000, 1, 1) . "ROLLBACK TO s;\n";
	}
	elsif ($shape < 0.35)
	{
		return $sql . rows('b', $clock + 10_000, 1, 1) . "ROLLBACK;\n";
	}
	return $sql . "COMMIT;\n";
}

sub start_producer
{
	my ($round) = @_;
	my $file = "$scripts/producer.sql";
	my %lag = (rand() < 0.5 ? 'a' : 'b' => rand(120), c => rand(60));
	my $script = join '', map { transaction($base + $span * $_ / $transactions, %lag) } 1 .. $transactions;

	if ($round % 5 == 2)
	{
		$tx++;
		$script .= "BEGIN;\n" . ($round == 7 ? large($base + $span, 9000, 4000) : large($base + $span, 8000, 300)) . "COMMIT;\n";
	}
	open my $fh, '>', $file or die $!;
	print $fh $script;
	close $fh;

	my $pid = fork() // die $!;
	return $pid if $pid;
	open STDIN, '<', '/dev/null';
	open STDOUT, '>', "$scripts/producer.out";
	open STDERR, '>&', \*STDOUT;
	exec $node->installed_command('psql'), '-Xqv', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr('postgres')
	  or POSIX::_exit(1);
}

# ---- the oracle ----

my $oracle_tables = <<"SQL";
SET timezone = 'UTC';
SET jit = off;
CREATE TEMP TABLE tops AS
	SELECT tx, max(top) FILTER (WHERE s = 'a') AS a, max(top) FILTER (WHERE s = 'b') AS b
	FROM (SELECT tx, s, ts - CASE s WHEN 'a' THEN interval '$delay s' ELSE '0' END AS top FROM done WHERE isfinite(ts)
		UNION ALL SELECT tx, s, wm FROM advanced UNION ALL SELECT tx, NULL, NULL FROM done) x
	GROUP BY tx;
CREATE TEMP TABLE marks AS
	SELECT tx, CASE WHEN a IS NULL OR b IS NULL THEN '-infinity' ELSE least(a, b) END AS w
	FROM (SELECT tx, max(a) OVER earlier AS a, max(b) OVER earlier AS b FROM tops WINDOW earlier AS (ORDER BY tx ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) x;
CREATE TEMP TABLE at_end AS SELECT least(max(a), max(b)) AS w FROM tops HAVING count(a) > 0 AND count(b) > 0;
CREATE TEMP TABLE e_all AS SELECT s, id, k, v, ts, w FROM done JOIN marks USING (tx);
CREATE TEMP TABLE e AS SELECT * FROM e_all WHERE isfinite(ts);
ANALYZE e_all;
ANALYZE e;
SQL

sub compare
{
	my ($when) = @_;
	my $sql = $oracle_tables;

	checkpoint($node);
	foreach my $p (grep { $_->{oracle} } @pipelines)
	{
		# infinite event times are in no window
		my $oracle = $p->{late} ? $p->{oracle} : $p->{oracle} =~ s/FROM e\b/FROM e_all/gr;

		$sql .= "SELECT '$p->{name}', left(string_agg(differing::text, ' '), 400), count(*)
			FROM (SELECT '+' AS sign, x.* FROM (TABLE $p->{name} EXCEPT ALL ($oracle)) x
			UNION ALL SELECT '-', x.* FROM (($oracle) EXCEPT ALL TABLE $p->{name}) x) differing;\n";
		next if !$p->{late};
		$sql .= "SELECT '$p->{name} late', late_rows - ($p->{late}) FROM stream_ckpt.pipelines WHERE pipeline = '$p->{name}';\n";
		$sql .= "SELECT '$p->{name} watermark', (watermark IS DISTINCT FROM (SELECT w FROM at_end))::int FROM stream_ckpt.pipelines WHERE pipeline = '$p->{name}';\n";
	}
	$sql .= "SELECT pipeline || ' ' || status || ' ' || coalesce(error, ''), 1 FROM stream_ckpt.pipelines WHERE status <> 'running';\n";
	$sql .= "SELECT stream || ' watermark', (watermark IS DISTINCT FROM (SELECT CASE stream::text WHEN 'a' THEN max(a) ELSE max(b) END FROM tops))::int FROM stream_ckpt.streams WHERE stream::text IN ('a', 'b');\n";
	my ($rc, $answer, $problem) = try_psql($node, 'postgres', $sql, on_error_stop => 0);
	my %seen = map { /^([^|]*)\|(.*\|)?(-?\d+)$/ ? ($1, $3) : () } split /\n/, $answer;
	my @wrong = grep { !/\|0$/ } split /\n/, $answer;

	push @wrong, map { "$_->{name} was not compared" } grep { $_->{oracle} && !defined $seen{ $_->{name} } } @pipelines;
	return is(join("\n", @wrong, $problem), '', "results, late rows and watermarks are right: $when");
}

# ---- rounds ----

sub crash
{
	my ($kind) = @_;

	if ($kind eq 'worker')
	{
		my $pid = 0;

		wait_for('a worker', sub { return $pid = worker_pid($node) }, 60);
		kill_pid('KILL', $pid);
		wait_for('the server to notice', sub { return !kill(0, $pid) }, 60);
	}
	elsif ($kind eq 'postmaster') { kill_server($node); start_again($node); }
	elsif ($kind eq 'immediate') { $node->stop('immediate'); start_again($node); }
	elsif ($kind eq 'restart') { $node->stop('fast'); start_again($node); }
	return;
}

my @kinds = ('none', 'worker', 'postmaster', 'immediate', 'error', 'kill', 'restart', 'kill');
my @points = ('checkpoint-trigger', 'barrier', 'chunks-written', 'before-commit', 'after-commit', 'cleanup', 'restore');

foreach my $round (1 .. $rounds)
{
	my $kind = $round <= @kinds ? $kinds[ $round - 1 ] : $kinds[ int(rand(@kinds)) ];
	my $point = $points[ int(rand(@points)) ];

	set_fault($node, "$point:$kind") if $kind eq 'error' || $kind eq 'kill';
	my $producer = start_producer($round);

	usleep(20_000 + int(rand(200_000))) if $kind ne 'none';    # a random moment is what this test is about
	# at the start of a worker only: there has to be one
	crash($point eq 'restore' && $kind eq 'error' ? 'worker' : $kind);
	waitpid $producer, 0;
	clear_fault($node) if $kind eq 'error' || $kind eq 'kill';
	wait_for('the server', sub { accepts($node) }, 60);
	compare("round $round, $kind" . ($kind eq 'error' || $kind eq 'kill' ? " at $point" : ''));
	$base += $span + int(rand(100));
}
my ($rows, $late) = split /\|/, $node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM done), min(late_rows) FROM stream_ckpt.pipelines WHERE query LIKE \'%tumble%\'');
cmp_ok($rows, '>', 50 * $rounds, "$rows rows were committed");
cmp_ok($late, '>', 0, 'there were late rows');

# ---- heartbeats: what they decided holds through crashes ----

$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines;
SELECT stream_ckpt.create_stream('live', 'id int, ts timestamptz', event_time => 'ts');
SELECT stream_ckpt.create_stream('quiet', 'id int, ts timestamptz', event_time => 'ts', idle_timeout => '200 ms');
SELECT stream_ckpt.create_pipeline('idle_final', $$SELECT window_end, array_agg(id ORDER BY id) AS ids FROM (TABLE live UNION ALL TABLE quiet) u, stream_ckpt.tumble(u.ts, '1 minute') GROUP BY 1$$, emit => 'final');
SELECT stream_ckpt.create_pipeline('idle_slow', $$SELECT window_end, array_agg(id ORDER BY id) AS ids FROM (TABLE live UNION ALL TABLE quiet) u, stream_ckpt.tumble(u.ts, '1 minute') GROUP BY 1$$, emit => 'final', checkpoint_interval => '1 hour');
SQL
foreach my $round (1 .. 6)
{

	# a window that the silence of `quiet` alone lets close, and then a row of `quiet` that is late for it
	$node->safe_psql('postgres', "INSERT INTO quiet VALUES ($round * 10, " . timestamp(60 * $round * 10) . ")");
	$node->safe_psql('postgres', "INSERT INTO live VALUES ($round * 10 + 1, " . timestamp(60 * $round * 10 + 150) . ")");
	wait_for('the window to close', sub {
		my ($rc, $n) = try_psql($node, 'postgres', "SELECT count(*) FROM idle_final WHERE ids[1] = $round * 10");
		return $rc == 0 && $n eq '1';
	}, 60);
	$node->safe_psql('postgres', "INSERT INTO quiet VALUES ($round * 10 + 2, " . timestamp(60 * $round * 10 + 1) . ")");
	crash((qw(worker postmaster immediate restart))[ $round % 4 ]);
	wait_for('the server', sub { accepts($node) }, 60);
	checkpoint($node);
	# what has been stored only at the beginning is read again from the log, heartbeats in their places
	is($node->safe_psql('postgres', 'SELECT string_agg(pipeline || late_rows, \' \' ORDER BY pipeline) FROM stream_ckpt.pipelines'),
		"idle_final$round idle_slow$round", "late after the silence, and after a crash: round $round");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM ((TABLE idle_final EXCEPT ALL TABLE idle_slow) UNION ALL (TABLE idle_slow EXCEPT ALL TABLE idle_final)) x'),
		'0', 'the replay judges alike');
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion');

$node->stop('fast');
done_testing();
