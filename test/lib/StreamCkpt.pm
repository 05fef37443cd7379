# Helpers of the TAP tests: a cluster with the extension, sessions that may be
# killed, and the comparison of results with the same SQL over a table.

package StreamCkpt;

use strict;
use warnings FATAL => 'all';

use Carp;
use Exporter 'import';
use IPC::Open3;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Symbol 'gensym';
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(
  new_cluster kill_server start_again wait_for worker_pid checkpoint seed_random
  sql_state differences slots_of kill_pid session try_psql
  accepts set_fault clear_fault worker_pids parallelisms history_faults
);

# A running cluster with the library preloaded, and further settings.
# allows_streaming: init() alone sets wal_level = minimal, which no slot survives.
sub new_cluster
{
	my ($name, %settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	%settings = (
		shared_preload_libraries => "'stream_ckpt'",
		restart_after_crash => 'on',
		max_prepared_transactions => 50,
		max_worker_processes => 20,
		max_connections => 60,
		timezone => "'UTC'",
		log_min_messages => 'info',
		'stream_ckpt.checkpoint_interval' => "'200ms'",
		$ENV{STREAM_CKPT_WRITERS} ? ('stream_ckpt.checkpoint_writers' => $ENV{STREAM_CKPT_WRITERS}) : (),
		'stream_ckpt.restart_backoff_min' => "'100ms'",
		'stream_ckpt.restart_backoff_max' => "'1s'",
		%settings);
	$node->init(allows_streaming => 1,
		extra => [ '--locale=C', '--encoding=UTF8' ]);
	$node->append_conf('postgresql.conf', "$_ = $settings{$_}")
	  foreach sort keys %settings;
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION stream_ckpt');
	return $node;
}

# Print the seed of this run, and use it: STREAM_CKPT_SEED, or the test's default.  Without either, and with "random", another one in each run.
sub seed_random
{
	my ($default) = @_;
	my $seed = $ENV{STREAM_CKPT_SEED} || $default || 'random';

	$seed = int(time() * 1000) % 1_000_000_007 if $seed eq 'random';

	srand($seed);
	diag("$0: STREAM_CKPT_SEED=$seed");
	return $seed;
}

# Wait until a condition holds.
sub wait_for
{
	my ($what, $condition, $seconds) = @_;
	my $end = time() + ($seconds || $PostgreSQL::Test::Utils::timeout_default);

	while (!$condition->())
	{
		croak "timed out waiting for $what" if time() > $end;
		usleep(20_000);    # the condition is a query: there is nothing to be woken by
	}
	return 1;
}

# As the node's psql(), where the server may be away or go away: a psql that is refused at once may be gone before it could be
# told what to ask, which IPC::Run dies of. Then the exit code is -1.
sub try_psql
{
	my ($node, @arguments) = @_;
	my ($rc, $out, $err) = eval { $node->psql(@arguments) };

	return ($rc // -1, $out // '', $err // '');
}

# Does the server take statements?
sub accepts
{
	my ($node) = @_;
	my ($rc) = try_psql($node, 'postgres', 'SELECT 1');

	return $rc == 0;
}

# A fault point ("point:action"), or none (""), for new and running processes, without a connection.
sub set_fault
{
	my ($node, $fault) = @_;

	$node->adjust_conf('postgresql.conf', 'stream_ckpt.fault', "'$fault'");
	$node->reload;
	return;
}

# Remove the fault, also from a worker that was started with it.
sub clear_fault
{
	my ($node) = @_;

	set_fault($node, '');
	wait_for('a worker without faults', sub {
		my ($rc, $answer) = try_psql($node, 'postgres', q{SELECT current_setting('stream_ckpt.fault') = '' AND backend_start > pg_conf_load_time(), pid
			FROM pg_stat_activity WHERE backend_type LIKE 'stream_ckpt%' AND datname IS NOT NULL});
		my @with = $rc == 0 ? $answer =~ /^f\|(\d+)$/mg : ();

		kill_pid('TERM', $_) foreach @with;
		return $rc == 0 && $answer =~ /^t/ && !@with;
	}, 60);
	return;
}

# SIGKILL the postmaster, and wait for its orphans to notice.
sub kill_server
{
	my ($node) = @_;
	my (undef, $pids) = try_psql($node, 'postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
	my @pids = split /\n/, $pids // '';

	$node->kill9;
	wait_for('the orphans to end', sub { return !grep { kill(0, $_) } @pids }, 60);
	return;
}

# Start a server whose postmaster was killed, as soon as its last process has
# let go of the shared memory.
sub start_again
{
	my ($node) = @_;

	wait_for('the server to start', sub {
		# a start that failed leaves the pid of the file that it found
		undef $node->{_pid};
		return $node->start(fail_ok => 1);
	}, 120);
	return;
}

# The worker of a database, or 0.
sub worker_pid
{
	my ($node, $database) = @_;
	my ($rc, $pid) = $node->psql(
		$database || 'postgres',
		q{SELECT pid FROM pg_stat_activity WHERE datname = current_database()
		  AND backend_type LIKE 'stream_ckpt%'});

	return ($rc == 0 && $pid && $pid =~ /^(\d+)/) ? $1 : 0;
}

# All workers of a database.
sub worker_pids
{
	my ($node, $database) = @_;
	my (undef, $pids) = try_psql($node, $database || 'postgres',
		q{SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'stream_ckpt%' ORDER BY 1});

	return split /\n/, $pids;
}

# The numbers of tasks to run a test with: 1, and 4 unless the library refuses that. STREAM_CKPT_PARALLELISM="1 2 8" says it instead.
sub parallelisms
{
	my ($node) = @_;

	return split ' ', $ENV{STREAM_CKPT_PARALLELISM} if $ENV{STREAM_CKPT_PARALLELISM};
	my ($state, $message) = sql_state($node, 'postgres', q{BEGIN;
SELECT stream_ckpt.create_stream('several', 'k int');
SELECT stream_ckpt.create_pipeline('several_tasks', 'SELECT k, count(*) AS n FROM several GROUP BY k', parallelism => 4);
ROLLBACK});
	return (1, 4) if $state eq '00000';
	croak "$state: $message" if $state ne '0A000';
	diag("only one task: $message");
	return (1);
}

# What is wrong with the history of checkpoints and with the views, one finding a line; '' when nothing is. To be asked when every pipeline
# runs, has taken a checkpoint since its last restore, and none is in progress.
sub history_faults
{
	my ($node, $database) = @_;
	my $db = $database || 'postgres';
	# columns that have a value in every row, as a list of views, conditions and columns
	my @full = (
		[ 'pipelines', 'true', qw(pipeline result owner query status emit on_error parallelism last_checkpoint last_checkpoint_at
			lag_bytes lag state_rows state_bytes rows_in rows_out late_rows dead_letters restarts created_at) ],
		[ 'tasks', 'true', qw(pipeline task worker_pid status position rows_in rows_out state_rows state_bytes busy_ms idle_ms) ],
		[ 'checkpoints', 'true', qw(pipeline checkpoint_id kind status triggered_at tasks acknowledged retained) ],
		[ 'checkpoints', q{status <> 'in_progress'}, qw(completed_at duration) ],
		[ 'checkpoints', q{status = 'completed'}, qw(position rows_in state_rows state_bytes checkpointed_rows checkpointed_bytes) ],
		[ 'checkpoint_tasks', 'true', qw(pipeline checkpoint_id task status) ],
		[ 'checkpoint_tasks', q{status = 'completed'}, qw(acknowledged_at start_delay snapshot_duration commit_duration state_rows state_bytes
			checkpointed_rows checkpointed_bytes rows_in) ],
		[ 'checkpoint_summary', 'completed > 0', qw(pipeline triggered in_progress completed failed restored),
			map { my $what = $_; map { "${what}_$_" } qw(min avg p50 p95 p99 max) } qw(duration checkpointed_bytes state_bytes) ],
		[ 'restores', 'true', qw(pipeline task checkpoint_id restored_at duration state_rows state_bytes cause) ],
		[ 'restores', q{(pipeline, task, restored_at) IN (SELECT pipeline, task, max(restored_at) FROM stream_ckpt.restores GROUP BY 1, 2)}, 'rows_replayed' ]);
	my @checks = (
		[ 'a pipeline that does not run', q{SELECT pipeline || ' is ' || status || coalesce(': ' || error, '') FROM stream_ckpt.pipelines WHERE status <> 'running'} ],
		[ 'left in progress', q{SELECT pipeline || ' ' || checkpoint_id FROM stream_ckpt.checkpoints WHERE status = 'in_progress'} ],
		[ 'failed without a reason', q{SELECT pipeline || ' ' || checkpoint_id FROM stream_ckpt.checkpoints WHERE status = 'failed' AND coalesce(error, '') = ''} ],
		[ 'a reason without a failure', q{SELECT pipeline || ' ' || checkpoint_id FROM stream_ckpt.checkpoints WHERE status = 'completed' AND error IS NOT NULL} ],
		[ 'ids that do not rise', q{SELECT pipeline || ' ' || checkpoint_id FROM (SELECT pipeline, checkpoint_id, triggered_at,
			lag(triggered_at) OVER w AS before, lag(completed_at) OVER w AS ended
			FROM stream_ckpt.checkpoints WINDOW w AS (PARTITION BY pipeline ORDER BY checkpoint_id)) x WHERE triggered_at <= before OR triggered_at < ended} ],
		[ 'positions that go back', q{SELECT pipeline || ' ' || checkpoint_id FROM (SELECT pipeline, checkpoint_id, position, lag(position) OVER (PARTITION BY pipeline ORDER BY checkpoint_id) AS before
			FROM stream_ckpt.checkpoints WHERE status = 'completed') x WHERE position < before} ],
		[ 'more than one chain', q{SELECT p.pipeline || ': ' || coalesce(string_agg(c.checkpoint_id || ' ' || c.status, ', '), 'nothing') || ' retained, last is ' || coalesce(p.last_checkpoint, 0)
			FROM stream_ckpt.pipelines p LEFT JOIN stream_ckpt.checkpoints c ON c.pipeline = p.pipeline AND c.retained AND c.kind = 'checkpoint'
			GROUP BY p.pipeline, p.last_checkpoint, p.retained_checkpoints
			HAVING max(c.checkpoint_id) IS DISTINCT FROM p.last_checkpoint OR bool_or(c.status <> 'completed')
			OR count(*) > coalesce(p.retained_checkpoints, current_setting('stream_ckpt.retained_checkpoints')::int)} ],
		[ 'the last one is not the last', q{SELECT p.pipeline FROM stream_ckpt.pipelines p WHERE last_checkpoint <>
			(SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints c WHERE c.pipeline = p.pipeline AND status = 'completed')} ],
		[ 'chunks of checkpoints that are not there', q{SELECT DISTINCT d.name || ' ' || c.checkpoint_id FROM stream_ckpt.chunk c LEFT JOIN stream_ckpt.pipeline_def d ON d.id = c.pipeline_id
			LEFT JOIN stream_ckpt.pipeline_position p ON p.pipeline_id = d.id
			LEFT JOIN stream_ckpt.checkpoint_log l ON l.pipeline_id = d.id AND l.checkpoint_id = c.checkpoint_id
			WHERE d.id IS NULL OR c.checkpoint_id > p.last_checkpoint OR l.status <> 'completed'} ],
		[ 'tasks without a worker', q{SELECT pipeline || ' ' || task FROM stream_ckpt.tasks WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = worker_pid AND backend_type LIKE 'stream_ckpt worker%')} ],
		# where the key hangs on more than the row, one task does it all
		[ 'not as many tasks as it has', q{SELECT pipeline || ' ' || count(*) FROM stream_ckpt.tasks JOIN stream_ckpt.pipelines p USING (pipeline) GROUP BY pipeline, parallelism, last_checkpoint
			HAVING count(*) NOT IN (1, parallelism) OR min(task) <> 0 OR max(task) <> count(*) - 1 OR count(DISTINCT task) <> count(*)
			OR count(*) <> (SELECT c.tasks FROM stream_ckpt.checkpoints c WHERE c.pipeline = tasks.pipeline AND c.checkpoint_id = last_checkpoint)} ],
		[ 'a checkpoint whose tasks are not all in it', q{SELECT pipeline || ' ' || checkpoint_id || ' of ' || c.tasks || ' has ' || c.acknowledged || ', rows of ' || count(t.task)
			FROM stream_ckpt.checkpoints c LEFT JOIN stream_ckpt.checkpoint_tasks t USING (pipeline, checkpoint_id)
			WHERE c.status = 'completed' AND c.kind = 'checkpoint'
			GROUP BY pipeline, checkpoint_id, c.tasks, c.acknowledged, c.rows_in, c.state_rows, c.state_bytes, c.checkpointed_rows, c.checkpointed_bytes
			HAVING count(t.task) <> c.tasks OR c.acknowledged <> c.tasks OR bool_or(t.status <> 'completed')
			OR (sum(t.rows_in), sum(t.state_rows), sum(t.state_bytes), sum(t.checkpointed_rows), sum(t.checkpointed_bytes))
				<> (c.rows_in, c.state_rows, c.state_bytes, c.checkpointed_rows, c.checkpointed_bytes)} ]);

	foreach (@full)
	{
		my ($view, $where, @columns) = @$_;
		push @checks, [ "$view without a value", "SELECT pipeline || ' ' || what FROM stream_ckpt.$view v, LATERAL (VALUES "
			. join(', ', map { "('$_', v.$_ IS NULL)" } @columns) . ") x(what, missing) WHERE missing AND ($where)" ];
	}
	return $node->safe_psql($db, join ' UNION ALL ', map { "SELECT '$_->[0]: ' || x.what FROM ($_->[1]) x(what)" } @checks);
}

sub kill_pid
{
	my ($signal, $pid) = @_;

	return $pid > 1 && kill($signal, $pid);
}

# Everything committed so far is in all results.
sub checkpoint
{
	my ($node, $database, $timeout) = @_;

	$node->safe_psql($database || 'postgres',
		sprintf("SELECT stream_ckpt.checkpoint('%s'::interval)", $timeout || '2 min'));
	return;
}

# SQLSTATE and message of a statement that must fail.
sub sql_state
{
	my ($node, $database, $sql) = @_;
	my ($rc, $stdout, $stderr) =
	  $node->psql($database, "\\set VERBOSITY verbose\n$sql");

	return ('00000', '') if $rc == 0 && $stderr !~ /ERROR/;
	return $stderr =~ /(?:ERROR|FATAL):\s+(\w{5}): (.*)/s ? ($1, $2) : ('?', $stderr);
}

sub slots_of
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		q{SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'stream\_ckpt\_%'});
}

# A query that counts the rows that two relations do not share, as multisets.
# Columns are compared with their types' equality; those named approx_... to
# 1e-9 relative, among rows whose other columns agree; types without equality as text.
# $relation: the result table.  $oracle: a SELECT with the same columns.
sub differences
{
	my ($relation, $oracle, @columns) = @_;
	my (@exact, @approx);

	foreach (@columns)
	{
		my ($name, $type) = @$_;

		if ($name =~ /^approx_/) { push @approx, $name; }
		elsif ($type =~ /^(json|point|xml|box|path|polygon|circle|line)$/)
		{
			push @exact, "$name\::text";
		}
		else { push @exact, $name; }
	}
	my $list = join(', ', @exact) || '1';
	my $sql = qq{(SELECT count(*) FROM (SELECT $list FROM $relation EXCEPT ALL SELECT $list FROM ($oracle) o) x)
		+ (SELECT count(*) FROM (SELECT $list FROM ($oracle) o EXCEPT ALL SELECT $list FROM $relation) x)};

	if (@approx)
	{
		my $same = join ' AND ',
		  (map { "r.$_ IS NOT DISTINCT FROM o.$_" } @exact),
		  map {
			"(r.$_ IS NOT DISTINCT FROM o.$_ OR abs(r.$_ - o.$_) <= 1e-9 * greatest(abs(r.$_), abs(o.$_)))"
		  } @approx;

		$sql .= qq{ + (SELECT count(*) FROM $relation r WHERE NOT EXISTS (SELECT FROM ($oracle) o WHERE $same))};
	}
	return $sql;
}

# A psql that reads commands as they come and may lose its server at any time.
# Unlike background_psql it tells so instead of ending the test.
sub session
{
	my ($node, $database) = @_;
	my $self = { node => $node, database => $database || 'postgres', counter => 0 };

	bless $self, 'StreamCkpt::Session';
	$self->connect;
	return $self;
}

package StreamCkpt::Session;

use strict;
use warnings FATAL => 'all';

use IPC::Open3;

sub connect
{
	my ($self) = @_;
	my $path = $self->{node}->installed_command('psql');

	local $SIG{PIPE} = 'IGNORE';
	local $ENV{PGOPTIONS} = '';
	$self->{buffer} = '';
	$self->{pid} = open3(
		$self->{in}, $self->{out}, undef,
		$path, '-XqAt', '-v', 'VERBOSITY=verbose', '-d', $self->{node}->connstr($self->{database}));
	$self->{in}->autoflush(1);
	return;
}

# Send without waiting.
sub send
{
	my ($self, $sql) = @_;

	local $SIG{PIPE} = 'IGNORE';
	$self->{counter}++;
	$self->{sent} = $sql;
	return print { $self->{in} } "$sql\n;\n\\echo =ready $self->{counter}=\n";
}

# The answer to what was sent, errors included; undef when the server was lost.
sub receive
{
	my ($self, $seconds) = @_;
	my $mark = "=ready $self->{counter}=\n";
	my $end = time() + ($seconds || 180);

	while (index($self->{buffer}, $mark) < 0)
	{
		my $readable = '';

		vec($readable, fileno($self->{out}), 1) = 1;
		if (!select($readable, undef, undef, 1))
		{
			die "no answer to: $self->{sent}\n" if time() > $end;
			next;
		}
		return undef
		  if !sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer});
	}
	my $answer = substr($self->{buffer}, 0, index($self->{buffer}, $mark));

	$self->{buffer} =
	  substr($self->{buffer}, index($self->{buffer}, $mark) + length $mark);
	chomp $answer;
	return undef if $answer =~ /server closed the connection|connection to server was lost/;
	return $answer;
}

sub query
{
	my ($self, $sql, $seconds) = @_;

	return undef if !$self->send($sql);
	return $self->receive($seconds);
}

sub backend_pid
{
	my ($self) = @_;

	return $self->query('SELECT pg_backend_pid()');
}

sub close
{
	my ($self) = @_;

	local $SIG{PIPE} = 'IGNORE';
	CORE::close($self->{in});
	CORE::close($self->{out});
	waitpid $self->{pid}, 0;
	return;
}

1;
