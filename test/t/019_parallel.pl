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

foreach my $n (3, 1, 4)
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
ask('SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines WHERE pipeline LIKE $$slow%$$');
is(history_faults($node), '', 'the views');
is(ask(q{SELECT count(*) FROM stream_ckpt.pipelines p JOIN (SELECT pipeline, sum(state_rows) AS r, sum(state_bytes) AS b FROM stream_ckpt.tasks GROUP BY 1) t USING (pipeline)
	WHERE (p.state_rows, p.state_bytes) <> (r, b)}), '0', 'state of tasks adds up to that of their pipelines');

# ---- A leader that starts anew ends its own checkpoints, not those that other workers are at ----

ask(q{
	CREATE FOREIGN TABLE spread (v int) SERVER stream_ckpt;
	SELECT stream_ckpt.create_pipeline('spread_' || i, 'SELECT v FROM spread') FROM generate_series(1, 3) i;
	SELECT stream_ckpt.checkpoint();
});
# the leader is worker 0, and pipeline `id` is worker `id` mod 3's
my ($led, $leader) = split /\|/, ask(q{SELECT pipeline, worker_pid FROM stream_ckpt.tasks WHERE pipeline IN
	(SELECT name FROM stream_ckpt.pipeline_def WHERE name LIKE 'spread%' AND id % 3 = 0)});
my $at_work = sub { return ask(q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE pipeline LIKE 'spread%' AND status = 'in_progress'}) };
ask(q{ALTER SYSTEM SET stream_ckpt.fault = 'barrier:wait'; SELECT pg_reload_conf()});
ask('INSERT INTO spread VALUES (1)');
wait_for('a checkpoint of each', sub { return $at_work->() eq '3' });
kill_pid('TERM', $leader);
wait_for('the leader to be at one again', sub {
	return $at_work->() eq '3' && ask(qq{SELECT status FROM stream_ckpt.checkpoints WHERE pipeline = '$led' ORDER BY checkpoint_id DESC LIMIT 1 OFFSET 1}) eq 'failed' });
ask(q{ALTER SYSTEM RESET stream_ckpt.fault; SELECT pg_reload_conf()});
checkpoint($node);
is(ask(q{SELECT string_agg(pipeline, ' ') FROM stream_ckpt.checkpoints WHERE pipeline LIKE 'spread%' AND status = 'failed'}), $led, 'only what was cut off has failed');
is(ask('SELECT (SELECT count(*) FROM spread_1), (SELECT count(*) FROM spread_2), (SELECT count(*) FROM spread_3)'), '1|1|1', 'all have the row');
ask(q{SELECT stream_ckpt.drop_stream('spread', cascade => true)});

# ---- Workers and the server end ----

ask(join '', map { "SELECT stream_ckpt.alter_pipeline('$_', parallelism => 4);" } sort keys %queries);
foreach my $round (1 .. 6)
{
	my @pids = worker_pids($node);

	put(100 + int(rand(300)), 100 + 100 * $round);
	usleep(int(rand(150_000)));
	kill_pid('TERM', $pids[ rand @pids ]) if @pids;
	put(100);
}
is(wrong(), '', 'one worker after the other has ended');
is(history_faults($node), '', 'the views');
put(200);
my ($helper) = grep { $_ } split /\n/, ask(q{SELECT worker_pid FROM stream_ckpt.tasks WHERE task = 1 AND pipeline = 'groups'});
kill_pid('KILL', $helper);
wait_for('the server', sub { return accepts($node) }, 60);
put(200);
is(wrong(), '', 'a worker was killed');
$node->stop('immediate');
$node->start;
put(200);
is(wrong(), '', 'an immediate stop');

# ---- Large parcels ----

ask(q{
	CREATE FOREIGN TABLE big (k int, v int, t text) SERVER stream_ckpt;
	SELECT stream_ckpt.create_pipeline('many', 'SELECT k, count(*) AS n, sum(v) AS v, max(t) AS t FROM big GROUP BY k', parallelism => 3);
	SELECT stream_ckpt.create_pipeline('above', 'SELECT n, count(*) AS c, sum(v) AS v FROM (SELECT k, count(*) AS n, sum(v) AS v, max(t) AS t FROM big GROUP BY k) x GROUP BY n', parallelism => 3);
	SELECT stream_ckpt.checkpoint();
});
my $offset = -s $node->logfile;
foreach my $round (1 .. 6)
{
	ask(q{INSERT INTO big SELECT i, i, repeat('x', 200) FROM generate_series(1, 60000) i});
	usleep(int(rand(300_000)));
	if ($round > 2) { my @pids = worker_pids($node); kill_pid('TERM', $pids[ rand @pids ]) if @pids; }
}
ask(q{INSERT INTO big SELECT i, i, 'y' || (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 320000) j) FROM generate_series(1, 2) i});
checkpoint($node);
is(ask(q{SELECT count(*), sum(n), sum(v), max(length(t)) FROM many}), '60000|360002|10800180003|10240001', 'parcels of more than memory holds, and a row of 10 MB');
is(ask(q{SELECT n, c, v FROM above ORDER BY n}), "6|59998|10800179982\n7|2|21", 'above them, too');
like(ask(q{SELECT string_agg(status, ' ') FROM stream_ckpt.pipelines}), qr/^running( running)+$/, 'all run');
unlike(substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $offset), qr/leak|still referenced|PANIC|TRAP/, 'nothing leaks');
ask(q{SELECT stream_ckpt.drop_pipeline('many'); SELECT stream_ckpt.drop_pipeline('above')});
wait_for('temporary files to go', sub { return !glob($node->data_dir . '/base/pgsql_tmp/*') });

# ---- Many checkpoints ----

sub mapped
{
	my %mapped;

	foreach my $pid (worker_pids($node))
	{
		$mapped{$pid} = grep { /PostgreSQL\./ } split /\n/, PostgreSQL::Test::Utils::slurp_file("/proc/$pid/maps");
	}
	return \%mapped;
}

ask(q{ALTER SYSTEM SET stream_ckpt.checkpoint_interval = '1ms'; SELECT pg_reload_conf()});
put(500);
is(wrong(), '', 'with checkpoints all the time');
my $before = mapped();
foreach my $round (1 .. 40) { put(20, 3000); }
checkpoint($node);
my $after = mapped();
is(join(' ', sort keys %$before), join(' ', sort keys %$after), 'no worker has ended');
cmp_ok($after->{$_}, '<=', $before->{$_} + 4, "a worker does not collect shared memory: $before->{$_} and $after->{$_} segments") foreach sort keys %$after;
is(wrong(), '', 'and results');
ask(q{ALTER SYSTEM SET stream_ckpt.checkpoint_interval = '100ms'; SELECT pg_reload_conf()});

# ---- A task that is stuck ----

ask(q{
	CREATE TABLE knob (seconds float8);
	INSERT INTO knob VALUES (0);
	CREATE FUNCTION hesitate(v int) RETURNS int LANGUAGE plpgsql AS
		'BEGIN IF v = 4711 THEN PERFORM pg_sleep(seconds) FROM public.knob; END IF; RETURN v; END';
	SELECT stream_ckpt.create_pipeline('stuck', 'SELECT k, sum(hesitate(v)) AS v, count(*) AS n FROM s GROUP BY k', parallelism => 3);
	SELECT stream_ckpt.checkpoint();
	UPDATE knob SET seconds = 3600;
	ALTER SYSTEM SET stream_ckpt.checkpoint_timeout = '1s';
	SELECT pg_reload_conf();
});
put(10);
checkpoint($node);
ask(q{
	INSERT INTO s VALUES (1, 4711, 'stuck', '2024-01-01Z'), (2, 1, 'x', '2024-01-01Z');
	INSERT INTO oracle.s VALUES (1, 4711, 'stuck', '2024-01-01Z'), (2, 1, 'x', '2024-01-01Z');
});
wait_for('the task to be ended', sub { return ask(q{SELECT count(*) > 0 FROM stream_ckpt.restores WHERE pipeline = 'stuck'}) eq 't' });
like(ask(q{SELECT string_agg(cause, ' ') FROM stream_ckpt.restores WHERE pipeline = 'stuck'}), qr/canceling statement due to|was not complete at the timeout/, 'a task that takes too long is ended');
ask(q{UPDATE knob SET seconds = 0; ALTER SYSTEM RESET stream_ckpt.checkpoint_timeout; SELECT pg_reload_conf()});
delete $queries{sessions}, delete $queries{windows}, delete $queries{closed};    # these rows are late for them
is(wrong(), '', 'and all goes on');
is(ask(q{SELECT count(*) FROM (SELECT k, v FROM stuck WHERE k = 1 AND v >= 4711) x}), '1', 'it, too');
ask(q{SELECT stream_ckpt.drop_pipeline('stuck')});

# ---- Bad rows ----

ask(q{
	CREATE FOREIGN TABLE bad (id int, k int, v text) SERVER stream_ckpt;
	SELECT stream_ckpt.create_pipeline('buried', 'SELECT 100 / k AS key, count(*) AS n, sum(v::int) AS v FROM bad GROUP BY 100 / k', parallelism => 4, on_error => 'dead_letter');
	SELECT stream_ckpt.create_pipeline('stopped', 'SELECT k, count(*) AS n, sum(v::int) AS v FROM bad WHERE id >= 0 GROUP BY k', parallelism => 4);
	SELECT stream_ckpt.create_pipeline('stopped_above', 'SELECT n, count(*) AS c, sum(v) AS v FROM (SELECT k, count(*) AS n, sum(v::int) AS v FROM bad WHERE id >= 0 GROUP BY k) x GROUP BY n', parallelism => 4);
	SELECT stream_ckpt.create_pipeline('stopped_key', 'SELECT 100 / k AS key, count(*) AS n FROM bad GROUP BY 100 / k', parallelism => 4);
	SELECT stream_ckpt.create_pipeline('one_task', 'SELECT k, count(*) AS n, sum(v::int) AS v FROM bad WHERE id >= 0 GROUP BY k');
	SELECT stream_ckpt.checkpoint();
	INSERT INTO bad SELECT i, 1 + i % 50, '1' FROM generate_series(1, 500) i;
	INSERT INTO bad SELECT i, 1 + i % 50, '1' FROM generate_series(501, 600) i;
	INSERT INTO bad SELECT i, CASE WHEN i IN (620, 640, 660) THEN 0 ELSE 1 + i % 50 END, CASE WHEN i IN (677, 678, 679, 690) THEN 'x' || i ELSE '1' END FROM generate_series(601, 700) i;
	INSERT INTO bad SELECT i, 1 + i % 50, CASE WHEN i % 10 = 0 THEN 'y' ELSE '1' END FROM generate_series(701, 800) i;
	SELECT stream_ckpt.checkpoint('buried');
});
is(ask(q{SELECT sum(n), sum(v) FROM buried}), '783|783', 'without bad rows');
is(ask(q{SELECT count(*), count(DISTINCT row_data->>'id'), count(*) FILTER (WHERE error = 'division by zero') FROM stream_ckpt.dead_letters WHERE pipeline = 'buried'}), '17|17|3',
	'each of them buried once, those with bad keys, too');
foreach my $name (qw(stopped stopped_above stopped_key one_task))
{
	wait_for("$name to stop", sub { return ask("SELECT status FROM stream_ckpt.pipelines WHERE pipeline = '$name'") eq 'failed' });
	like(ask("SELECT error FROM stream_ckpt.pipelines WHERE pipeline = '$name'"), qr/stopped before the transaction that committed at/, "$name: stopped before the bad row");
}
is(ask('SELECT sum(n), sum(v) FROM stopped'), '600|600', 'all before it is there');
is(ask('SELECT sum(n * c), sum(v) FROM stopped_above'), '600|600', 'above, too');
is(ask('SELECT sum(n) FROM stopped_key'), '600', 'and with bad keys');
is(ask(q{SELECT count(DISTINCT (regexp_match(error, 'committed at (\S+),'))[1]) FROM stream_ckpt.pipelines WHERE pipeline IN ('stopped', 'stopped_above', 'one_task')}), '1', 'all say the same');
ask(q{SELECT stream_ckpt.resume_pipeline('stopped')});
wait_for('it to stop again', sub { return ask(q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'stopped'}) eq 'failed' });
is(ask('SELECT sum(n), sum(v) FROM stopped'), '600|600', 'at the same place');
ask(q{SELECT stream_ckpt.drop_stream('bad', cascade => true)});

# ---- Pause, drop, change, restore, while checkpoints are under way ----

ask(q{ALTER SYSTEM SET stream_ckpt.checkpoint_interval = '1ms'; ALTER SYSTEM SET stream_ckpt.retained_checkpoints = 5; SELECT pg_reload_conf()});
foreach my $round (1 .. 10)
{
	put(50);
	ask("SELECT stream_ckpt.create_pipeline('passing', 'SELECT k, count(*) AS n FROM s GROUP BY k', parallelism => 4)");
	put(50);
	ask("SELECT stream_ckpt.pause_pipeline('groups')") if $round % 2;
	ask("SELECT stream_ckpt.alter_pipeline('histogram', parallelism => " . (1 + $round % 4) . ')');
	put(50);
	ask("SELECT stream_ckpt.drop_pipeline('passing')");
	ask("SELECT stream_ckpt.resume_pipeline('groups')") if $round % 2;
}
is(wrong(), '', 'pipelines come, pause, change and go while checkpoints are under way');
my $savepoint = ask(q{SELECT stream_ckpt.savepoint('groups', 'here')});
my $there = ask('SELECT md5(string_agg(g::text, $$,$$ ORDER BY g)) FROM groups g');
put(300, 5000);
ask('SELECT stream_ckpt.checkpoint()');
ask("SELECT stream_ckpt.pause_pipeline('groups')");
ask("SELECT stream_ckpt.restore_pipeline('groups', $savepoint)");
is(ask('SELECT md5(string_agg(g::text, $$,$$ ORDER BY g)) FROM groups g'), $there, 'restored');
ask("SELECT stream_ckpt.resume_pipeline('groups')");
put(50);
is(wrong(), '', 'and on from there');

# ---- Idle ----

ask('CREATE EXTENSION pg_walinspect');
ask(q{ALTER SYSTEM SET stream_ckpt.checkpoint_interval = '100ms'; SELECT pg_reload_conf()});
checkpoint($node);
my $calm;
eval {
	wait_for('the log to be quiet', sub {
		$calm = ask('CHECKPOINT; SELECT pg_current_wal_insert_lsn()');
		usleep(1_500_000);
		return ask('SELECT pg_current_wal_insert_lsn()') eq $calm;
	});
	1;
} or do {
	diag("written into a log that should be quiet: "
		  . ask("SELECT string_agg(concat_ws(' ', resource_manager, record_type, description, block_ref), E'\n') FROM pg_get_wal_records_info('$calm', pg_current_wal_flush_lsn())")
		  . "\n" . ask("SELECT string_agg(p::text, E'\n') FROM stream_ckpt.pipelines p"));
	die $@;
};
my $quiet = ask('SELECT pg_current_wal_insert_lsn()');
my @pids = worker_pids($node);
my $cpu = sub { my $sum = 0; foreach (@pids) { my @f = split / /, PostgreSQL::Test::Utils::slurp_file("/proc/$_/stat"); $sum += $f[13] + $f[14]; } return $sum; };
my $switches = sub { my $sum = 0; foreach (@pids) { $sum += $1 if PostgreSQL::Test::Utils::slurp_file("/proc/$_/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m; } return $sum; };
my ($cpu_before, $switches_before) = ($cpu->(), $switches->());
usleep(5_000_000);
my ($used, $woken) = ($cpu->() - $cpu_before, $switches->() - $switches_before);
# The background writer tells standbys which transactions run, once, up to 15 s after the last that wrote something.
my $written = sub {
	my $end = ask('SELECT pg_current_wal_insert_lsn()');

	return '' if $end eq $quiet;
	wait_for('the log to be flushed', sub { ask("SELECT pg_current_wal_flush_lsn() >= '$end'") eq 't' });
	return ask("SELECT string_agg(resource_manager || ' ' || record_type, ', ') FROM pg_get_wal_records_info('$quiet', '$end') WHERE record_type <> 'RUNNING_XACTS'");
};
is($written->(), '', 'idle pipelines write nothing');
cmp_ok($used, '<=', 10, "and need no time: $used ticks in 5 s");
cmp_ok($woken, '<=', 10 * @pids, "nor wake often: $woken times in 5 s, by " . @pids . ' workers');

$node->stop;

# ---- Fewer workers than asked for; many tasks in one ----

$node->append_conf('postgresql.conf', "max_worker_processes = 4\nmax_parallel_workers = 0\nmax_logical_replication_workers = 0\nstream_ckpt.workers = 8");
$node->start;
put(300);
is(wrong(), '', 'with too few processes');
is(ask('SELECT count(DISTINCT worker_pid) FROM stream_ckpt.tasks'), '3', 'fewer workers share the tasks');
foreach my $round (1 .. 3)
{
	my @pids = worker_pids($node);

	kill_pid('TERM', $pids[ $round % @pids ]);
	put(100);
	is(wrong(), '', "and when one ends, $round");
}
$node->stop;
$node->append_conf('postgresql.conf', 'stream_ckpt.workers = 1');
$node->start;
ask(join '', map { "SELECT stream_ckpt.alter_pipeline('$_', parallelism => 64);" } sort keys %queries);
put(1000);
my $began = time();
is(wrong(), '', '64 tasks in one worker');
cmp_ok(time() - $began, '<', 30, 'in time');
# that of the one that was restored has gone back
is(join("\n", grep { !/^positions that go back: groups/ } split /\n/, history_faults($node)), '', 'the views');

$node->stop;
done_testing();
