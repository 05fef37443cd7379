# Checkpoints that another process writes: the workers go on meanwhile, results are those of the same SQL over a table at every checkpoint, whoever is
# killed, and a pipeline goes from one way to the other without its state being stored anew.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";

use StreamCkpt;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster('checkpoint_writers',
	'stream_ckpt.checkpoint_writers' => 1,
	'stream_ckpt.fault' => "''",
	'stream_ckpt.restart_backoff_min' => "'10ms'");

sub ask { return $node->safe_psql('postgres', $_[0]) }

# grouped, ranked, joined, closing windows, several stages, forgetting, and without state
my %queries = (
	groups => 'SELECT k, count(*) AS n, sum(v) AS total FROM s GROUP BY k',
	several => 'SELECT n, count(*) AS groups FROM (SELECT k, count(*) AS n FROM s GROUP BY k) g GROUP BY n',
	ranked => 'SELECT k, rn, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC, id) AS rn FROM s) r WHERE rn <= 2',
	pairs => 'SELECT a.id, b.id AS other FROM s a JOIN s b ON b.k = a.k AND b.id = a.id + 40',
	closed => q{SELECT k, window_start, count(*) AS n FROM s, stream_ckpt.tumble(ts, '5 s') GROUP BY k, window_start},
	linear => 'SELECT id, v * 2 AS twice FROM s WHERE v % 2 = 0');
my %oracles = (
	closed => q{SELECT * FROM (SELECT k, window_start, count(*) AS n FROM oracle.s, stream_ckpt.tumble(ts, '5 s') GROUP BY k, window_start, window_end
		HAVING window_end <= (SELECT max(ts) FROM oracle.s)) x});

ask(q{
	CREATE SCHEMA oracle;
	CREATE TABLE oracle.s (id int, k int, v int, ts timestamptz);
	CREATE FOREIGN TABLE s (id int, k int, v int, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts');
	CREATE FUNCTION put(first int, last int) RETURNS void LANGUAGE sql AS $$
		WITH rows AS (SELECT i, i * 7919 % 40, i * 31 % 1000, '2024-01-01Z'::timestamptz + i / 20 * interval '1 s' FROM generate_series(first, last) i),
			kept AS (INSERT INTO oracle.s SELECT * FROM rows)
		INSERT INTO s SELECT * FROM rows $$;
});
foreach my $name (sort keys %queries)
{
	my $emit = $name eq 'closed' ? 'final' : 'changes';

	ask("SELECT stream_ckpt.create_pipeline('$name', \$\$$queries{$name}\$\$, emit => '$emit')");
}
my $row = 0;

sub put
{
	my ($rows) = @_;

	ask("SELECT put($row + 1, $row + $rows)");
	$row += $rows;
	return;
}

# What differs from the same SQL over a table with these rows.
sub wrong
{
	my @wrong;

	ask('SELECT stream_ckpt.checkpoint()');
	foreach my $name (sort keys %queries)
	{
		my $oracle = $oracles{$name} || $queries{$name} =~ s/\b(FROM|JOIN) s\b/$1 oracle.s/gr;
		my $differ = ask("SELECT count(*) FROM ((TABLE $name EXCEPT ALL ($oracle)) UNION ALL (($oracle) EXCEPT ALL TABLE $name)) x");

		push @wrong, "$name: $differ" if $differ ne '0';
	}
	return join ', ', @wrong;
}

sub writer { return ask(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_ckpt checkpoint writer' AND datname = current_database()}) }

put(400);
is(wrong(), '', 'results');
like(writer(), qr/^\d+$/, 'there is a writer');
is(ask(q{SELECT count(DISTINCT worker_pid) || ' ' || bool_and(backend_type = 'stream_ckpt worker') FROM stream_ckpt.tasks t JOIN pg_stat_activity ON pid = worker_pid}),
	'1 true', 'which is not who reads');

# ---- While a checkpoint is written, the workers go on ----

my $count = sub { return ask(q{SELECT string_agg(rows_in::text, ' ' ORDER BY pipeline) FROM stream_ckpt.tasks}) };

# a query without state writes its results itself, in the worker, and would wait there
ask(q{SELECT stream_ckpt.drop_pipeline('linear')});
delete $queries{linear};
set_fault($node, 'chunks-written:wait');
put(10);
wait_for('a checkpoint that is being written', sub {
	ask(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'stream_ckpt checkpoint writer' AND xact_start IS NOT NULL}) eq '1' });
my $completed = ask('SELECT sum(last_checkpoint) FROM stream_ckpt.pipelines');
foreach my $round (1 .. 3)
{
	my $before = $count->();

	put(20);
	wait_for('rows to be taken in', sub { my $now = $count->(); return $now ne $before && $now eq join ' ', ($row) x 5 });
}
is(ask('SELECT sum(last_checkpoint) FROM stream_ckpt.pipelines'), $completed, 'rows are taken in while no checkpoint is completed');
set_fault($node, '');
is(wrong(), '', 'and are in the next one');

# ---- Processes that are killed ----

foreach my $round (1 .. 4)
{
	my $pid = $round % 2 ? writer() : ask(q{SELECT DISTINCT worker_pid FROM stream_ckpt.tasks WHERE task = 0});

	put(50);
	kill_pid('TERM', $pid);
	put(50);
	is(wrong(), '', ($round % 2 ? 'without the writer' : 'without the worker') . ", $round");
}
foreach my $point ('checkpoint-trigger', 'barrier', 'hand-over', 'chunks-written', 'cleanup', 'before-commit', 'after-commit')
{
	my $log = -s $node->logfile;

	set_fault($node, "$point:kill");
	put(30);
	wait_for("a process to be killed at $point", sub { return slurp_file($node->logfile, $log) =~ /was terminated by signal 9/ }, 60);
	clear_fault($node);
	is(wrong(), '', "after SIGKILL at $point");
}

# ---- Errors ----

ask(q{SELECT stream_ckpt.create_pipeline('divided', 'SELECT k, sum(1000 / (v - 31)) AS q FROM s WHERE id > 5000 GROUP BY k', on_error => 'dead_letter')});
ask(q{INSERT INTO s SELECT 5000 + i, i % 3, 30 + i % 4, '2024-01-01Z'::timestamptz + i * interval '1 ms' FROM generate_series(1, 40) i});
ask(q{INSERT INTO oracle.s SELECT 5000 + i, i % 3, 30 + i % 4, '2024-01-01Z'::timestamptz + i * interval '1 ms' FROM generate_series(1, 40) i});
ask('SELECT stream_ckpt.checkpoint()');
is(ask(q{SELECT count(*) FROM stream_ckpt.dead_letters WHERE pipeline = 'divided' AND sqlstate = '22012'}), '10', 'dead letters');
is(ask(q{SELECT count(*) FROM (TABLE divided EXCEPT SELECT k, sum(1000 / (v - 31)) FROM oracle.s WHERE id > 5000 AND v <> 31 GROUP BY k) x}), '0', 'and the rest');
ask(q{SELECT stream_ckpt.drop_pipeline('divided')});
delete $queries{closed};    # the rows just put in were late

# a sink that is locked stops nobody but its pipeline
my $locker = session($node, 'postgres');
$locker->query('BEGIN; LOCK TABLE groups IN ACCESS EXCLUSIVE MODE');
put(40);
wait_for('the lock to be reported', sub { ask(q{SELECT error LIKE 'waiting for a lock on relation "groups"%' FROM stream_ckpt.pipelines WHERE pipeline = 'groups'}) eq 't' });
ask(q{SELECT stream_ckpt.checkpoint('several')});
is(ask(q{SELECT sum(groups * n) FROM several}), ask('SELECT count(*) FROM oracle.s'), 'another pipeline has gone on');
$locker->query('COMMIT');
$locker->close;
is(wrong(), '', 'and so has that one');

# ---- Heartbeats ----

ask(q{CREATE FOREIGN TABLE quiet (k int, ts timestamptz) SERVER stream_ckpt OPTIONS (event_time 'ts', idle_timeout '200 ms');
	SELECT stream_ckpt.create_pipeline('silence', $$SELECT k, window_start, count(*) AS n FROM quiet, stream_ckpt.tumble(ts, '300 ms') GROUP BY k, window_start$$, emit => 'final');
	INSERT INTO quiet SELECT 1, now()});
wait_for('the window of a stream that is silent to close', sub { ask('SELECT count(*) FROM silence') eq '1' }, 60);
ask(q{SELECT stream_ckpt.drop_pipeline('silence')});

# ---- A lane that passes over what one pipeline has, and another one does not ----

# Both go on from the prepared transaction, the first one up to its last checkpoint without effect; the second one starts while it is on its way there.
ask(q{CREATE FOREIGN TABLE apart (id int) SERVER stream_ckpt;
	SELECT stream_ckpt.create_pipeline('ahead', 'SELECT id FROM apart', checkpoint_interval => '20 ms');
	SELECT stream_ckpt.create_pipeline('behind', 'SELECT count(*) AS n, sum(id) AS total FROM apart', checkpoint_interval => '1 hour')});
ask(q{BEGIN; INSERT INTO apart VALUES (0); PREPARE TRANSACTION 'early'});
ask(q{INSERT INTO apart SELECT generate_series(1, 10)});
ask('SELECT stream_ckpt.checkpoint()');
ask(q{SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 100))) FROM generate_series(1, 2000000)});
ask(q{INSERT INTO apart SELECT generate_series(11, 20)});
ask(q{SELECT stream_ckpt.checkpoint('ahead')});
kill_server($node);
start_again($node);
ask('SELECT stream_ckpt.checkpoint()');
is(ask('TABLE behind'), '20|210', 'nothing is passed over that it does not have');
ask(q{COMMIT PREPARED 'early'});
ask('SELECT stream_ckpt.checkpoint()');
is(ask('SELECT (SELECT n FROM behind), (SELECT count(*) FROM ahead)'), '21|21', 'nor what was open');
ask(q{SELECT stream_ckpt.drop_pipeline(p) FROM unnest('{ahead,behind}'::text[]) p});

# ---- From one way to the other ----

my $entries = sub { return ask(q{SELECT sum(checkpointed_rows) FROM stream_ckpt.checkpoints WHERE checkpoint_id > (SELECT max(checkpoint_id) FROM stream_ckpt.restores r
	WHERE r.pipeline = checkpoints.pipeline) AND pipeline = 'pairs'}) };
foreach my $writers (0, 2, 1)
{
	$node->append_conf('postgresql.conf', "stream_ckpt.checkpoint_writers = $writers");
	$node->restart;
	put(20);
	is(wrong(), '', "with $writers writers");
	cmp_ok($entries->(), '<', 100, 'only what has changed is stored');
	is(ask(q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'stream_ckpt checkpoint writer'}), $writers > 0 ? 't' : 'f', 'there are as many as there have to be');
}

# too few processes: the launcher and the worker have theirs
$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0");
my $log = -s $node->logfile;
$node->restart;
put(20);
is(wrong(), '', 'with no process for a writer');
is(writer(), '', 'the worker writes itself');
like(slurp_file($node->logfile, $log), qr/WARNING: +only 1 of 2 stream_ckpt workers could be started/, 'and the log says so');

is(history_faults($node), '', 'the views');
$node->stop;
done_testing();
