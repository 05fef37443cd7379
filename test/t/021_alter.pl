# alter_pipeline() while rows come in, with ROLLBACKs, SIGKILLs and dumps: aggregates that every query has in common equal the oracle
# over all rows, and those that come and go the rows since they came.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use List::Util qw(shuffle);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{STREAM_CKPT_ROUNDS} || 24;
my $node = new_cluster('alter', 'stream_ckpt.checkpoint_interval' => "'50ms'", 'stream_ckpt.fault' => "''");
my $batch = 0;
my %extras;    # pipeline => { name => [rows up to here it has not seen, rows up to here it may not have seen] }
my @core = ('count(*) AS n', 'sum(v) AS total', 'count(DISTINCT v) AS d', 'array_agg(v ORDER BY v, i) AS list');
my %core = (
	plain => \@core,
	final => [ @core[ 0, 1, 2 ] ],
	ses => \@core,
	stages => [ 'count(*) AS groups', 'sum(n) AS n' ]);
my %keys = (
	plain => ['k'],
	final => [ 'window_start', 'k' ],
	ses => [ 'window_start', 'window_end', 'k' ],
	stages => ['c']);
my %from = (
	plain => 's',
	final => q{s, stream_ckpt.tumble(ts, '10 min')},
	ses => q{s, stream_ckpt.session(ts, '40 s')},
	stages => '(SELECT k, v % 4 AS c, count(*) AS n FROM s GROUP BY k, v % 4) x');

seed_random();
$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.create_stream('s', 'i int, k int, v int, ts timestamp', event_time => 'ts', watermark_delay => '1 min');
CREATE TABLE oracle (n bigserial, i int, k int, v int, ts timestamp);
SQL

# A query of a pipeline with some of the aggregates that come and go, everything in any order.
sub query_of
{
	my ($pipeline, @names) = @_;
	my @more = map { /x(\d)/ ? "count(*) FILTER (WHERE v >= -$1) AS $_" : () } @names;
	my @list = shuffle(@{ $keys{$pipeline} }, @{ $core{$pipeline} }, @more);
	my @by = shuffle(@{ $keys{$pipeline} });

	return 'SELECT ' . join(', ', @list) . " FROM $from{$pipeline} GROUP BY " . join(', ', @by);
}

sub names_for
{
	my ($pipeline) = @_;

	return () if $pipeline eq 'stages';
	return grep { rand() < 0.5 } 'x1' .. 'x4';
}

sub seen
{
	return $node->safe_psql('postgres', 'SELECT coalesce(max(n), 0) FROM oracle');
}

sub batch_sql
{
	$batch++;
	return "BEGIN; INSERT INTO oracle (i, k, v, ts) SELECT i, (i * $batch) % 7, i % 11, timestamp '2024-01-01' + $batch * interval '1 min' + i * interval '1 s' FROM generate_series(1, 40) i; "
	  . "INSERT INTO s SELECT i, (i * $batch) % 7, i % 11, timestamp '2024-01-01' + $batch * interval '1 min' + i * interval '1 s' FROM generate_series(1, 40) i; COMMIT";
}

foreach my $pipeline (sort keys %from)
{
	my @names = names_for($pipeline);
	my $emit = $pipeline eq 'final' ? 'final' : 'changes';

	$node->safe_psql('postgres', "SELECT stream_ckpt.create_pipeline('$pipeline', \$\$" . query_of($pipeline, @names) . "\$\$, emit => '$emit')");
	$extras{$pipeline} = { map { $_ => [ 0, 0 ] } @names };
}

# What the pipeline is now, as the catalog has it.
sub note_change
{
	my ($pipeline, $low, $high) = @_;
	my $query = $node->safe_psql('postgres', "SELECT query FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
	my %now = map { $_ => 1 } $query =~ /AS (x\d)/g;

	delete $extras{$pipeline}{$_} foreach grep { !$now{$_} } keys %{ $extras{$pipeline} };
	$extras{$pipeline}{$_} //= [ $low, $high ] foreach keys %now;
	return;
}

sub compare
{
	my ($when) = @_;
	my $wrong = '';

	checkpoint($node);
	foreach my $pipeline (sort keys %from)
	{
		my @keys = @{ $keys{$pipeline} };
		my @columns = map { /AS (\w+)$/ } @{ $core{$pipeline} };
		my $list = join ', ', @keys, @columns;
		my $rows = $from{$pipeline} =~ s/\bs\b/oracle/r;
		my $oracle = 'SELECT ' . join(', ', @keys, @{ $core{$pipeline} }) . " FROM $rows GROUP BY " . join ', ', @keys;

		# sessions over a table: gaps and islands
		$oracle = "SELECT min(ts) AS window_start, max(ts) + interval '40 s' AS window_end, k, " . join(', ', @{ $core{ses} })
		  . " FROM (SELECT *, sum(island) OVER (PARTITION BY k ORDER BY ts) AS number FROM (SELECT *, (ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) < interval '40 s') IS NOT TRUE AS start FROM oracle) a, LATERAL (SELECT start::int AS island) b) c GROUP BY k, number"
		  if $pipeline eq 'ses';
		$oracle = "SELECT * FROM ($oracle) o WHERE window_start + interval '11 min' <= (SELECT max(ts) FROM oracle)" if $pipeline eq 'final';
		my $count = $node->safe_psql('postgres',
			"SELECT (SELECT count(*) FROM (SELECT $list FROM $pipeline EXCEPT ALL SELECT $list FROM ($oracle) o) x), (SELECT count(*) FROM (SELECT $list FROM ($oracle) o EXCEPT ALL SELECT $list FROM $pipeline) x)");
		$wrong .= "$pipeline: $count; " if $count ne '0|0';

		# windows that were closed before an aggregate came have none of it
		next if $pipeline ne 'plain';
		foreach my $name (sort keys %{ $extras{plain} })
		{
			my ($low, $high) = @{ $extras{plain}{$name} };
			my $bad = $node->safe_psql('postgres',
				"SELECT string_agg(format('%s: %s not in %s..%s', p.k, $name, least, most), ',') FROM plain p, LATERAL (SELECT count(*) FILTER (WHERE n > $high) AS least, count(*) FILTER (WHERE n > $low) AS most FROM oracle o WHERE o.k = p.k) o WHERE $name IS NULL OR $name NOT BETWEEN least AND most");
			$wrong .= "$name: $bad; " if $bad ne '';
		}
	}
	return is($wrong, '', "results are right: $when");
}

sub say_status
{
	return $node->safe_psql('postgres', q{SELECT string_agg(pipeline || ' ' || status || coalesce(': ' || error, ''), ', ') FROM stream_ckpt.pipelines WHERE status IN ('failed', 'paused')});
}

$node->safe_psql('postgres', batch_sql()) for 1 .. 3;
compare('before any change');

# alters with nothing else going on: what comes has seen exactly the rows since
foreach my $pipeline (sort keys %from)
{
	my $seen = seen();

	$node->safe_psql('postgres', "SELECT stream_ckpt.alter_pipeline('$pipeline', \$\$" . query_of($pipeline, names_for($pipeline)) . '$$)');
	note_change($pipeline, $seen, $seen);
	$node->safe_psql('postgres', batch_sql());
}
compare('after one change each');

my %happened;
foreach my $round (1 .. $rounds)
{
	my $pipeline = (sort keys %from)[ rand 4 ];
	my $session = session($node);
	my $writer = session($node);
	my $low = seen();
	my $what = (qw(none none rollback worker server session fault fault two))[ rand 9 ];
	my $sql = "SELECT stream_ckpt.alter_pipeline('$pipeline', \$\$" . query_of($pipeline, names_for($pipeline)) . '$$)';
	my $pid = $session->backend_pid;

	$happened{$what}++;
	$writer->send(join ";\n", map { batch_sql() } 1 .. 5);
	$session->query(sprintf "SET stream_ckpt.fault = '%s:kill'", (qw(alter-loaded offline-stored))[ $round % 2 ]) if $what eq 'fault';
	if ($what eq 'rollback')
	{
		$session->query('BEGIN');
		$session->query($sql);
		$session->query('ROLLBACK');
	}
	else
	{
		my $other;

		if ($what eq 'two')
		{
			$other = session($node);
			$other->send($sql);
		}
		$session->send($sql);
		usleep(rand 150_000);
		kill_pid('KILL', worker_pid($node)) if $what eq 'worker';
		kill_pid('KILL', $pid) if $what eq 'session';
		kill_server($node) if $what eq 'server';
		$session->receive;
		if ($other)
		{
			$other->receive;
			$other->close;
		}
	}
	$writer->receive;
	$session->close;
	$writer->close;
	start_again($node) if $what eq 'server';
	wait_for('the server', sub { accepts($node) }, 60);
	note_change($pipeline, $low, seen());
	$node->safe_psql('postgres', batch_sql());
	is(say_status(), '', "all run: round $round, $what, $pipeline");
	compare("round $round, $what, $pipeline") if $what ne 'none' || $round % 4 == 0;
}
note(join ', ', map { "$_: $happened{$_}" } sort keys %happened);

# emit, there and back
$node->safe_psql('postgres', q{SELECT stream_ckpt.alter_pipeline('final', emit => 'changes')});
$node->safe_psql('postgres', batch_sql()) for 1 .. 12;
checkpoint($node);
is( $node->safe_psql('postgres', q{SELECT count(*), sum(n) FROM final}),
	$node->safe_psql('postgres', q{SELECT count(*), sum(n) FROM (SELECT count(*) AS n FROM oracle GROUP BY k, date_bin('10 min', ts, '2000-01-03')) o}),
	'open windows have rows now');
$node->safe_psql('postgres', q{SELECT stream_ckpt.alter_pipeline('final', emit => 'final')});
$node->safe_psql('postgres', batch_sql()) for 1 .. 12;
compare("emit => 'final' again");

# forgetting and lateness, there and back
$node->safe_psql('postgres', q{SELECT stream_ckpt.alter_pipeline('plain', state_ttl => '1 day')});
$node->safe_psql('postgres', q{SELECT stream_ckpt.alter_pipeline('final', allowed_lateness => '1 hour')});
$node->safe_psql('postgres', batch_sql());
checkpoint($node);
$node->safe_psql('postgres', q{SELECT stream_ckpt.alter_pipeline('plain', state_ttl => '0')});
$node->safe_psql('postgres', q{SELECT stream_ckpt.alter_pipeline('final', allowed_lateness => '0')});
$node->safe_psql('postgres', batch_sql()) for 1 .. 12;
compare('options there and back');

# a session that was killed has left nothing behind
is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'in_progress'}), '0', 'no checkpoint is in progress');
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline(p) FROM unnest('{stages,ses}'::text[]) p});

# a dump of what an alter has left
my $dump = $node->basedir . '/dump.sql';
$node->safe_psql('postgres', "SELECT stream_ckpt.alter_pipeline('plain', \$\$" . query_of('plain', 'x1', 'x9') . '$$)');
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restored');
wait_for('the copy', sub {
	return $node->safe_psql('copy', q{SELECT count(*) FROM stream_ckpt.pipelines WHERE status = 'running'}) eq '2';
}, 60);
$node->safe_psql('copy', batch_sql());
checkpoint($node, 'copy');
is( $node->safe_psql('copy', q{SELECT count(*) FROM (SELECT k, n, total, d FROM plain EXCEPT SELECT k, count(*), sum(v), count(DISTINCT v) FROM oracle GROUP BY k) x}),
	'0', 'the copy goes on with what the alter has left');
is($node->safe_psql('copy', q{SELECT sum(x9) FROM plain}), '40', 'what came with it has the rows since');

done_testing();
