# A failure at each step of a checkpoint, as an error and as SIGKILL of the
# worker: afterwards results equal the oracle, and nothing is left in progress.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time);

my $node = new_cluster('faults', 'stream_ckpt.checkpoint_interval' => "'50ms'",
	'stream_ckpt.fault' => "''",
	'stream_ckpt.tolerable_failed_checkpoints' => 3);
my $batch = 0;

$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.create_stream('s', 'g int, v int');
SELECT stream_ckpt.create_stream('s2', 'g int, v int');
CREATE TABLE oracle (g int, v int);
SELECT stream_ckpt.create_pipeline('by_group', 'SELECT g, count(*) AS n, sum(v) AS v, max(v) AS top FROM s GROUP BY g');
SELECT stream_ckpt.create_pipeline('copied', 'SELECT g, v FROM s');
SELECT stream_ckpt.create_pipeline('forward', 'SELECT g, v FROM s WHERE g % 2 = 0', sink => 's2');
SELECT stream_ckpt.create_pipeline('chained', 'SELECT g, count(*) AS n, sum(v) AS v FROM s2 GROUP BY g');
SQL

# Insert into stream and oracle in one transaction; the server may be away.
sub insert
{
	$batch++;
	my ($rc) = try_psql($node, 'postgres',
		"BEGIN; INSERT INTO s SELECT i % 10 + $batch % 7, i FROM generate_series(1, 100) i; INSERT INTO oracle SELECT i % 10 + $batch % 7, i FROM generate_series(1, 100) i; COMMIT;");
	return $rc == 0;
}

sub log_since
{
	my ($offset) = @_;
	return substr(slurp_file($node->logfile), $offset);
}

sub compare
{
	my ($when) = @_;

	checkpoint($node);
	return is( $node->safe_psql('postgres', <<'SQL'), "0|0|0|0", "results are right: $when");
SELECT (SELECT count(*) FROM (SELECT g, count(*), sum(v), max(v) FROM oracle GROUP BY g EXCEPT ALL TABLE by_group) x)
       + (SELECT count(*) FROM (TABLE by_group EXCEPT ALL SELECT g, count(*), sum(v), max(v) FROM oracle GROUP BY g) x),
       (SELECT count(*) FROM (TABLE oracle EXCEPT ALL TABLE copied) x),
       (SELECT count(*) FROM (TABLE copied EXCEPT ALL TABLE oracle) x),
       (SELECT count(*) FROM (SELECT g, count(*), sum(v) FROM oracle WHERE g % 2 = 0 GROUP BY g EXCEPT ALL TABLE chained) x)
       + (SELECT count(*) FROM (TABLE chained EXCEPT ALL SELECT g, count(*), sum(v) FROM oracle WHERE g % 2 = 0 GROUP BY g) x);
SQL
}

insert() for 1 .. 3;
compare('before any fault');

foreach my $action ('error', 'kill')
{
	foreach my $point ('checkpoint-trigger', 'barrier', 'chunks-written', 'before-commit', 'after-commit', 'cleanup')
	{
		my $offset = -s $node->logfile;
		my $sign = $action eq 'error' ? qr/fault injected at "$point"/ : qr/terminated by signal 9/;
		my $end = time() + 20;
		my $hit = 0;

		set_fault($node, "$point:$action");
		while (!$hit && time() < $end)
		{
			insert();
			$hit = log_since($offset) =~ $sign;
		}
		ok($hit, "a worker came to \"$point\" and met: $action");
		insert();
		# a worker that was started with it would end the server once more
		if ($action eq 'kill') { clear_fault($node) }
		else { set_fault($node, '') }
		insert();
		compare("after $action at $point");
	}
}

is( $node->safe_psql('postgres', q{SELECT string_agg(DISTINCT status, ',') FROM stream_ckpt.pipelines}),
	'running', 'all pipelines run');
wait_for('checkpoints to end', sub {
	return $node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'in_progress'}) eq '0';
}, 30);
is( $node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'failed' AND (error IS NULL OR completed_at IS NULL)}),
	'0', 'a failed checkpoint says why and when');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE status = 'failed'}),
	'>', 0, 'failed checkpoints are listed');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT pipeline, checkpoint_id FROM stream_ckpt.checkpoints GROUP BY 1, 2 HAVING count(*) > 1) x}),
	'0', 'ids are not used twice');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM stream_ckpt.restores WHERE cause IS NOT NULL'),
	'>', 0, 'restores and their causes are listed');

# more failures in a row than are tolerated: the pipeline restarts, again and again, and then goes on
$node->adjust_conf('postgresql.conf', 'stream_ckpt.tolerable_failed_checkpoints', '1');
my $before = -s $node->logfile;
set_fault($node, 'before-commit:error');
insert();
wait_for('six failures', sub {
	my @hits = log_since($before) =~ /fault injected at "before-commit"/g;
	return @hits >= 6;
}, 60);
my ($state, $message) = sql_state($node, 'postgres', q{SELECT stream_ckpt.checkpoint('by_group', '500 ms')});
like($message, qr/by_group/, 'checkpoint() names the pipeline that it could not wait for');
set_fault($node, '');
insert();
compare('after failures in a row');

# history and state are kept within bounds
$node->append_conf('postgresql.conf', "stream_ckpt.checkpoint_history = 10\n");
$node->reload;
foreach my $i (1 .. 60)
{
	$node->safe_psql('postgres', qq{BEGIN; INSERT INTO s SELECT i, i FROM generate_series(1, 300) i; INSERT INTO oracle SELECT i, i FROM generate_series(1, 300) i; COMMIT;
		SELECT stream_ckpt.checkpoint('by_group')});
}
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.checkpoints WHERE pipeline = 'by_group'}),
	'<=', 11, 'only so many checkpoints stay in the history');
cmp_ok($node->safe_psql('postgres', q{SELECT sum(entries) FROM stream_ckpt.chunk c JOIN stream_ckpt.pipeline_def d ON d.id = c.pipeline_id WHERE d.name = 'by_group'}),
	'<=', 10_000, 'old versions of the state are cleaned up');
compare('after many checkpoints');
wait_for('counts of what the worker has written', sub {
	return $node->safe_psql('postgres', q{SELECT bool_and(n_tup_ins + n_tup_upd > 60) FROM pg_stat_all_tables WHERE relname IN ('by_group', 'checkpoint_log', 'pipeline_position')}) eq 't';
}, 30);
ok(1, 'autovacuum learns what a worker writes while it works');

# a checkpoint that hangs does not keep the server from stopping, and counts for nothing
set_fault($node, 'before-commit:wait');
insert();
my ($waited) = sql_state($node, 'postgres', q{SELECT stream_ckpt.checkpoint('by_group', '300 ms')});
isnt($waited, '00000', 'checkpoint() gives up at its timeout');
my $start = time();
$node->stop('fast');
cmp_ok(time() - $start, '<', 3, 'the server stops at once');
$node->adjust_conf('postgresql.conf', 'stream_ckpt.fault', "''");
$node->start;
insert();
compare('after a stop within a checkpoint');
$node->stop('fast');
done_testing();
