# State stays bounded while windows pass; a silent stream's windows close by
# themselves, by heartbeats that are replayed as they were; and what pipelines
# hand to each other through streams of final results arrives exactly once.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(usleep time);

my $windows = $ENV{LONG} ? 2000 : 200;
my $chain_rounds = $ENV{LONG} ? 60 : 10;

seed_random();

# Nothing but ourselves writes to the log while nothing happens.
my $node = new_cluster('bounded',
	autovacuum => 'off',
	checkpoint_timeout => "'1h'",
	jit => 'off',
	'stream_ckpt.checkpoint_interval' => "'100ms'");

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

# How many rows two queries do not share.
sub differ
{
	my ($relation, $oracle) = @_;
	return query("SET timezone = 'UTC'; SELECT (SELECT count(*) FROM (SELECT * FROM $relation EXCEPT ALL ($oracle)) x) + (SELECT count(*) FROM (($oracle) EXCEPT ALL SELECT * FROM $relation) x)");
}

# ---- 1. Many windows ----

my %bounded = (
	b_tumble => 'SELECT window_start, k, count(*) AS n, count(DISTINCT v) AS d, count(DISTINCT v) FILTER (WHERE v % 2 = 0) AS e FROM s, stream_ckpt.tumble(ts, \'1 minute\') GROUP BY 1, 2',
	b_final => 'SELECT window_start, window_end, k, count(*) AS n, count(DISTINCT v) AS d FROM s, stream_ckpt.tumble(ts, \'1 minute\') GROUP BY 1, 2, 3',
	b_ordered => 'SELECT window_start, string_agg(v::text, \',\' ORDER BY ts, v) AS t FROM s, stream_ckpt.tumble(ts, \'1 minute\') WHERE k < 60 GROUP BY 1',
	b_hop => 'SELECT window_start, k, count(*) AS n, sum(v) AS v FROM s, stream_ckpt.hop(ts, \'15 s\', \'1 minute\') GROUP BY 1, 2',
	b_session => 'SELECT k, window_start, window_end, count(*) AS n, count(DISTINCT v) AS d FROM s, stream_ckpt.session(ts, \'10 s\') GROUP BY 1, 2, 3',
	b_stages => 'SELECT window_start, max(n) AS top, min(n) AS low, count(*) AS c FROM (SELECT window_start, window_end, k, count(*) AS n FROM s, stream_ckpt.hop(ts, \'30 s\', \'1 minute\') GROUP BY 1, 2, 3) x GROUP BY 1',
	b_forget => 'SELECT v + extract(epoch FROM ts)::bigint / 60 * 1000 AS g, count(*) AS n, count(DISTINCT k) AS d FROM s GROUP BY 1');
my $minute = 0;
my @samples;
my $session = session($node);

sub quoted
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

query(q{SELECT stream_ckpt.create_stream('s', 'k int, v int, ts timestamptz', event_time => 'ts', watermark_delay => '5 s');
	CREATE TABLE s_done (k int, v int, ts timestamptz);
	} . join '', map {
		my $options = $_ eq 'b_final' ? ", emit => 'final'" : $_ eq 'b_forget' ? ", state_ttl => '2 minutes'" : '';
		"SELECT stream_ckpt.create_pipeline('$_', " . quoted($bounded{$_}) . "$options, checkpoint_interval => '1 h');\n"
	} sort keys %bounded);

# Rows of one minute: 100 keys, each of them in every window, and at rest for the end of the minute, when sessions close.
sub pass_minute
{
	$session->query("BEGIN; CREATE TEMP TABLE r ON COMMIT DROP AS SELECT i % 100 AS k, (i * 7 + i / 100 + $minute) % 40 AS v, '2026-01-01 00:00Z'::timestamptz + interval '1 minute' * $minute + i * interval '30 ms' AS ts
		FROM generate_series(0, 1499) i;
		INSERT INTO s TABLE r; INSERT INTO s_done TABLE r; COMMIT; SELECT stream_ckpt.checkpoint()");
	$minute++;
	return;
}

# What each pipeline keeps, and what all of them keep.
sub sample
{
	my %sample;

	foreach (split /\n/, $session->query(q{SELECT p.pipeline, p.state_rows, p.state_bytes, coalesce(sum(octet_length(c.payload)), 0), count(c.*)
		FROM stream_ckpt.pipelines p JOIN stream_ckpt.pipeline_def d ON d.name = p.pipeline LEFT JOIN stream_ckpt.chunk c ON c.pipeline_id = d.id GROUP BY 1, 2, 3
		UNION ALL SELECT 'all', state_bytes, worker_pid, 0, 0 FROM stream_ckpt.database_stats()}))
	{
		my ($name, @values) = split /\|/;
		if ($name ne 'all')
		{
			@sample{ map { "$name $_" } 'state_rows', 'state_bytes', 'chunk bytes', 'chunks' } = @values;
			next;
		}
		$sample{'shared memory'} = $values[0];
		($sample{"the worker's memory in kB"}) = slurp_file("/proc/$values[1]/status") =~ /^RssAnon:\s+(\d+) kB/m
		  if $values[1] && -r "/proc/$values[1]/status";
	}
	return \%sample;
}

# The maxima of what was seen in some minutes.
sub maxima
{
	my (@some) = @_;
	return { map { my $what = $_; $what => max(map { $_->{$what} // 0 } @some) } keys %{ $some[0] } };
}

sub grown
{
	my ($before, $after) = @_;
	return join "\n", map { "$_: $before->{$_}, then $after->{$_}" }
	  grep { $after->{$_} > 1.2 * $before->{$_} } sort keys %$after;
}

sub compare_bounded
{
	my ($when) = @_;
	my @wrong;
	my $end = sprintf q{'2026-01-01 00:00Z'::timestamptz + interval '1 minute' * %d - interval '20.03 s'}, $minute;

	foreach my $name (sort keys %bounded)
	{
		my $oracle = $bounded{$name} =~ s/FROM s,/FROM s_done s,/r =~ s/FROM s /FROM s_done s /r;

		if ($name eq 'b_final') { $oracle .= " HAVING max(window_end) <= $end"; }
		elsif ($name eq 'b_forget') { $oracle .= " HAVING max(ts) + interval '2 minutes' > $end"; }
		elsif ($name eq 'b_session')
		{
			$oracle = q{SELECT k, min(ts), max(ts) + interval '10 s', count(*), count(DISTINCT v) FROM s_done GROUP BY k, date_trunc('minute', ts)};
		}
		my $differ = differ($name, $oracle);
		push @wrong, "$name: $differ" if $differ;
	}
	is(join("\n", @wrong), '', "results are right $when");
	return;
}

for (1 .. $windows)
{
	pass_minute();
	push @samples, sample();
}
compare_bounded("after $windows windows");
is(query('SELECT sum(late_rows) FROM stream_ckpt.pipelines'), '0', 'no row was late');

# the first tenth is the warm-up
my $half = int($windows * 0.55);
my $first = maxima(@samples[ int($windows / 10) .. $half - 1 ]);
my $second = maxima(@samples[ $half .. $#samples ]);

note "$_: $first->{$_}, then $second->{$_}" foreach sort keys %$first;
is(grown($first, $second), '', "state, chunks and memory are as large in the last minutes as in the first ones, through $windows windows");
cmp_ok($first->{"$_ state_rows"}, '>', 0, "$_ has state") foreach sort keys %bounded;

# and after a restart, which reads the state back
foreach my $how ('restart', 'kill')
{
	my (@after, $restored);

	if ($how eq 'kill') { kill_server($node); start_again($node); }
	else { $node->restart; }
	$session->close;
	$session->connect;
	checkpoint($node);
	$restored = sample();
	delete $restored->{"the worker's memory in kB"};
	is(join("\n", map { "$_: $restored->{$_}, before $samples[-1]{$_}" } grep { /state_rows/ && $restored->{$_} != $samples[-1]{$_} } sort keys %$restored),
		'', "the same number of groups is there after a $how");
	for (1 .. 20)
	{
		pass_minute();
		push @after, sample();
	}
	push @samples, @after;
	delete $_->{"the worker's memory in kB"} foreach @after;
	is(grown($first, maxima(@after)), '', "nothing has grown after a $how");
	compare_bounded("after a $how");
}

# in the end nothing is left but chunks that say so
query(q{SELECT stream_ckpt.advance_watermark('s', '2027-01-01Z'); SELECT stream_ckpt.checkpoint()});
my $left = sample();
is(join("\n", map { "$_: $left->{$_}" } grep { /state_rows/ && $left->{$_} != 0 } sort keys %$left), '', 'all state is gone when everything has closed');
is(join("\n", map { "$_: $left->{$_}" } grep { /chunk bytes/ && $left->{$_} > $first->{$_} } sort keys %$left), '', 'and chunks have not grown by it');
$session->close;
query(join '', map { "SELECT stream_ckpt.drop_pipeline('$_');" } sort keys %bounded);

# ---- 2. Silence ----

query(q{SELECT stream_ckpt.create_stream('quiet', 'id int, ts timestamptz', event_time => 'ts', idle_timeout => '200ms');
	SELECT stream_ckpt.create_stream('quiet_final', 'e timestamptz, n bigint', event_time => 'e');
	SELECT stream_ckpt.create_pipeline('q_live', $$SELECT window_start, window_end, count(*) AS n FROM quiet, stream_ckpt.tumble(ts, '1 s') GROUP BY 1, 2$$, emit => 'final');
	SELECT stream_ckpt.create_pipeline('q_changes', $$SELECT window_start, count(*) AS n, array_agg(id ORDER BY id) AS ids FROM quiet, stream_ckpt.tumble(ts, '1 s') GROUP BY 1$$);
	SELECT stream_ckpt.create_pipeline('q_session', $$SELECT window_start, window_end, count(*) AS n FROM quiet, stream_ckpt.session(ts, '300 ms') GROUP BY 1, 2$$, emit => 'final');
	SELECT stream_ckpt.create_pipeline('q_replayed', $$SELECT window_start, window_end, count(*) AS n FROM quiet, stream_ckpt.tumble(ts, '1 s') GROUP BY 1, 2$$, emit => 'final', checkpoint_interval => '1 h');
	SELECT stream_ckpt.create_pipeline('q_forward', $$SELECT window_end AS e, count(*) AS n FROM quiet, stream_ckpt.tumble(ts, '1 s') GROUP BY 1$$, emit => 'final', sink => 'quiet_final');
	SELECT stream_ckpt.create_pipeline('q_second', $$SELECT window_end, sum(n) AS n FROM quiet_final, stream_ckpt.tumble(e, '2 s') GROUP BY 1$$, emit => 'final')});

# Event time is of 2013: what counts is how much time goes by.
query(q{INSERT INTO quiet SELECT i, '2013-05-05 12:00:00.2Z'::timestamptz + i * interval '0.1 s' FROM generate_series(0, 4) i});
wait_for('the window to close by itself', sub { return query('SELECT count(*) FROM q_live') eq '1' }, 60);
is(query(q{SET timezone = 'UTC'; TABLE q_live}), '2013-05-05 12:00:00+00|2013-05-05 12:00:01+00|5', 'the last window closes without rows after it');
wait_for('the session', sub { return query('SELECT count(*) FROM q_session') eq '1' }, 60);
is(query(q{SET timezone = 'UTC'; TABLE q_session}), '2013-05-05 12:00:00.2+00|2013-05-05 12:00:00.9+00|5', 'so does the last session');
wait_for('the chain', sub { return query('SELECT count(*) FROM q_second') eq '1' }, 60);
is(query(q{SET timezone = 'UTC'; TABLE q_second}), '2013-05-05 12:00:02+00|5', 'and the last window over results that are handed on');
is(query(q{SELECT bool_and(watermark >= '2013-05-05 12:00:01Z' AND watermark < '2014-01-01') FROM stream_ckpt.pipelines WHERE pipeline LIKE 'q\_%'}), 't',
	'the watermark has passed the window, and no more than time has');
is(query(q{SELECT sum(state_rows) FROM stream_ckpt.pipelines WHERE pipeline IN ('q_live', 'q_changes', 'q_session', 'q_forward', 'q_second')}), '0', 'nothing is open');

# Then there is nothing to say: heartbeats, which are a second apart at least, end.
my ($lsn, $since) = ('', time());
wait_for('silence', sub {
	my $now = query('SELECT pg_current_wal_insert_lsn()');

	($lsn, $since) = ($now, time()) if $now ne $lsn;
	return time() - $since > 2.5;
}, 90);
ok(1, 'nothing more is written to the log when nothing is open');

# what comes for a closed window now is late, for the pipeline that has taken no checkpoint since it began, too
query(q{INSERT INTO quiet VALUES (100, '2013-05-05 12:00:00.95Z')});
query(q{SELECT stream_ckpt.checkpoint(p) FROM unnest('{q_live,q_changes,q_session,q_forward}'::text[]) p});
is(query(q{SELECT string_agg(late_rows::text, ',') FROM stream_ckpt.pipelines WHERE pipeline IN ('q_live', 'q_changes', 'q_session', 'q_forward')}), '1,1,1,1', 'a row older than that is late');
is(query(q{SELECT array_agg(n) FROM q_changes}), '{5}', 'and in no result');

# an open transaction's rows are no silence
my $watermark = query(q{SELECT watermark FROM stream_ckpt.pipelines WHERE pipeline = 'q_live'});
query(qq{INSERT INTO quiet VALUES (200, '$watermark'::timestamptz + interval '10 s')});
checkpoint($node);
my $open = session($node);
$open->query(qq{BEGIN; INSERT INTO quiet VALUES (201, '$watermark'::timestamptz + interval '10 s')});
query('CREATE TABLE flushes_the_log ()');
my $until = time() + 1.5;
wait_for('some time to pass', sub { return query('SELECT count(*) FROM q_live') ne '1' || time() > $until }, 60);
is(query('SELECT count(*) FROM q_live'), '1', 'while rows of an open transaction are in the log, time does not go on by itself');
$open->query('COMMIT');
$open->close;
wait_for('the window to close by itself', sub { return query('SELECT count(*) FROM q_live') eq '2' }, 60);
is(query('SELECT n FROM q_live ORDER BY window_end DESC LIMIT 1'), '2', 'they are in time');

# a crash: the one that has taken no checkpoint reads rows, heartbeats and the late row again
is(query('SELECT count(*) FROM stream_ckpt.checkpoints WHERE pipeline = $$q_replayed$$ AND status = $$completed$$') <= 2, 1, 'a pipeline has most of it ahead of it');
my $before = query(q{SELECT max(watermark) FROM stream_ckpt.pipelines WHERE pipeline = 'q_replayed'});
kill_server($node);
start_again($node);
checkpoint($node);
is(differ('q_replayed', 'TABLE q_live'), '0', 'heartbeats that are replayed have the same effect');
is(query('SELECT count(*) FROM q_live'), '2', 'on both windows');
is(query(q{SELECT late_rows FROM stream_ckpt.pipelines WHERE pipeline = 'q_replayed'}), '1', 'and the late row is late again');
is(query(qq{SELECT watermark >= '$before' FROM stream_ckpt.pipelines WHERE pipeline = 'q_replayed'}), 't', 'the watermark has not gone back');

# rows and silence in turns, with crashes in between: whoever replays has what the others have
my $id = 300;
foreach my $round (1 .. 4)
{
	my $at = query(q{SELECT max(watermark) FROM stream_ckpt.pipelines WHERE pipeline LIKE 'q\_%'});
	my $closed = query('SELECT count(*) FROM q_live');

	foreach (1 .. 5)
	{
		my $offset = rand(3) - 1;
		query("INSERT INTO quiet VALUES ($id, '$at'::timestamptz + interval '$offset s')");
		$id++;
	}
	query("INSERT INTO quiet VALUES ($id, '$at'::timestamptz + interval '2.5 s')");
	$id++;
	wait_for('silence', sub { return query('SELECT count(*) FROM q_live') > $closed
		&& query(q{SELECT state_rows FROM stream_ckpt.pipelines WHERE pipeline = 'q_live'}) eq '0' }, 60);
	if ($round % 2) { kill_server($node); start_again($node); }
	else
	{
		my $pid = 0;

		wait_for('a worker', sub { return $pid = worker_pid($node) }, 60);
		kill_pid('KILL', $pid);
		wait_for('the server to notice', sub { return !kill(0, $pid) }, 60);
		wait_for('the server', sub { accepts($node) }, 60);
	}
	checkpoint($node);
}
is(differ('q_replayed', 'TABLE q_live'), '0', 'rows and heartbeats in turns have the same effect when they are replayed');
is(differ('(SELECT window_start, n FROM q_changes) c', 'SELECT window_start, n FROM q_live'), '0', 'and changes end where final results are');
is(query(q{SELECT count(DISTINCT late_rows) FROM stream_ckpt.pipelines WHERE pipeline IN ('q_live', 'q_replayed', 'q_changes', 'q_forward')}), '1', 'all agree on late rows');
wait_for('the chain', sub { return query(q{SELECT sum(state_rows) FROM stream_ckpt.pipelines WHERE pipeline IN ('q_forward', 'q_second')}) eq '0' }, 60);
is(differ('q_second', q{SELECT date_bin('2 s', window_end, '2000-01-03 00:00Z') + interval '2 s', sum(n) FROM q_live GROUP BY 1}), '0', 'the chain has it all');
query(join '', map { "SELECT stream_ckpt.drop_pipeline('$_');" } qw(q_second q_forward q_live q_changes q_session q_replayed));

# ---- 3. Chains ----

query(q{SELECT stream_ckpt.create_stream('raw', 'k int, v int, ts timestamptz', event_time => 'ts', watermark_delay => '2 s');
	SELECT stream_ckpt.create_stream('mid', 'window_end timestamptz, k int, n bigint', event_time => 'window_end');
	SELECT stream_ckpt.create_stream('last', 'window_end timestamptz, n numeric', event_time => 'window_end');
	CREATE TABLE raw_done (k int, v int, ts timestamptz);
	CREATE TABLE mid_copy (window_end timestamptz, k int, n bigint, seq bigserial);
	SELECT stream_ckpt.create_pipeline('to_mid', $$SELECT window_end, k, count(*) AS n FROM raw, stream_ckpt.tumble(ts, '10 s') GROUP BY 1, 2$$, emit => 'final', sink => 'mid');
	SELECT stream_ckpt.create_pipeline('copied', 'SELECT window_end, k, n FROM mid', sink => 'mid_copy');
	SELECT stream_ckpt.create_pipeline('mid_changes', $$SELECT window_start, k, sum(n) AS n, count(*) AS c FROM mid, stream_ckpt.tumble(window_end, '1 minute') GROUP BY 1, 2$$);
	SELECT stream_ckpt.create_pipeline('mid_final', $$SELECT w.window_start, w.window_end, k, sum(n) AS n, count(*) AS c FROM mid, stream_ckpt.tumble(mid.window_end, '1 minute') w GROUP BY 1, 2, 3$$, emit => 'final');
	SELECT stream_ckpt.create_pipeline('to_last', $$SELECT w.window_end, sum(n) AS n FROM mid, stream_ckpt.tumble(mid.window_end, '30 s') w GROUP BY 1$$, emit => 'final', sink => 'last');
	SELECT stream_ckpt.create_pipeline('last_final', $$SELECT w.window_end, sum(n) AS n, count(*) AS c FROM last, stream_ckpt.hop(last.window_end, '1 minute', '2 minutes') w GROUP BY 1$$, emit => 'final')});

my $clock = 0;

# The results of each pipeline from the rows; rows come in order, so that none is late.
sub compare_chain
{
	my ($when) = @_;
	my @wrong;
	my $end = query(q{SELECT max(ts) - interval '2 s' FROM raw_done});
	my $bin = sub { my ($size, $what) = @_; return "date_bin('$size', $what, '2000-01-03 00:00Z')" };
	my $mid = "(SELECT b + interval '10 s' AS window_end, k, count(*) AS n FROM (SELECT *, " . $bin->('10 s', 'ts') . " AS b FROM raw_done) r GROUP BY b, k HAVING b + interval '10 s' <= '$end') m";
	my $last = "(SELECT b + interval '30 s' AS window_end, sum(n) AS n FROM (SELECT *, " . $bin->('30 s', 'window_end') . " AS b FROM $mid) r GROUP BY b HAVING b + interval '30 s' <= '$end') l";
	my $minutes = "SELECT b, k, sum(n) AS n, count(*) AS c FROM (SELECT *, " . $bin->('1 minute', 'window_end') . " AS b FROM $mid) r GROUP BY 1, 2";
	my %expected = (
		'(SELECT window_end, k, n FROM mid_copy) c' => "SELECT * FROM $mid",
		mid_changes => $minutes,
		mid_final => "SELECT b, b + interval '1 minute', k, n, c FROM ($minutes) x WHERE b + interval '1 minute' <= '$end'",
		last_final => "SELECT b + interval '1 minute' * i, sum(n), count(*) FROM (SELECT *, " . $bin->('1 minute', 'window_end') . " AS b FROM $last) r, generate_series(1, 2) i GROUP BY 1 HAVING max(b + interval '1 minute' * i) <= '$end'");

	checkpoint($node);
	foreach my $relation (sort keys %expected)
	{
		my $differ = differ($relation, $expected{$relation});
		push @wrong, "$relation: $differ" if $differ;
	}
	push @wrong, query(q{SELECT pipeline || ' ' || status || ' ' || coalesce(error, '') || ' ' || late_rows FROM stream_ckpt.pipelines WHERE status <> 'running' OR late_rows > 0});
	push @wrong, query('SELECT count(*) FROM (SELECT window_end < lag(window_end) OVER (ORDER BY seq) AS back FROM mid_copy) x WHERE back') . ' rows out of order';
	is(join("\n", grep { $_ ne '' } @wrong), '0 rows out of order', $when);
	return;
}

my @faults = ('none', 'before-commit:kill', 'after-commit:kill', 'chunks-written:error');
foreach my $round (1 .. $chain_rounds)
{
	my $fault = $faults[ $round % 2 ? 0 : int(rand(@faults)) ];
	my $script = '';

	set_fault($node, $fault) if $fault ne 'none';
	for (1 .. 12)
	{
		my $seconds = 1 + int(rand(12));
		$script .= "BEGIN; CREATE TEMP TABLE r ON COMMIT DROP AS SELECT i % 5 AS k, i AS v, '2026-03-01Z'::timestamptz + ($clock + i % $seconds + 0.5) * interval '1 s' AS ts FROM generate_series(1, 30) i;\n"
		  . "INSERT INTO raw TABLE r; INSERT INTO raw_done TABLE r; COMMIT;\n";
		$clock += $seconds;
	}
	my $producer = session($node);
	$producer->send($script);
	usleep(int(rand(400_000)));    # a random moment is what this test is about
	if ($round % 3 == 1)
	{
		kill_server($node);
		start_again($node);
	}
	elsif ($round % 3 == 2)
	{
		my $pid = 0;

		wait_for('a worker', sub { return $pid = worker_pid($node) }, 60);
		kill_pid('KILL', $pid);
		wait_for('the server to notice', sub { return !kill(0, $pid) }, 60);
	}
	eval { $producer->receive };
	$producer->close;
	clear_fault($node) if $fault ne 'none';
	wait_for('a server that takes rows', sub {
		my ($rc) = try_psql($node, 'postgres', q{SELECT stream_ckpt.checkpoint('1 min'::interval)});
		return $rc == 0 && $node->safe_psql('postgres', 'SELECT count(*) FROM raw_done') ne '0';
	}, 120);
	compare_chain("round $round: chains of final results are exactly once");
}
cmp_ok(query('SELECT count(*) FROM last_final'), '>', 3, 'results came through all of the chain');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion');

$node->stop('fast');
done_testing();
