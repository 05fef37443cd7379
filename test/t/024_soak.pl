# A soak: producers at a steady rate, pipelines of all kinds, of which one fails in
# a loop, pipelines that come and go, pauses, and a SIGKILL or immediate stop every
# half minute.  What the extension uses of the machine is measured all the time and
# must not grow; results equal those of ordinary tables in the end.
#
# STREAM_CKPT_SOAK=seconds, 180 by default.  STREAM_CKPT_SOAK_KILL=seconds between kills, 30: longer ones in a long run show what
# grows while a worker lives.  STREAM_CKPT_PARALLELISM="1 4": numbers of tasks, which pipelines have in turn.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(max sum0);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{STREAM_CKPT_SOAK} || 180;
my $kill_every = $ENV{STREAM_CKPT_SOAK_KILL} || 30;
my $sample_every = 1;
my $tick = 0.05;				# seconds between two transactions of the producer of events
my $lot = 60;					# rows of each
my $block = 400;				# lots without a silence of 5 s, in event time
my $scripts = PostgreSQL::Test::Utils::tempdir();

seed_random();

# History is short, and vacuum is quick, so that both have come to rest when measuring begins.
my $node = new_cluster('soak',
	autovacuum_naptime => "'3s'",
	checkpoint_timeout => "'30s'",
	max_wal_size => "'256MB'",
	min_wal_size => "'64MB'",
	wal_keep_size => 0,
	log_min_messages => 'warning',
	log_statement => 'none',
	'stream_ckpt.workers' => 2,
	'stream_ckpt.checkpoint_history' => 30,
	'stream_ckpt.checkpoint_interval' => "'250ms'");
my @levels = parallelisms($node);

sub ask { return (try_psql($node, 'postgres', $_[0]))[1]; }
sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }

# ---- pipelines, and the same over tables ----

my $clock = "(SELECT max(ts) - interval '1 s' FROM done)";
my $tumble = "LATERAL (SELECT d AS window_start, d + interval '5 s' AS window_end FROM date_bin('5 s', ts, '2000-01-03Z') d) w";
my $hop = "LATERAL (SELECT d AS window_start, d + interval '6 s' AS window_end
	FROM generate_series(date_bin('2 s', ts, '2000-01-03Z') - interval '4 s', date_bin('2 s', ts, '2000-01-03Z'), '2 s') d) w";
my @pipelines = (
	{ name => 'groups',
		query => 'SELECT k, count(*) AS n, sum(v) AS v, min(v) AS low, count(DISTINCT v) AS d FROM ev GROUP BY k',
		oracle => 'SELECT k, count(*), sum(v), min(v), count(DISTINCT v) FROM done GROUP BY k' },
	{ name => 'windows',
		query => q{SELECT window_start, k % 10 AS k, count(*) AS n, sum(v) AS v FROM ev, stream_ckpt.tumble(ts, '5 s') GROUP BY 1, 2},
		oracle => "SELECT window_start, k % 10, count(*), sum(v) FROM done, $tumble GROUP BY 1, 2" },
	{ name => 'finals', options => q{, emit => 'final'},
		query => q{SELECT window_start, window_end, k, count(*) AS n, sum(v) AS v FROM ev, stream_ckpt.tumble(ts, '5 s') WHERE k < 40 GROUP BY 1, 2, 3},
		oracle => "SELECT window_start, window_end, k, count(*), sum(v) FROM done, $tumble WHERE k < 40 AND window_end <= $clock GROUP BY 1, 2, 3" },
	{ name => 'hops',
		query => q{SELECT window_start, k % 5 AS k, count(*) AS n, count(DISTINCT v) AS d FROM ev, stream_ckpt.hop(ts, '2 s', '6 s') GROUP BY 1, 2},
		oracle => "SELECT window_start, k % 5, count(*), count(DISTINCT v) FROM done, $hop GROUP BY 1, 2" },
	{ name => 'sessions',
		query => q{SELECT k, window_start, window_end, count(*) AS n, sum(v) AS v FROM ev, stream_ckpt.session(ts, '3 s') WHERE k < 50 GROUP BY 1, 2, 3},
		oracle => q{SELECT k, min(ts), max(ts) + interval '3 s', count(*), sum(v) FROM
			(SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY k ORDER BY ts, id) AS island FROM
				(SELECT *, coalesce(ts - lag(ts) OVER (PARTITION BY k ORDER BY ts, id) >= interval '3 s', true) AS fresh FROM done WHERE k < 50) a) b
			GROUP BY k, island} },
	{ name => 'stages',
		query => 'SELECT v % 10 AS g, count(*) AS groups, max(n) AS top FROM (SELECT k, count(*) AS n, sum(v) AS v FROM ev GROUP BY k) x GROUP BY 1',
		oracle => 'SELECT v % 10, count(*), max(n) FROM (SELECT k, count(*) AS n, sum(v) AS v FROM done GROUP BY k) x GROUP BY 1' },
	{ name => 'joined',
		query => 'SELECT name, count(*) AS n, sum(v) AS v FROM ev JOIN names USING (k) GROUP BY name',
		oracle => 'SELECT name, count(*), sum(v) FROM done JOIN names USING (k) GROUP BY name' },
	{ name => 'rows',
		query => 'SELECT id, k, v FROM ev WHERE id % 50 = 0',
		oracle => 'SELECT id, k, v FROM done WHERE id % 50 = 0' },
	{ name => 'forward', options => q{, sink => 'mid'},
		query => 'SELECT id, k, v FROM ev WHERE v % 2 = 0' },
	{ name => 'chained',
		query => 'SELECT k % 20 AS k, count(*) AS n, sum(v) AS v, max(id) AS last FROM mid GROUP BY 1',
		oracle => 'SELECT k % 20, count(*), sum(v), max(id) FROM done WHERE v % 2 = 0 GROUP BY 1' },
	# groups that come and are forgotten: each is a block, which ends with a silence
	{ name => 'forgotten', options => q{, state_ttl => '70 s'},
		query => "SELECT id / ($block * $lot) AS g, k % 100 AS k, count(*) AS n FROM ev GROUP BY 1, 2",
		oracle => "SELECT id / ($block * $lot) AS g, k % 100, count(*) FROM done GROUP BY 1, 2 HAVING max(ts) + interval '70 s' > $clock" },
	{ name => 'letters', options => q{, on_error => 'dead_letter'},
		query => 'SELECT id % 20 AS g, count(*) AS n, sum(v::int) AS v FROM dirty GROUP BY 1',
		oracle => q{SELECT id % 20, count(*), sum(v::int) FROM dirty_done WHERE v ~ '^\d+$' GROUP BY 1} },
	{ name => 'failing',
		query => 'SELECT id % 5 AS g, count(*) AS n, sum(fails(id)) AS s FROM dirty GROUP BY 1',
		oracle => 'SELECT id % 5, count(*), sum(id) FROM dirty_done GROUP BY 1' });
my $number = 0;

$node->safe_psql('postgres', <<"SQL" . join '', map { "SELECT stream_ckpt.create_pipeline('$_->{name}', " . literal($_->{query}) . ($_->{options} || '') . ", parallelism => $levels[ $number++ % @levels ]);\n" } @pipelines);
SELECT stream_ckpt.create_stream('ev', 'id bigint, k int, v int, ts timestamptz', event_time => 'ts', watermark_delay => '1 s');
SELECT stream_ckpt.create_stream('mid', 'id bigint, k int, v int');
SELECT stream_ckpt.create_stream('dirty', 'id bigint, v text');
CREATE TABLE done (id bigint PRIMARY KEY, k int, v int, ts timestamptz);
CREATE TABLE dirty_done (id bigint PRIMARY KEY, v text);
CREATE TABLE names (k int PRIMARY KEY, name text);
INSERT INTO names SELECT k, 'name ' || k % 17 FROM generate_series(0, 150) k;
CREATE TABLE failure (code text);
CREATE FUNCTION fails(id bigint) RETURNS bigint LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM public.failure) THEN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END IF;
	RETURN id;
END\$\$;
-- the n-th lot: 50 ms of event time, out of order by less than the delay
CREATE FUNCTION lot(n bigint) RETURNS TABLE (id bigint, k int, v int, ts timestamptz) LANGUAGE sql STABLE AS
	\$\$SELECT n * $lot + i, ((n * $lot + i) * 7919 % 200)::int, ((n * 31 + i * 17) % 97)::int,
		'2026-01-01Z'::timestamptz + n * interval '50 ms' + n / $block * interval '5 s' + (n * 13 + i * 29) % 40 * interval '10 ms' FROM generate_series(0, $lot - 1) i\$\$;
CREATE FUNCTION dirty_lot(n bigint) RETURNS TABLE (id bigint, v text) LANGUAGE sql STABLE AS
	\$\$SELECT n * 10 + i, CASE WHEN (n * 10 + i) % 197 = 0 THEN 'bad' ELSE ((n + i) % 1000)::text END FROM generate_series(0, 9) i\$\$;
SELECT stream_ckpt.checkpoint();
SQL

# ---- producers ----

# Inserts lot after lot into a stream and the table beside it, at a steady rate, whatever happens to the server, until the file "stop" is there.
# Says in the end how many there were to be at that rate.
sub start_producer
{
	my ($stream, $table, $function, $size, $every) = @_;
	my $pid = fork() // die $!;
	return $pid if $pid;

	my ($session, $n);
	my ($ticks, $next) = (0, time());

	local $@;
	while (!-e "$scripts/stop")
	{
		$session = eval { session($node) } if !$session;
		if ($session && !defined $n)
		{
			$n = eval { $session->query("SELECT coalesce(max(id) / $size + 1, 0) FROM $table") };
			undef $n if ($n // '') !~ /^\d+$/;
		}
		my $answer = defined $n ? eval { $session->query("BEGIN; INSERT INTO $stream SELECT * FROM $function($n); INSERT INTO $table SELECT * FROM $function($n); COMMIT") } : undef;
		if (defined $answer && $answer eq '') { $n++; }
		else
		{
			eval { $session->close } if $session;
			undef $session;
			undef $n;
		}
		$ticks++;
		$next += $every;
		usleep(1_000_000 * ($next - time())) if $next > time();
	}
	append_to_file("$scripts/$stream.ticks", $ticks);
	POSIX::_exit(0);
}

# ---- measuring ----

# What may differ between the first and the second half, beside the factor: amount, in the unit of the value.
my $factor = 1.25;
my %slack = (
	'memory of workers, kB' => 6 * 1024,
	'memory of the launcher, kB' => 2 * 1024,
	'state, bytes' => 1024 * 1024,
	'log held by slots, bytes' => 16 * 1024 * 1024,
	'chunks, bytes' => 256 * 1024,
	'chunks' => 30,
	'our tables, bytes' => 768 * 1024,
	'dead tuples of our tables' => 2000,
	'temporary files' => 2,
	'shared memory files, bytes' => 2 * 1024 * 1024,
	'shared memory files' => 2,
	'locks' => 60,
	'processes' => 4);
my %shared;
my %lives;				# memory of each worker, from sample to sample
my $samples = "$PostgreSQL::Test::Utils::log_path/soak_samples.tsv";
my $start = time();

# Files of shared memory that belong to this server, or did: those that no process has any more are a leak.
sub shared_files
{
	my (@pids) = @_;

	foreach my $pid (@pids)
	{
		open my $maps, '<', "/proc/$pid/maps" or next;
		while (<$maps>) { $shared{$1} = 1 if m{(/dev/shm/PostgreSQL\.\d+)}; }
		close $maps;
	}
	return grep { -e } keys %shared;
}

sub memory
{
	my ($pid) = @_;

	# the process may end at any time
	open my $status, '<', "/proc/$pid/status" or return 0;
	my $text = join '', <$status>;
	close $status;
	return $text =~ /^RssAnon:\s+(\d+) kB/m ? $1 : 0;
}

# A sample, or nothing when the server is away.  All of them are in a file beside the logs.
sub sample
{
	my %sample;
	my (@workers, @launcher, @all);

	foreach (split /\n/, ask(q{
		SELECT 'pid', pid || ' ' || backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()
		UNION ALL SELECT 'state, bytes', state_bytes::text FROM stream_ckpt.database_stats()
		UNION ALL SELECT 'log held by slots, bytes', coalesce(max(pg_current_wal_lsn() - restart_lsn), 0)::text FROM pg_replication_slots WHERE slot_name LIKE 'stream\_ckpt\_%'
		UNION ALL SELECT 'chunks, bytes', coalesce(sum(octet_length(payload)), 0)::text FROM stream_ckpt.chunk
		UNION ALL SELECT 'chunks', count(*)::text FROM stream_ckpt.chunk
		UNION ALL SELECT 'our tables, bytes', sum(pg_total_relation_size(oid))::text FROM pg_class WHERE relnamespace = 'stream_ckpt'::regnamespace AND relkind = 'r' AND relname <> 'dead_letter'
		UNION ALL SELECT 'dead tuples of our tables', sum(n_dead_tup)::text FROM pg_stat_all_tables WHERE schemaname = 'stream_ckpt'
		UNION ALL SELECT 'temporary files', count(*)::text FROM pg_ls_tmpdir()
		UNION ALL SELECT 'locks', count(*)::text FROM pg_locks WHERE pid <> pg_backend_pid()
		UNION ALL SELECT 'processes', count(*)::text FROM pg_stat_activity WHERE backend_type NOT LIKE 'autovacuum%' AND backend_type NOT LIKE 'parallel%'}))
	{
		my ($what, $value) = split /\|/;

		if ($what ne 'pid') { $sample{$what} = $value; next; }
		my ($pid, $type) = $value =~ /^(\d+) (.*)/ or next;
		push @all, $pid;
		push @workers, $pid if $type =~ /^stream_ckpt worker/;
		push @launcher, $pid if $type =~ /^stream_ckpt launcher/;
	}
	return if !@workers || !@launcher || !defined $sample{processes};
	my @files = shared_files(@all);
	$sample{'memory of workers, kB'} = sum0(map { memory($_) } @workers);
	push @{ $lives{$_} }, memory($_) foreach @workers;
	$sample{'memory of the launcher, kB'} = sum0(map { memory($_) } @launcher);
	$sample{'shared memory files'} = @files;
	$sample{'shared memory files, bytes'} = sum0(map { -s $_ || 0 } @files);
	$sample{'seconds'} = int(time() - $start);
	append_to_file($samples, join("\t", 'seconds', sort keys %slack) . "\n") if !-e $samples;
	append_to_file($samples, join("\t", map { $sample{$_} // '' } 'seconds', sort keys %slack) . "\n");
	return \%sample;
}

# Nine of ten samples are not above this. (One that is taken just after a crash, or beside a vacuum, is not what it is about.)
sub high
{
	my ($what, @some) = @_;
	my @values = sort { $a <=> $b } map { $_->{$what} // 0 } @some;

	return $values[ int($#values * 0.9) ];
}

# ---- the run ----

my @producers = (
	start_producer('ev', 'done', 'lot', $lot, $tick),
	start_producer('dirty', 'dirty_done', 'dirty_lot', 10, 0.1));
$start = time();
my ($next_sample, $next_kill, $next_change) = ($start + 1, $start + $kill_every, $start + 2);
my (%count, @samples, $paused, @temporary);

while (time() < $start + $seconds)
{
	if (time() >= $next_change)
	{
		my $n = ++$count{changes};

		# each of them may meet a server that is away: the next one makes up for it
		if ($paused)
		{
			undef $paused if (try_psql($node, 'postgres', q{SELECT stream_ckpt.resume_pipeline(pipeline) FROM stream_ckpt.pipelines WHERE status = 'paused'}))[0] == 0;
		}
		elsif ($n % 3 == 0)
		{
			$paused = $pipelines[ rand @pipelines ]{name};
			$count{pauses}++ if (try_psql($node, 'postgres', "SELECT stream_ckpt.pause_pipeline('$paused')"))[0] == 0;
		}
		if ($n % 2)
		{
			my $level = $levels[ rand @levels ];

			$count{created}++ if (try_psql($node, 'postgres', "BEGIN; SELECT stream_ckpt.create_stream('temporary_$n', 'k int');
				SELECT stream_ckpt.create_pipeline('temporary_groups_$n', 'SELECT k, count(*) AS n, sum(v) AS v FROM ev GROUP BY k', parallelism => $level);
				SELECT stream_ckpt.create_pipeline('temporary_copy_$n', 'SELECT k FROM temporary_$n'); INSERT INTO temporary_$n VALUES (1); COMMIT"))[0] == 0;
		}
		elsif (!$paused)
		{
			$count{dropped} += grep { $_ eq '' } map { ask("SELECT stream_ckpt.drop_pipeline('$_')") } split /\n/,
			  ask(q{SELECT pipeline FROM stream_ckpt.pipelines WHERE pipeline LIKE 'temporary\_groups%'});
			ask("SELECT stream_ckpt.drop_stream('$_', true)") foreach split /\n/, ask(q{SELECT stream FROM stream_ckpt.streams WHERE stream::text LIKE 'temporary%'});
		}
		ask($n % 4 < 2 ? q{INSERT INTO failure VALUES ('40001')} : 'DELETE FROM failure');
		$next_change = time() + 1.5;
	}
	if (time() >= $next_kill)
	{
		my $kind = ('worker', 'postmaster', 'worker', 'immediate')[ ($count{kills} || 0) % 4 ];

		if ($kind eq 'worker')
		{
			my @pids;

			wait_for('workers', sub { return @pids = worker_pids($node) }, 60);
			kill_pid('KILL', $pids[ rand @pids ]);
		}
		elsif ($kind eq 'postmaster') { kill_server($node); start_again($node); }
		else { $node->stop('immediate'); start_again($node); }
		$count{kills}++;
		$next_kill += $kill_every;
	}
	if (time() >= $next_sample)
	{
		my $sample = sample();

		push @samples, $sample if $sample;
		$next_sample += $sample_every;
		$next_sample = time() if $next_sample < time();
	}
	usleep(50_000);    # nothing to wait for but the time
}
append_to_file("$scripts/stop", '');
waitpid $_, 0 foreach @producers;
wait_for('the server', sub { return accepts($node) }, 60);

# ---- results ----

# Event time stops in the middle of a block, so that what is forgotten does not hang on a row.
$node->safe_psql('postgres', <<"SQL");
DELETE FROM failure;
SELECT stream_ckpt.resume_pipeline(pipeline) FROM stream_ckpt.pipelines WHERE status = 'paused';
SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines WHERE pipeline LIKE 'temporary%';
DO \$\$DECLARE n bigint := (SELECT max(id) / $lot + 1 FROM done);
BEGIN
	WHILE n % $block <> $block / 2 LOOP
		INSERT INTO ev SELECT * FROM lot(n); INSERT INTO done SELECT * FROM lot(n);
		COMMIT;
		n := n + 1;
	END LOOP;
END\$\$;
SQL
is(ask(q{SELECT string_agg(pipeline || ' is ' || status || coalesce(': ' || error, ''), ', ') FROM stream_ckpt.pipelines WHERE status IN ('failed', 'paused')}), '', 'no pipeline has stopped');
checkpoint($node);
foreach (grep { $_->{oracle} } @pipelines)
{
	my ($name, $oracle) = @$_{ 'name', 'oracle' };

	is($node->safe_psql('postgres', "SET work_mem = '128MB'; SELECT (SELECT count(*) FROM $name) > 0, count(*) FROM ((TABLE $name EXCEPT ALL ($oracle)) UNION ALL (($oracle) EXCEPT ALL TABLE $name)) x"),
		't|0', "the result is right: $name");
}
my $bad = ask(q{SELECT count(*) FROM dirty_done WHERE v = 'bad'});
is(ask(q{SELECT count(*) || ' ' || count(DISTINCT row_data) FROM stream_ckpt.dead_letters WHERE pipeline = 'letters'}), "$bad $bad", "$bad bad rows are dead letters, once each");
is(ask('SELECT sum(late_rows) FROM stream_ckpt.pipelines'), '0', 'no row was late');
is(history_faults($node), '', 'the history of checkpoints is consistent');

# ---- it was a soak ----

my ($ticks) = slurp_file("$scripts/ev.ticks");
my $lots = ask("SELECT count(*) / $lot FROM done");
$count{$_} //= 0 foreach 'pauses', 'created', 'dropped', 'kills';
$count{kills_wanted} = int(($seconds - 1) / $kill_every);
cmp_ok($lots, '>', 0.6 * $seconds / $tick, "$lots transactions of events");
cmp_ok($bad, '>', 0, 'some bad rows');
cmp_ok($count{kills}, '>=', 0.6 * $count{kills_wanted}, "$count{kills} kills");
cmp_ok($count{$_}, '>', $seconds / 20, "$count{$_} $_") foreach 'pauses', 'created', 'dropped';
cmp_ok(ask(q{SELECT restarts FROM stream_ckpt.pipelines WHERE pipeline = 'failing'}), '>', $seconds / 10, 'one pipeline has failed in a loop');
cmp_ok(scalar @samples, '>', 0.5 * $seconds / $sample_every, @samples . ' samples');

# ---- and nothing grew ----

# the first part is the warm-up
my @first = grep { $_->{seconds} >= 0.25 * $seconds && $_->{seconds} < 0.625 * $seconds } @samples;
my @second = grep { $_->{seconds} >= 0.625 * $seconds } @samples;
note sprintf '%-28s %14s %14s %14s', 'nine of ten samples are at most', 'first', 'second', 'largest';
foreach my $what (sort keys %slack)
{
	my ($before, $after) = (high($what, @first), high($what, @second));

	note sprintf '%-28s %14d %14d %14d', $what, $before, $after, max(map { $_->{$what} } @samples);
	cmp_ok($after, '<=', $factor * $before + $slack{$what}, "bounded: $what");
	cmp_ok(max(map { $_->{$what} } @samples), '>', 0, "measured: $what") if $what ne 'temporary files';
}

# Kills keep a worker from growing for long: what each of them grew by in its life, between a fifth and the end of it.
my @grown = sort { $a <=> $b } map { my @kb = @$_; $kb[-1] - $kb[ @kb / 5 ] } grep { @$_ >= 10 } values %lives;
cmp_ok(scalar @grown, '>', 0, 'some workers lived long enough: ' . @grown);
note "workers grew by (kB): @grown";
cmp_ok($grown[ @grown / 2 ], '<', 1024, 'half of them grew by less than 1 MB');
is(ask(q{SELECT count(*) FROM pg_ls_tmpdir()}), '0', 'no temporary file is left');
is(ask(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE backend_type LIKE 'stream_ckpt%' AND locktype <> 'virtualxid' AND NOT EXISTS
	(SELECT FROM pg_stat_activity b WHERE b.pid = a.pid AND b.xact_start IS NOT NULL)}), '0', 'workers at rest hold no locks');
is(ask(q{SELECT count(*) FROM stream_ckpt.chunk c WHERE NOT EXISTS (SELECT FROM stream_ckpt.pipeline_def d WHERE d.id = c.pipeline_id)}), '0', 'dropped pipelines leave no state');
ask('SELECT pg_switch_wal()');
checkpoint($node);
wait_for('the slot to follow', sub {
	return ask(q{SELECT max(pg_current_wal_lsn() - restart_lsn) < 20 * 1024 * 1024 FROM pg_replication_slots WHERE slot_name LIKE 'stream\_ckpt\_%'}) eq 't';
}, 60);
ok(1, 'the log is let go');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion');
$node->stop('fast');
is(scalar(shared_files()), 0, 'no shared memory is left');
done_testing();
