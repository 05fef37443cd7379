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
  accepts set_fault clear_fault
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

# Print the seed of this run, and use it; STREAM_CKPT_SEED repeats one.
sub seed_random
{
	my $seed = $ENV{STREAM_CKPT_SEED} || int(time() * 1000) % 1_000_000_007;

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
			FROM pg_stat_activity WHERE backend_type LIKE 'stream_ckpt worker%'});
		my ($without, $pid) = $rc == 0 && $answer =~ /^([tf])\|(\d+)$/ or return 0;

		kill_pid('TERM', $pid) if $without eq 'f';
		return $without eq 't';
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
