# SIGKILL of a worker at every fault point, while it takes the checkpoint of each
# of several kinds of pipelines, with one task and with several.  After each of them results
# equal the same SQL over an ordinary table that was written in the same
# transactions, and the history of checkpoints is consistent.
#
# Checkpoints are taken only when they are asked for: it is known which pipeline
# the worker died in, and all others die with rows that no checkpoint has.
#
# STREAM_CKPT_PARALLELISM="1 4" says for which numbers of tasks, STREAM_CKPT_POINTS="barrier restore" for which points,
# STREAM_CKPT_KINDS="outer near" for which kinds of pipelines, or "all" (twenty minutes); by default an aggregate, windows, joins and a window function.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time usleep);

my $start = time();
my $node = new_cluster('matrix',
	autovacuum => 'off',
	jit => 'off',
	log_min_messages => 'warning',
	log_statement => 'none',
	'stream_ckpt.fault' => "''",
	'stream_ckpt.workers' => 2,
	'stream_ckpt.checkpoint_interval' => "'1h'",
	'stream_ckpt.restart_backoff_min' => "'20ms'",
	'stream_ckpt.restart_backoff_max' => "'100ms'");
my @levels = parallelisms($node);

# Points, and what makes a worker come to them: a checkpoint, unless said. Those that the library does not have are left out.
my @points = ('checkpoint-trigger', 'barrier', 'hand-over', 'chunks-written', 'cleanup', 'before-commit', 'after-commit', 'restore',
	'rescale', 'savepoint', 'alter-loaded', 'offline-stored');
@points = split ' ', $ENV{STREAM_CKPT_POINTS} if $ENV{STREAM_CKPT_POINTS};
# Not every pipeline comes to every point: only several tasks hand over, and only what has state in several of them, or may have, is dealt out anew.
my $tasks = sub { my ($name) = @_; return $node->safe_psql('postgres', "SELECT count(*) FROM stream_ckpt.tasks WHERE pipeline = '$name'"); };
my $alters = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_proc WHERE proname = 'alter_pipeline' AND pronamespace = 'stream_ckpt'::regnamespace});
my %only = (
	'hand-over' => sub { return $tasks->($_[0]) > 1; },
	'rescale' => sub { return $alters && @levels > 1 && $_[0] !~ /^(linear|joined)/; },
	map { $_ => sub { return $_[0] !~ /^linear/; } } 'alter-loaded', 'offline-stored');

# ---- pipelines, and the same over the table `done` ----

my $minutes = "LATERAL (SELECT d AS window_start, d + interval '10 s' AS window_end FROM date_bin('10 s', ts, '2000-01-03Z') d) w";
my $closed = "(SELECT max(ts) - interval '2 s' FROM done)";
my %kinds = (
	aggregate => {
		query => 'SELECT k, count(*) AS n, sum(v) AS v, max(v) AS top, count(DISTINCT v) AS d FROM s GROUP BY k',
		oracle => 'SELECT k, count(*), sum(v), max(v), count(DISTINCT v) FROM done GROUP BY k' },
	windows => {
		query => q{SELECT window_start, k, count(*) AS n, sum(v) AS v FROM s, stream_ckpt.tumble(ts, '10 s') GROUP BY window_start, k},
		oracle => "SELECT window_start, k, count(*), sum(v) FROM done, $minutes GROUP BY window_start, k" },
	final => {
		query => q{SELECT window_start, window_end, k, count(*) AS n, sum(v) AS v FROM s, stream_ckpt.tumble(ts, '10 s') GROUP BY window_start, window_end, k},
		options => q{, emit => 'final'},
		oracle => "SELECT window_start, window_end, k, count(*), sum(v) FROM done, $minutes WHERE window_end <= $closed GROUP BY window_start, window_end, k" },
	sessions => {
		query => q{SELECT k, window_start, window_end, count(*) AS n, sum(v) AS v FROM s, stream_ckpt.session(ts, '3 s') GROUP BY k, window_start, window_end},
		oracle => q{SELECT k, min(ts), max(ts) + interval '3 s', count(*), sum(v) FROM
			(SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY k ORDER BY ts, id) AS island FROM
				(SELECT *, coalesce(ts - lag(ts) OVER (PARTITION BY k ORDER BY ts, id) >= interval '3 s', true) AS fresh FROM done) a) b
			GROUP BY k, island} },
	joined => {
		query => 'SELECT name, count(*) AS n, sum(v) AS v, min(v) AS low FROM s JOIN names USING (k) GROUP BY name',
		oracle => 'SELECT name, count(*), sum(v), min(v) FROM done JOIN names USING (k) GROUP BY name' },
	stages => {
		query => 'SELECT n % 50 AS n, count(*) AS groups, sum(v) AS v FROM (SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k) x GROUP BY 1',
		oracle => 'SELECT n % 50, count(*), sum(v) FROM (SELECT k, count(*) AS n, sum(v) AS v FROM done GROUP BY k) x GROUP BY 1' },
	ranked => {
		query => 'SELECT k, v, place FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC, id) AS place FROM s) x WHERE place <= 3',
		altered => 'SELECT k, v, place FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC, id) AS place FROM s) x WHERE place <= 3 AND place > 0',
		oracle => 'SELECT k, v, place FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC, id) AS place FROM done) x WHERE place <= 3' },
	framed => {
		query => 'SELECT k, id, v - lag(v) OVER w AS d, sum(v) OVER (w ROWS 4 PRECEDING) AS s, count(*) OVER w AS c FROM s WINDOW w AS (PARTITION BY k ORDER BY id)',
		altered => 'SELECT k, id, v - lag(v) OVER w AS d, sum(v) OVER (w ROWS 4 PRECEDING) AS s, count(*) OVER w AS c FROM s WHERE v >= 0 WINDOW w AS (PARTITION BY k ORDER BY id)',
		oracle => 'SELECT k, id, v - lag(v) OVER w, sum(v) OVER (w ROWS 4 PRECEDING), count(*) OVER w FROM done WINDOW w AS (PARTITION BY k ORDER BY id)' },
	bag => {
		query => 'SELECT n FROM (SELECT k, count(*) % 7 AS n FROM s GROUP BY k) x ORDER BY n DESC, k LIMIT 10',
		altered => 'SELECT n FROM (SELECT k, count(*) % 7 AS n FROM s GROUP BY k HAVING count(*) > 0) x ORDER BY n DESC, k LIMIT 10',
		oracle => 'SELECT n FROM (SELECT k, count(*) % 7 AS n FROM done GROUP BY k) x ORDER BY n DESC, k LIMIT 10' },
	outer => {
		query => 'SELECT a.id, b.id AS other, b.v FROM s a LEFT JOIN s b ON b.k = a.k AND b.v = a.v AND b.id > a.id',
		altered => 'SELECT a.id, b.id AS other, b.v FROM s AS a LEFT JOIN s AS b ON b.k = a.k AND b.v = a.v AND b.id > a.id',
		oracle => 'SELECT a.id, b.id, b.v FROM done a LEFT JOIN done b ON b.k = a.k AND b.v = a.v AND b.id > a.id' },
	near => {
		query => q{SELECT a.k, count(*) AS n, max(b.v) AS v FROM s a JOIN s b ON b.k = a.k AND b.ts BETWEEN a.ts AND a.ts + interval '10 s' GROUP BY a.k},
		oracle => q{SELECT a.k, count(*), max(b.v) FROM done a JOIN done b ON b.k = a.k AND b.ts BETWEEN a.ts AND a.ts + interval '10 s' GROUP BY a.k} },
	facing => {
		query => 'SELECT x.k, y.n AS other, x.n FROM (SELECT k, count(*) AS n FROM s WHERE v > 20 GROUP BY k) x FULL JOIN (SELECT v AS n, count(*) AS m FROM s GROUP BY v) y ON y.m = x.n',
		altered => 'SELECT x.k, y.n AS other, x.n FROM (SELECT k, count(*) AS n FROM s WHERE v > 20 GROUP BY 1) x FULL JOIN (SELECT v AS n, count(*) AS m FROM s GROUP BY v) y ON y.m = x.n',
		oracle => 'SELECT x.k, y.n, x.n FROM (SELECT k, count(*) AS n FROM done WHERE v > 20 GROUP BY k) x FULL JOIN (SELECT v AS n, count(*) AS m FROM done GROUP BY v) y ON y.m = x.n' },
	linear => {
		query => 'SELECT id, v FROM s WHERE v % 3 = 0',
		altered => 'SELECT id, v FROM s WHERE v % 3 = 0 AND v >= 0',
		oracle => 'SELECT id, v FROM done WHERE v % 3 = 0' });
my $wanted = $ENV{STREAM_CKPT_KINDS} || 'aggregate windows near facing framed';
my @wanted = $wanted eq 'all' ? sort keys %kinds : split ' ', $wanted;
my @names = map { my $n = $_; map { "${_}_$n" } @wanted } @levels;

sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }

$node->safe_psql('postgres', <<'SQL' . join '', map { my ($kind, $n) = /^(.*)_(\d+)$/; "SELECT stream_ckpt.create_pipeline('$_', " . literal($kinds{$kind}{query}) . ", parallelism => $n" . ($kinds{$kind}{options} || '') . ");\n" } @names);
SELECT stream_ckpt.create_stream('s', 'id int, k int, v int, ts timestamptz', event_time => 'ts', watermark_delay => '2 s');
CREATE TABLE done (id int PRIMARY KEY, k int, v int, ts timestamptz);
CREATE INDEX ON done (k, ts);
CREATE TABLE names (k int PRIMARY KEY, name text);
INSERT INTO names SELECT k, 'name ' || k % 7 FROM generate_series(0, 35) k;
-- the n-th lot: 40 rows in 2 s of event time, out of order by less than the delay
CREATE FUNCTION lot(n int) RETURNS TABLE (id int, k int, v int, ts timestamptz) LANGUAGE sql STABLE AS
	$$SELECT n * 40 + i, (n * 7 + i * i) % 40, (n * 31 + i * 17) % 100, '2026-01-01Z'::timestamptz + n * interval '2 s' + i * interval '50 ms' FROM generate_series(0, 39) i ORDER BY i * 7 % 40$$;
SQL

my $lots = 0;

# Two transactions, one of them undone in part. The server may be away.
sub insert
{
	my ($a, $b) = ($lots, $lots + 1);
	my ($rc) = try_psql($node, 'postgres', qq{BEGIN; INSERT INTO s SELECT * FROM lot($a); INSERT INTO done SELECT * FROM lot($a); COMMIT});

	$lots++ if $rc == 0;
	return $rc if $rc != 0;
	($rc) = try_psql($node, 'postgres', qq{BEGIN; INSERT INTO s SELECT * FROM lot($b) WHERE id % 2 = 0; INSERT INTO done SELECT * FROM lot($b) WHERE id % 2 = 0;
SAVEPOINT a; INSERT INTO s SELECT -id, k, v, ts + interval '1 year' FROM lot($b); ROLLBACK TO a;
INSERT INTO s SELECT * FROM lot($b) WHERE id % 2 = 1; INSERT INTO done SELECT * FROM lot($b) WHERE id % 2 = 1; COMMIT});
	$lots++ if $rc == 0;
	return $rc;
}

# Each kind's rows are computed once.
my $compare = join ' UNION ALL ', map {
	my $kind = $_;
	"(WITH o AS MATERIALIZED ($kinds{$kind}{oracle}) " . (join ' UNION ALL ', map {
		"SELECT '${kind}_$_: ' || count(*) || ' rows differ' FROM ((TABLE ${kind}_$_ EXCEPT ALL TABLE o) UNION ALL (TABLE o EXCEPT ALL TABLE ${kind}_$_)) x HAVING count(*) > 0"
	} @levels) . ')'
} @wanted;

# Everything is in the results, and right; all that is wrong is one failure.
sub check
{
	my ($when) = @_;
	my $late = q{SELECT pipeline || ': ' || late_rows || ' late rows' FROM stream_ckpt.pipelines WHERE late_rows > 0};
	my $wrong = '';

	# a worker that still had the fault may have ended the server once more
	wait_for('rows', sub { return insert() == 0; }, 60);
	wait_for('a checkpoint of all', sub {
		my ($rc, undef, $err) = try_psql($node, 'postgres', q{SELECT stream_ckpt.checkpoint('20 s'::interval)});
		$wrong = $err;
		return $rc == 0;
	}, 60);
	my $faults = join "\n", grep { $_ ne '' } $node->safe_psql('postgres', $compare), $node->safe_psql('postgres', $late), history_faults($node);
	return is($faults, '', "results and history are right $when");
}

insert() for 1 .. 5;
check('before any failure');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM $_"), '>', 0, "$_ has rows") foreach @names;
my ($state, $message) = sql_state($node, 'postgres', q{SET stream_ckpt.fault = 'nowhere:kill'});
is($state, '22023', 'a fault point that is not there is refused');
($state) = sql_state($node, 'postgres', q{SET stream_ckpt.fault = 'barrier:explode'});
is($state, '22023', 'and so is an action');

# ---- the matrix ----

# What makes a worker come to a point in a pipeline. What it asks for may or may not come back: the server goes down below it.
sub provoke
{
	my ($point, $name) = @_;
	my ($level) = $name =~ /_(\d+)$/;
	my $command = "SELECT stream_ckpt.checkpoint('$name', '10 s')";

	if ($point eq 'restore') { $command = "SELECT stream_ckpt.resume_pipeline('$name'); $command"; }
	elsif ($point eq 'rescale') { $command = "SELECT stream_ckpt.alter_pipeline('$name', parallelism => @{[ $level == 1 ? 3 : $level - 1 ]}); $command"; }
	elsif ($point eq 'savepoint') { $command = "SELECT stream_ckpt.savepoint('$name', 'kept')"; }
	elsif ($point =~ /^(alter|offline)/)
	{
		my ($kind) = $name =~ /^(.*)_/;
		$command = "SELECT stream_ckpt.alter_pipeline('$name', query => " . literal($kinds{$kind}{altered} || $kinds{$kind}{query} . ' HAVING count(*) > 0') . ')';
	}
	try_psql($node, 'postgres', $command);
	return;
}

# And what is to be done away with before the next.
sub tidy
{
	my ($point, $name) = @_;
	my ($level) = $name =~ /_(\d+)$/;

	if ($point eq 'rescale') { $node->safe_psql('postgres', "SELECT stream_ckpt.alter_pipeline('$name', parallelism => $level)"); }
	elsif ($point eq 'savepoint')
	{
		$node->safe_psql('postgres', "SELECT stream_ckpt.drop_savepoint(pipeline, label) FROM stream_ckpt.checkpoints WHERE kind = 'savepoint' AND retained");
	}
	return;
}

sub killed { my ($offset) = @_; return substr(slurp_file($node->logfile), $offset) =~ /terminated by signal 9/; }

my ($crashes, %crashes) = (0);
foreach my $point (@points)
{
	($state) = sql_state($node, 'postgres', "SET stream_ckpt.fault = '$point:kill'");
	if ($state ne '00000')
	{
		diag("the library has no fault point \"$point\"");
		next;
	}
	foreach my $name (@names)
	{
		next if $only{$point} && !$only{$point}->($name);
		$node->safe_psql('postgres', "SELECT stream_ckpt.pause_pipeline('$name')") if $point eq 'restore';
		insert();
		my $offset = -s $node->logfile;
		set_fault($node, "$point:kill");
		foreach (1 .. 5)
		{
			provoke($point, $name);
			last if killed($offset);
			# it may have come by before it knew; then the savepoint is there, and another of its name would be refused before it gets so far
			try_psql($node, 'postgres', "SELECT stream_ckpt.drop_savepoint('$name', 'kept')") if $point eq 'savepoint';
			insert();
		}
		my $hit = killed($offset);
		clear_fault($node);
		ok($hit, "a worker died at \"$point\" of $name") or next;
		$crashes++;
		$crashes{$point}++;
		wait_for('the server', sub { return insert() == 0 }, 60);
		check("after the death at \"$point\" of $name");
		tidy($point, $name);
	}
}
cmp_ok(scalar keys %crashes, '>=', $ENV{STREAM_CKPT_POINTS} ? 1 : 7, 'at least the seven points that there have always been');

# ---- attempts that are in the log when the crash comes ----

# The row of an attempt is not flushed: above it was lost with the attempt, mostly. Here it is not, and must not stay in progress.
foreach my $i (0 .. $#names)
{
	my $name = $names[$i];
	my $point = ('checkpoint-trigger', 'barrier', 'chunks-written', 'cleanup', 'before-commit')[ $i % 5 ];
	my $asking = session($node);
	my ($before) = $node->safe_psql('postgres', "SELECT failed FROM stream_ckpt.checkpoint_summary WHERE pipeline = '$name'");
	my $id = '';

	set_fault($node, "$point:wait");
	insert();
	$asking->send("SELECT stream_ckpt.checkpoint('$name', '1 min')");
	wait_for('an attempt', sub {
		(undef, $id) = try_psql($node, 'postgres', "SELECT checkpoint_id FROM stream_ckpt.checkpoints WHERE pipeline = '$name' AND status = 'in_progress'");
		return $id ne '';
	}, 60);
	insert();    # whose commit flushes the log
	my ($pid) = worker_pids($node);
	kill_pid('KILL', $pid);
	wait_for('the worker to end', sub { return !kill(0, $pid) }, 60);
	set_fault($node, '');
	$asking->close;
	wait_for('the server', sub { return accepts($node) && insert() == 0 }, 60);
	check("after a crash while an attempt on $name waits at \"$point\"");
	is($node->safe_psql('postgres', "SELECT status || ' ' || (error <> '') || ' ' || ((SELECT failed FROM stream_ckpt.checkpoint_summary WHERE pipeline = '$name') - $before)
		FROM stream_ckpt.checkpoints WHERE pipeline = '$name' AND checkpoint_id = $id"), 'failed true 1', 'which has failed, with a reason');
	$crashes++;
}
is($node->safe_psql('postgres', q{SELECT string_agg(pipeline, ', ') FROM stream_ckpt.checkpoint_summary WHERE failed = 0 OR restored = 0}), '',
	'failures and restores of every pipeline are in its history');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion');
note sprintf '%d crashes in %.0f s', $crashes, time() - $start;
$node->stop('fast');
done_testing();
