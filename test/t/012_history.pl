# The life of checkpoints, and what the views say of it: intervals, timeouts, tolerable failures, ids, what a crash
# cuts off, the history's length; and that all of it is the same after a restart.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";

use StreamCkpt;
use Test::More;

my $node = new_cluster('history', 'stream_ckpt.checkpoint_interval' => "'1h'", 'stream_ckpt.tolerable_failed_checkpoints' => 2);

sub ask { return $node->safe_psql('postgres', $_[0]) }

sub set
{
	my (%settings) = @_;

	ask("ALTER SYSTEM SET $_ = '$settings{$_}'") foreach sort keys %settings;
	ask('SELECT pg_reload_conf()');
	foreach my $name (keys %settings)
	{
		wait_for("$name to be set", sub { return ask("SELECT current_setting('$name') = '$settings{$name}'") eq 't' });
	}
	return;
}

sub true { my ($sql, $name) = @_; return is(ask("SELECT $sql"), 't', $name) }

# No two attempts of a pipeline at once, ids from 1 that rise with time, each attempt ended; and its task's row says the same.
sub check_history
{
	my ($when) = @_;

	is(ask(q{SELECT count(*) FROM (SELECT triggered_at, lag(completed_at) OVER w AS before, checkpoint_id,
				lag(checkpoint_id) OVER w AS id_before
			FROM stream_ckpt.checkpoints WINDOW w AS (PARTITION BY pipeline ORDER BY triggered_at, checkpoint_id)) x
			WHERE before > triggered_at OR id_before >= checkpoint_id}), '0', "one after the other, ids rise: $when");
	is(ask(q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'failed' AND
			(error IS NULL OR completed_at IS NULL OR duration IS NULL OR retained OR acknowledged <> 0)}), '0', "what failed says why: $when");
	is(ask(q{SELECT count(*) FROM stream_ckpt.checkpoints c LEFT JOIN stream_ckpt.checkpoint_tasks t USING (pipeline, checkpoint_id)
			WHERE t.status IS DISTINCT FROM c.status OR t.task <> 0}), '0', "a row per task: $when");
	is(ask(q{SELECT count(*) FROM stream_ckpt.checkpoints c JOIN stream_ckpt.checkpoint_tasks t USING (pipeline, checkpoint_id)
			WHERE c.status = 'completed' AND NOT coalesce(kind = 'checkpoint' AND completed_at > triggered_at AND duration = completed_at - triggered_at
				AND c.position > '0/0' AND tasks = 1 AND acknowledged = 1 AND c.rows_in >= 0 AND c.state_rows >= 0 AND c.state_bytes >= 0
				AND c.checkpointed_rows >= 0 AND c.checkpointed_bytes >= 0 AND c.error IS NULL
				AND t.acknowledged_at BETWEEN triggered_at AND completed_at + interval '1 ms' AND start_delay >= '0' AND snapshot_duration >= '0' AND commit_duration >= '0'
				AND triggered_at + start_delay + snapshot_duration = acknowledged_at
				AND (t.rows_in, t.state_rows, t.state_bytes, t.checkpointed_rows, t.checkpointed_bytes)
					= (c.rows_in, c.state_rows, c.state_bytes, c.checkpointed_rows, c.checkpointed_bytes), false)}),
		'0', "every column of completed ones: $when");
	is(ask(q{SELECT count(*) FROM stream_ckpt.checkpoint_summary s JOIN (
				SELECT pipeline, count(*) AS triggered, count(*) FILTER (WHERE status = 'in_progress') AS in_progress,
					count(*) FILTER (WHERE status = 'completed') AS completed, count(*) FILTER (WHERE status = 'failed') AS failed,
					min(duration) FILTER (WHERE status = 'completed') AS least, max(checkpointed_bytes) AS most
				FROM stream_ckpt.checkpoints GROUP BY 1) c USING (pipeline)
			WHERE (s.triggered, s.in_progress, s.completed, s.failed, s.duration_min, s.checkpointed_bytes_max)
				IS DISTINCT FROM (c.triggered, c.in_progress, c.completed, c.failed, c.least, c.most)
				OR s.restored <> (SELECT count(*) FROM stream_ckpt.restores r WHERE r.pipeline = s.pipeline)}), '0', "the summary agrees: $when");
	return;
}

ask(q{
	CREATE TABLE knob (seconds float8);
	INSERT INTO knob VALUES (0);
	CREATE FUNCTION hesitate() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_sleep(seconds) FROM public.knob; RETURN NULL; END';
	SELECT stream_ckpt.create_stream('s', 'k int, v int, ts timestamptz', event_time => 'ts');
	SELECT stream_ckpt.create_pipeline('slow', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');
	SELECT stream_ckpt.create_pipeline('quick', 'SELECT k, count(*) AS n FROM s GROUP BY k', checkpoint_interval => '200 ms');
	SELECT stream_ckpt.create_pipeline('plain', 'SELECT k, pg_sleep(0.005) IS NULL AS b FROM s WHERE k = 1');
	SELECT stream_ckpt.checkpoint();
	CREATE TRIGGER hesitate AFTER INSERT OR UPDATE ON slow FOR EACH STATEMENT EXECUTE FUNCTION hesitate();
	CREATE TRIGGER hesitate_row AFTER INSERT OR UPDATE ON slow FOR EACH ROW WHEN (NEW.k = 0) EXECUTE FUNCTION hesitate();
});

# ---- Interval ----

my $rows = 0;

sub insert
{
	ask(q{INSERT INTO s SELECT i % 10, i, '2024-01-01 00:00Z'::timestamptz + i * interval '1 s' FROM generate_series(1, 100) i});
	$rows += 100;
	return;
}

my $taken = ask(q{SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = 'quick'});
wait_for('four checkpoints', sub {
	insert();
	return ask(qq{SELECT max(checkpoint_id) >= $taken + 4 FROM stream_ckpt.checkpoints WHERE pipeline = 'quick' AND status = 'completed'}) eq 't';
});
true(qq{min(triggered_at - before) >= '190 ms' FROM (SELECT triggered_at, lag(triggered_at) OVER (ORDER BY checkpoint_id) AS before
	FROM stream_ckpt.checkpoints WHERE pipeline = 'quick' AND checkpoint_id > $taken) x}, 'not more often than the interval says');
is(ask(qq{SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = 'slow'}), '1', 'each by its own');
checkpoint($node);
is(ask(q{SELECT pipeline, sum(rows_in) FROM stream_ckpt.checkpoints GROUP BY 1 ORDER BY 1}), "plain|$rows\nquick|$rows\nslow|$rows",
	'rows_in adds up to what was inserted') or diag(ask('TABLE stream_ckpt.checkpoints'));
true(q{rows_in = 0 AND state_rows = 0 AND checkpointed_bytes = 0 FROM stream_ckpt.checkpoints WHERE pipeline = 'slow' AND checkpoint_id = 1}, 'the first one is of nothing');
true(q{state_rows = 10 AND checkpointed_rows = 10 AND checkpointed_bytes = (SELECT sum(bytes) FROM stream_ckpt.chunk k JOIN stream_ckpt.pipeline_def d
	ON d.id = pipeline_id WHERE d.name = 'slow' AND k.checkpoint_id = c.checkpoint_id) AND state_bytes > 0 AND watermark = '2024-01-01 00:01:40Z'
	FROM stream_ckpt.checkpoints c WHERE pipeline = 'slow' AND retained}, 'state as it is');
true(q{snapshot_duration > '50 ms' FROM stream_ckpt.checkpoint_tasks WHERE pipeline = 'plain' ORDER BY checkpoint_id DESC LIMIT 1},
	'running a query without state is part of its snapshot');
check_history('in peace');

# ---- Timeout ----

set('stream_ckpt.checkpoint_timeout' => '500ms');
my $id = ask(q{SELECT last_checkpoint FROM stream_ckpt.pipelines WHERE pipeline = 'slow'});
ask('UPDATE knob SET seconds = 30');
insert();
my ($state, $message) = sql_state($node, 'postgres', q{SELECT stream_ckpt.checkpoint('slow', '700 ms')});
like($message, qr/checkpoint of pipeline "slow" was not complete at the timeout.*stream_ckpt\.checkpoint_timeout/s, 'checkpoint() says why');
wait_for('the timeout', sub { return ask(qq{SELECT count(*) > 0 FROM stream_ckpt.checkpoints WHERE pipeline = 'slow' AND status = 'failed'}) eq 't' });
true(qq{error LIKE 'canceling statement due to % timeout. It took longer than stream_ckpt.checkpoint_timeout, which is 500 ms.'
	AND duration BETWEEN '500 ms' AND '5 s' AND checkpoint_id = $id + 1
	FROM stream_ckpt.checkpoints WHERE pipeline = 'slow' AND status = 'failed' ORDER BY checkpoint_id LIMIT 1}, 'it fails with its reason');
true(q{status = 'running' AND restarts = 0 AND error LIKE '%checkpoint_timeout%' FROM stream_ckpt.pipelines WHERE pipeline = 'slow'}, 'the pipeline goes on');
ask('UPDATE knob SET seconds = 0');
checkpoint($node);
true(q{status = 'running' AND restarts = 0 AND error IS NULL AND rows_in = } . $rows . q{ FROM stream_ckpt.pipelines WHERE pipeline = 'slow'}, 'without starting over');
is(ask(q{SELECT count(*) FROM stream_ckpt.restores}), '0', 'nothing was restored');
is(ask(q{SELECT sum(n) FROM slow}), $rows, 'and the result is right');
check_history('after a timeout');

# ---- Tolerable failures ----

set('stream_ckpt.checkpoint_timeout' => '10min', 'stream_ckpt.fault' => 'before-commit:error');
insert();
# ask for one again and again, whatever becomes of it
wait_for('a restart', sub {
	sql_state($node, 'postgres', q{SELECT stream_ckpt.checkpoint('slow', '100 ms')});
	return ask(q{SELECT restarts > 0 FROM stream_ckpt.pipelines WHERE pipeline = 'slow'}) eq 't';
});
set('stream_ckpt.fault' => '');
checkpoint($node);
is(ask(q{SELECT failed_before FROM (SELECT restored_at, (SELECT count(*) FROM stream_ckpt.checkpoints c WHERE c.pipeline = r.pipeline AND status = 'failed'
		AND triggered_at < r.restored_at AND error LIKE 'fault %') AS failed_before FROM stream_ckpt.restores r WHERE pipeline = 'slow') x
	ORDER BY restored_at LIMIT 1}), '3', 'two failures in a row are tolerated, the third is not');
is(ask(q{SELECT DISTINCT cause FROM stream_ckpt.restores WHERE pipeline = 'slow'}), 'fault injected at "before-commit"', 'with its cause');
true(q{state_rows = 10 AND state_bytes > 0 AND duration > '0' AND rows_replayed = 100 AND checkpoint_id = } .
	ask(q{SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints c WHERE pipeline = 'slow' AND status = 'completed' AND NOT retained}) .
	q{ FROM stream_ckpt.restores WHERE pipeline = 'slow' ORDER BY restored_at DESC LIMIT 1}, 'what was restored');
is(ask(q{SELECT sum(n) FROM slow}), $rows, 'the result is right');
# a success ends the row of failures
foreach my $round (1 .. 2)
{
	my $restarts = ask(q{SELECT restarts FROM stream_ckpt.pipelines WHERE pipeline = 'slow'});
	my $failed = ask(q{SELECT failed FROM stream_ckpt.checkpoint_summary WHERE pipeline = 'slow'});

	set('stream_ckpt.checkpoint_timeout' => '500ms');
	ask('UPDATE knob SET seconds = 30');
	insert();
	sql_state($node, 'postgres', q{SELECT stream_ckpt.checkpoint('slow', '100 ms')});
	wait_for('a failure', sub { return ask(qq{SELECT failed > $failed FROM stream_ckpt.checkpoint_summary WHERE pipeline = 'slow'}) eq 't' });
	ask('UPDATE knob SET seconds = 0');
	set('stream_ckpt.checkpoint_timeout' => '10min');
	checkpoint($node);
	is(ask(q{SELECT restarts FROM stream_ckpt.pipelines WHERE pipeline = 'slow'}), $restarts, "one failure more, after a success: $round");
}
check_history('after failures');

# ---- A restart: the views say what they said ----

my %said;
my %views = (
	checkpoints => 'TABLE stream_ckpt.checkpoints ORDER BY pipeline, checkpoint_id',
	checkpoint_tasks => 'TABLE stream_ckpt.checkpoint_tasks ORDER BY pipeline, checkpoint_id, task',
	checkpoint_summary => q{SELECT to_jsonb(s) - 'restored' FROM stream_ckpt.checkpoint_summary s ORDER BY pipeline},
	pipelines => q{SELECT to_jsonb(p) - '{lag,lag_bytes,held_bytes,state_bytes}'::text[], lag_bytes >= 0 AND held_bytes >= 0 AND lag >= '0' AND (state_bytes > 0) = (state_rows > 0)
		FROM stream_ckpt.pipelines p ORDER BY pipeline},
	tasks => 'SELECT pipeline, task, status, rows_in, rows_out, state_rows, worker_pid IS NOT NULL, busy_ms >= 0, idle_ms >= 0 FROM stream_ckpt.tasks ORDER BY 1',
	streams => 'TABLE stream_ckpt.streams');

sub running { return ask(q{SELECT bool_and(status = 'running' AND lag IS NOT NULL) FROM stream_ckpt.pipelines}) eq 't' }

foreach my $how ('restart', 'SIGKILL')
{
	checkpoint($node);
	$said{$_} = ask($views{$_}) foreach keys %views;
	if ($how eq 'restart') { $node->restart; }
	else { kill_server($node); start_again($node); }
	wait_for('the pipelines', \&running);
	is(ask($views{$_}), $said{$_}, "$_ after a $how") foreach sort keys %views;
	is(ask(q{SELECT cause FROM stream_ckpt.restores WHERE pipeline = 'quick' ORDER BY restored_at DESC LIMIT 1}), 'worker start', 'restored');
	insert();
	checkpoint($node);
	true(q{rows_replayed = 100 FROM stream_ckpt.restores WHERE pipeline = 'slow' ORDER BY restored_at DESC LIMIT 1}, 'rows up to the next checkpoint');
}
check_history('after restarts');

# ---- Cut off by a crash: in pipelines that run, and in one that is paused meanwhile ----

set('stream_ckpt.fault' => 'before-commit:wait');
insert();
wait_for('a checkpoint in progress', sub { return ask(q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'in_progress' AND acknowledged = 0}) eq '1' });
my $name = ask(q{SELECT pipeline || '|' || checkpoint_id FROM stream_ckpt.checkpoints WHERE status = 'in_progress'});
my ($pipeline, $cut) = split /\|/, $name;
is(ask(qq{SELECT in_progress FROM stream_ckpt.checkpoint_summary WHERE pipeline = '$pipeline'}), '1', 'shown in progress');
is(ask(qq{SELECT count(*) FROM stream_ckpt.checkpoint_tasks WHERE status = 'in_progress'}), '1', 'its task, too');
ask(qq{SELECT stream_ckpt.pause_pipeline('$pipeline')});
kill_server($node);
$node->adjust_conf('postgresql.auto.conf', 'stream_ckpt.fault', "''");
start_again($node);
wait_for('its end', sub { return ask(q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'in_progress'}) eq '0' });
is(ask(qq{SELECT status || ': ' || error FROM stream_ckpt.checkpoints WHERE pipeline = '$pipeline' AND checkpoint_id = $cut}),
	'failed: the worker ended before the checkpoint was complete', 'cut off by a crash, while the pipeline is paused');
is(ask(qq{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'}), 'paused', 'which it is');
ask(qq{SELECT stream_ckpt.resume_pipeline('$pipeline')});
checkpoint($node);
true(qq{last_checkpoint > $cut FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'}, 'ids go on');
is(ask(q{SELECT (SELECT sum(n) FROM slow), (SELECT sum(n) FROM quick)}), "$rows|$rows", 'results are right');
check_history('after a crash');

# ---- The history's length, also where checkpoints only fail ----

set('stream_ckpt.checkpoint_history' => '5');
foreach (1 .. 8) { insert(); checkpoint($node); }
true(q{bool_and(n = 5) FROM (SELECT count(*) AS n FROM stream_ckpt.checkpoints GROUP BY pipeline) x}, 'as many as the setting says');
set('stream_ckpt.fault' => 'before-commit:error');
$id = ask(q{SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = 'quick'});
insert();
wait_for('many failures', sub { return ask(qq{SELECT max(checkpoint_id) >= $id + 10 FROM stream_ckpt.checkpoints WHERE pipeline = 'quick'}) eq 't' });
true(q{count(*) <= 7 FROM stream_ckpt.checkpoints WHERE pipeline = 'quick'}, 'of failed ones, too');
true(q{count(*) <= 5 FROM stream_ckpt.restores WHERE pipeline = 'quick'}, 'and of restores');
true(qq{last_checkpoint_at IS NOT NULL AND last_checkpoint = $id AND restarts >= 3 FROM stream_ckpt.pipelines WHERE pipeline = 'quick'}, 'the last completed one stays');
true(qq{retained FROM stream_ckpt.checkpoints WHERE pipeline = 'quick' AND checkpoint_id = $id}, 'in the history');
set('stream_ckpt.fault' => '');
insert();
checkpoint($node);
is(ask(q{SELECT (SELECT sum(n) FROM slow), (SELECT sum(n) FROM quick)}), "$rows|$rows", 'results are right');
check_history('at the end');
$node->stop;
done_testing();
