# stream_ckpt.max_lag: who waits for pipelines that are behind, for what, and who never does.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";

use StreamCkpt;
use Test::More;

my $node = new_cluster('lag', 'stream_ckpt.lock_timeout' => "'2s'");

sub set
{
	my (%settings) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $_ = '$settings{$_}'") foreach sort keys %settings;
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	foreach my $name (keys %settings)
	{
		wait_for("$name to be set", sub {
			return $node->safe_psql('postgres', "SELECT current_setting('$name') = '$settings{$name}'") eq 't';
		});
	}
	return;
}

# More log than max_lag, which no stream is the cause of.
sub write_log
{
	$node->safe_psql('postgres',
		q{INSERT INTO other SELECT repeat(md5(i::text), 40) FROM generate_series(1, 2000) i; TRUNCATE other});
	return;
}

# Does the backend wait in an INSERT?  For a second of it, if it is to.
sub waits
{
	my ($pid) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension'
		 AND state = 'active' AND query_start < clock_timestamp() - interval '0.3 s'") eq '1';
}

# A worker that stands still in a checkpoint of pipeline p, which is behind then.
sub stop_worker
{
	set('stream_ckpt.fault' => 'barrier:wait');
	$node->safe_psql('postgres', "INSERT INTO s VALUES ('stop', 0)");
	wait_for('the worker to stop', sub {
		return $node->safe_psql('postgres',
			q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE pipeline = 'p' AND status = 'in_progress'}) eq '1';
	});
	write_log();
	return;
}

sub go_on
{
	set('stream_ckpt.fault' => '');
	checkpoint($node);
	return;
}

$node->safe_psql('postgres', q{
	CREATE TABLE other (v text);
	CREATE TABLE strong (v int);
	SELECT stream_ckpt.create_stream('s', 'k text, v int');
	SELECT stream_ckpt.create_stream('unread', 'k text');
	SELECT stream_ckpt.create_pipeline('p', 'SELECT k, count(*) AS n FROM s GROUP BY k');
	SELECT stream_ckpt.checkpoint();
});
my $one = session($node);
my $two = session($node);
my $pid = $one->backend_pid;

# ---- Off ----

is($node->safe_psql('postgres', 'SHOW stream_ckpt.max_lag'), '0', 'off by default');
stop_worker();
is($one->query("INSERT INTO s VALUES ('off', 1)", 10), '', 'off: nobody waits');
go_on();

# ---- On: who waits, and what ends it ----

set('stream_ckpt.max_lag' => '1MB');
stop_worker();
$one->send("INSERT INTO s VALUES ('a', 1)");
wait_for('the producer to wait', sub { waits($pid) });
ok(1, 'a producer waits');
cmp_ok($node->safe_psql('postgres', q{SELECT lag_bytes FROM stream_ckpt.pipelines}), '>', 1024 * 1024, 'as far behind as the view says');
is($node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)"), 't', 'cancelled');
like($one->receive, qr/57014: canceling statement due to user request/, 'which works');
like($one->query("SET statement_timeout = '500ms';\nINSERT INTO s VALUES ('b', 1);\n"),
	qr/57014: canceling statement due to statement timeout/, 'statement_timeout is honoured');
is($one->query('SET statement_timeout = 0'), '', '');

# COPY, a prepared statement, and one inside a function
$one->send("COPY s FROM PROGRAM 'echo copied,1' (FORMAT csv)");
wait_for('COPY to wait', sub { waits($pid) });
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
like($one->receive, qr/57014/, 'COPY waits at its start');
$one->send("DO \$\$BEGIN INSERT INTO s VALUES ('do', 1); INSERT INTO s VALUES ('do', 2); END\$\$");
wait_for('DO to wait', sub { waits($pid) });

# a backend that is told to end does
kill_pid('TERM', $pid);
is($one->receive, undef, 'terminated while waiting');
$one->close;
$one->connect;
$pid = $one->backend_pid;

# ---- On: who does not wait ----

is($two->query("INSERT INTO unread VALUES ('a')", 10), '', 'a stream that no pipeline reads');
is($two->query("BEGIN;\nINSERT INTO other VALUES ('a');\nINSERT INTO s VALUES ('xid', 1);\nCOMMIT", 10), '', 'a transaction that has an xid');
is($two->query("BEGIN;\nSELECT pg_current_xact_id() IS NULL;\nINSERT INTO s VALUES ('xid', 1);\nCOMMIT", 10), 'f', 'whatever gave it one');
is($two->query("BEGIN;\nLOCK strong IN SHARE MODE;\nINSERT INTO s VALUES ('lock', 1);\nROLLBACK", 10), '', 'one with a strong lock');
is($two->query("BEGIN;\nLOCK strong IN ROW EXCLUSIVE MODE;\nSET LOCAL statement_timeout = '500ms';\nINSERT INTO s VALUES ('lock', 1);\nROLLBACK", 10) =~ /57014/,
	1, 'one with the locks of an INSERT does');

# somebody queues behind the lock of one who waits, and the worker could be queued behind him
$one->send("INSERT INTO s VALUES ('queue', 1)");
wait_for('the producer to wait', sub { waits($pid) });
is($two->query('ALTER FOREIGN TABLE s ADD COLUMN w int', 30), '', 'who is in the way of others goes on');
is($one->receive, '', 'with its row');

go_on();

# ---- Released ----

stop_worker();
$one->send("INSERT INTO s VALUES ('released', 1)");
wait_for('the producer to wait', sub { waits($pid) });
set('stream_ckpt.fault' => '');
is($one->receive(30), '', 'the worker has read on');
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT string_agg(k || n, $$ $$ ORDER BY k) FROM p'),
	'off1 queue1 released1 stop3 xid2', 'exactly what was committed');

stop_worker();
$one->send("INSERT INTO s VALUES ('reload', 1)");
wait_for('the producer to wait', sub { waits($pid) });
set('stream_ckpt.max_lag' => '0');
is($one->receive(30), '', 'the setting was changed');
go_on();

# ---- Pipelines that do not run ----

set('stream_ckpt.max_lag' => '1MB');
stop_worker();
$one->send("INSERT INTO s VALUES ('pausing', 1)");
wait_for('the producer to wait', sub { waits($pid) });
$node->safe_psql('postgres', q{SELECT stream_ckpt.pause_pipeline('p')});
is($one->receive(30), '', 'paused while somebody waits for it, although its worker does not know yet');
set('stream_ckpt.fault' => '');
wait_for('the pause', sub { return $node->safe_psql('postgres', q{SELECT status FROM stream_ckpt.pipelines}) eq 'paused' });
write_log();
is($one->query("INSERT INTO s VALUES ('paused', 1)", 10), '', 'a paused pipeline holds nobody up');
$node->safe_psql('postgres', q{SELECT stream_ckpt.resume_pipeline('p')});
checkpoint($node);

$node->safe_psql('postgres', q{SELECT stream_ckpt.create_pipeline('f', 'SELECT 1 / v AS v FROM s')});
checkpoint($node);
$node->safe_psql('postgres', q{INSERT INTO s VALUES ('fail', 0)});
wait_for('the failure', sub { return $node->safe_psql('postgres', q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'f'}) eq 'failed' });
$node->safe_psql('postgres', q{SELECT stream_ckpt.pause_pipeline('p')});
wait_for('the pause', sub { return $node->safe_psql('postgres', q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'p'}) eq 'paused' });
write_log();
is($one->query("INSERT INTO s VALUES ('failed', 1)", 10), '', 'nor does a failed one');
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('f'), stream_ckpt.resume_pipeline('p')});
checkpoint($node);

# ---- The bound holds, with producers that write faster than the pipeline reads ----

set('stream_ckpt.max_lag' => '256kB');
$node->safe_psql('postgres', q{
	CREATE FUNCTION slow(k text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.001); RETURN left(k, 1); END';    -- waits for nothing: to be slow is what it is for
	SELECT stream_ckpt.create_pipeline('slow', 'SELECT slow(k) AS k, count(*) AS n FROM s GROUP BY 1');
	SELECT stream_ckpt.checkpoint();
	CREATE TABLE written (k text);
});
my @producers = map { session($node) } 1 .. 4;
foreach my $n (0 .. $#producers)
{
	# 100 transactions of about 20 kB each
	$producers[$n]->send(join("\n", map { "INSERT INTO s SELECT 'p$n' || repeat('x', 2000), 1 FROM generate_series(1, 10);" } 1 .. 100));
}
my ($most, $waited) = (0, 0);
wait_for('the producers', sub {
	my ($lag, $waiting) = split /\|/, $node->safe_psql('postgres', q{
		SELECT (SELECT lag_bytes FROM stream_ckpt.pipelines WHERE pipeline = 'slow'),
			(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE 'INSERT INTO s %')});

	$most = $lag if $lag > $most;
	$waited = $waiting if $waiting > $waited;
	return $node->safe_psql('postgres',
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' AND query LIKE 'INSERT INTO s %'}) eq '0';
});
is($_->receive, '', 'producer') foreach @producers;
$_->close foreach @producers;
cmp_ok($waited, '>', 0, 'they waited');
# each of four may be one transaction over the bound; and whatever else is written
cmp_ok($most, '<', 2 * 1024 * 1024, "the lag stays near its bound: $most bytes at most");
checkpoint($node);
is($node->safe_psql('postgres', q{SELECT k, n FROM slow WHERE k = 'p'}), 'p|4000', 'and all is there, once');
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('slow')});

# ---- Chains: a pipeline whose result's readers are behind rests, and no worker waits for itself ----

$node->safe_psql('postgres', q{
	SELECT stream_ckpt.create_stream('raw', 'v int');
	SELECT stream_ckpt.create_stream('middle', 'k text, v int');
	SELECT stream_ckpt.create_pipeline('upper', $$SELECT repeat('x', 5000) AS k, v FROM raw$$, sink => 'middle');
	SELECT stream_ckpt.create_pipeline('lower', 'SELECT slow(k) AS k, count(*) AS n, sum(v) AS v FROM middle GROUP BY 1');
	SELECT stream_ckpt.checkpoint();
	SELECT stream_ckpt.pause_pipeline('lower');
	INSERT INTO raw SELECT i FROM generate_series(1, 2000) i;
	SELECT stream_ckpt.checkpoint('upper');
	SELECT stream_ckpt.resume_pipeline('lower');
});
my $text = 'waiting for pipelines that read its result and are behind (stream_ckpt.max_lag)';
wait_for('the upper pipeline to rest', sub {
	return $node->safe_psql('postgres', q{SELECT status || ' ' || error FROM stream_ckpt.pipelines WHERE pipeline = 'upper'}) eq "running $text";
});
ok(1, 'a pipeline rests while who reads its result is behind');
is($node->safe_psql('postgres', q{INSERT INTO raw SELECT i FROM generate_series(2001, 2100) i}), '', 'its producers go on when it does');
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT n, v FROM lower'), '2100|' . (2100 * 2101 / 2), 'the end of the chain has all, once');
is($node->safe_psql('postgres', q{SELECT status, error FROM stream_ckpt.pipelines WHERE pipeline = 'upper'}), 'running|', 'it rests no more');

# through a partition it is the same, also through one that is attached later
$node->safe_psql('postgres', q{
	SELECT stream_ckpt.create_stream('raw2', 'v int');
	SELECT stream_ckpt.create_stream('part1', 'k text, v int');
	CREATE TABLE parts (k text, v int) PARTITION BY LIST (v);
	CREATE TABLE part0 PARTITION OF parts FOR VALUES IN (0);
	CREATE VIEW parts_view AS SELECT * FROM parts;
	SELECT stream_ckpt.create_pipeline('upper2', $$SELECT repeat('x', 5000) AS k, v % 2 AS v FROM raw2$$, sink => 'parts_view');
	SELECT stream_ckpt.create_pipeline('lower2', 'SELECT slow(k) AS k, count(*) AS n FROM part1 GROUP BY 1');
	SELECT stream_ckpt.checkpoint();
	ALTER TABLE parts ATTACH PARTITION part1 FOR VALUES IN (1);
	INSERT INTO raw2 VALUES (1);
	SELECT stream_ckpt.checkpoint();
});
is($node->safe_psql('postgres', 'SELECT n FROM lower2'), '1', 'checkpoint() follows a chain through a view and a partition');
$node->safe_psql('postgres', q{
	SELECT stream_ckpt.pause_pipeline('lower2');
	INSERT INTO raw2 SELECT i FROM generate_series(2, 3000) i;
	SELECT stream_ckpt.checkpoint('upper2');
	SELECT stream_ckpt.resume_pipeline('lower2');
});
wait_for('the upper pipeline to rest', sub {
	return $node->safe_psql('postgres', q{SELECT status || ' ' || error FROM stream_ckpt.pipelines WHERE pipeline = 'upper2'}) eq "running $text";
});
ok(1, 'a pipeline rests while who reads a partition of its result is behind');
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT (SELECT n FROM lower2), (SELECT count(*) FROM part0)'), '1500|1500', 'and all of it arrives, once');
foreach my $refused (
	q{SELECT stream_ckpt.create_pipeline('circle', 'SELECT k, v FROM part1', sink => 'parts')},
	q{SELECT stream_ckpt.create_pipeline('circle', 'SELECT k, v FROM part1', sink => 'parts_view')},
	q{SELECT stream_ckpt.create_pipeline('circle', 'SELECT v FROM part1', sink => 'raw2')},
	q{ALTER TABLE parts DETACH PARTITION part1; SELECT stream_ckpt.create_pipeline('to_raw', 'SELECT v FROM part1', sink => 'raw2'); ALTER TABLE parts ATTACH PARTITION part1 FOR VALUES IN (1)})
{
	my ($state, $message) = sql_state($node, 'postgres', "BEGIN; $refused; COMMIT");
	is("$state $message" =~ /^42P17 .*would feed itself/ ? 'refused' : "$state $message", 'refused', "a circle: $refused");
}
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('upper2'), stream_ckpt.drop_pipeline('lower2')});

# and a crash in the middle of that changes nothing
$node->safe_psql('postgres', q{
	SELECT stream_ckpt.pause_pipeline('lower');
	INSERT INTO raw SELECT i FROM generate_series(1, 2000) i;
	SELECT stream_ckpt.checkpoint('upper');
	SELECT stream_ckpt.resume_pipeline('lower');
});
wait_for('the upper pipeline to rest', sub {
	return $node->safe_psql('postgres', q{SELECT error FROM stream_ckpt.pipelines WHERE pipeline = 'upper'}) eq $text;
});
kill_server($node);
start_again($node);
$node->safe_psql('postgres', q{INSERT INTO raw VALUES (7)});
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT n, v FROM lower'), '4101|' . (2100 * 2101 / 2 + 2000 * 2001 / 2 + 7), 'nor after SIGKILL');

$one->close;
$two->close;
$node->stop;
done_testing();
