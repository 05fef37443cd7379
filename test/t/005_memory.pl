# Memory is bounded: state by stream_ckpt.state_memory, the log reader by
# stream_ckpt.log_memory.  Reaching a bound loses nothing.
# STREAM_CKPT_LARGE=1 runs five million rows instead of one.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $rows = $ENV{STREAM_CKPT_LARGE} ? 5_000_000 : 1_000_000;
my $node = new_cluster('memory',
	max_wal_size => "'4GB'",
	shared_buffers => "'128MB'",
	'stream_ckpt.log_memory' => "'1MB'",
	'stream_ckpt.state_memory' => "'16MB'");

# Memory of the worker that is its own, in MB.
sub worker_memory
{
	my $pid = worker_pid($node);
	return 0 if !$pid || !-r "/proc/$pid/status";
	my ($own) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return ($own || 0) / 1024;
}

# A checkpoint in the background, and the worker's largest memory until it is done.
sub checkpoint_watching_memory
{
	my $session = session($node);
	my $most = 0;
	my $answer;

	$session->send("SELECT stream_ckpt.checkpoint('10 min'::interval)");
	wait_for('the checkpoint', sub {
		my $now = worker_memory();
		my $readable = '';
		$most = $now if $now > $most;
		vec($readable, fileno($session->{out}), 1) = 1;
		return select($readable, undef, undef, 0) > 0;
	}, 600);
	$answer = $session->receive;
	is($answer // 'lost', '', 'the checkpoint completes');
	$session->close;
	return $most;
}

# ---- the log reader ----

$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.create_stream('s', 'a int, t text');
SELECT stream_ckpt.create_pipeline('g', 'SELECT a % 10 AS k, count(*) AS n, sum(a) AS a, max(t) AS t FROM s GROUP BY a % 10');
SELECT stream_ckpt.checkpoint();
SQL
my $base = worker_memory();

# one transaction of many rows, with others that commit and roll back meanwhile
my $big = session($node);
$big->query('BEGIN');
$big->query("INSERT INTO s SELECT i, 'row ' || i FROM generate_series(1, $rows / 2) i");
$node->safe_psql('postgres', q{INSERT INTO s VALUES (1, 'small')});
$node->safe_psql('postgres', q{BEGIN; INSERT INTO s SELECT i, 'gone' FROM generate_series(1, 100000) i; ROLLBACK});
$big->query("SAVEPOINT a; INSERT INTO s SELECT i, 'gone' FROM generate_series(1, 50000) i; ROLLBACK TO a");
$big->query("SAVEPOINT b; INSERT INTO s SELECT i, 'row ' || i FROM generate_series($rows / 2 + 1, $rows) i; RELEASE b");
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT sum(n) FROM g'), '1', 'an open transaction is not seen');
$big->query('COMMIT');
$big->close;
my $most = checkpoint_watching_memory();
is( $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT i % 10, count(*), sum(i), max(t) FROM (SELECT i, 'row ' || i AS t FROM generate_series(1, $rows) i UNION ALL SELECT 1, 'small') x GROUP BY 1 EXCEPT ALL TABLE g) x"),
	'0', "$rows rows of one transaction are counted once");
cmp_ok($most - $base, '<', 64, sprintf('the worker took %.0f MB more', $most - $base));

# as many single-row statements, in one transaction and then each in its own subtransaction
my $statements = $rows;
$node->safe_psql('postgres', "DO \$\$BEGIN FOR i IN 1..$statements LOOP INSERT INTO s VALUES (i, 'one'); END LOOP; END\$\$");
$node->safe_psql('postgres', 'DO $$BEGIN FOR i IN 1..20000 LOOP BEGIN INSERT INTO s VALUES (i, $x$sub$x$); IF i % 3 = 0 THEN RAISE division_by_zero; END IF; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END$$');
$most = checkpoint_watching_memory();
is($node->safe_psql('postgres', 'SELECT sum(n) FROM g'), 1 + $rows + $statements + 20000 - 6666, "$statements statements are counted once");
cmp_ok($most - $base, '<', 64, sprintf('the worker took %.0f MB more', $most - $base));

# many open transactions at a time
my @open = map { session($node) } 1 .. 20;
foreach my $session (@open)
{
	$session->query(q{BEGIN; INSERT INTO s SELECT i, repeat('x', 100) FROM generate_series(1, 3000) i});
}
my $before = $node->safe_psql('postgres', 'SELECT sum(n) FROM g');
checkpoint($node);
$open[$_]->query($_ % 2 ? 'COMMIT' : 'ROLLBACK') foreach 0 .. $#open;
$_->close foreach @open;
$most = checkpoint_watching_memory();
is($node->safe_psql('postgres', 'SELECT sum(n) FROM g'), $before + 30000, 'open transactions larger than the reader are read at their commit');
cmp_ok($most - $base, '<', 64, sprintf('the worker took %.0f MB more', $most - $base));
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('g')});

# ---- state ----

$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.create_stream('k', 'a int, t text');
SELECT stream_ckpt.create_pipeline('many', 'SELECT a, t, count(*) AS n FROM k GROUP BY a, t');
SELECT stream_ckpt.create_pipeline('few', 'SELECT a % 10 AS a, count(*) AS n FROM k GROUP BY a % 10');
INSERT INTO k SELECT i, 'group ' || i FROM generate_series(1, 1000) i;
SQL
checkpoint($node);
foreach my $i (1 .. 30)
{
	$node->safe_psql('postgres', "INSERT INTO k SELECT i, repeat('group ' || i, 5) FROM generate_series($i * 10000, $i * 10000 + 9999) i");
}
# it tries again from time to time: status and error of one moment
my $error;
wait_for('the state to be full', sub {
	$error = $node->safe_psql('postgres', q{SELECT error FROM stream_ckpt.pipelines WHERE pipeline = 'many' AND status = 'failed'});
	return $error ne '';
}, 120);
like($error, qr/stream_ckpt\.state_memory/, 'the error names the setting');
note $error;
my ($state, $message) = sql_state($node, 'postgres', q{SELECT stream_ckpt.checkpoint('many', '10 s')});
like($message, qr/state_memory/, 'so does checkpoint()');
$node->safe_psql('postgres', q{SELECT stream_ckpt.checkpoint('few')});
is($node->safe_psql('postgres', 'SELECT sum(n) FROM few'), '301000', 'another pipeline goes on');
is($node->safe_psql('postgres', 'SELECT sum(n) % 10000 FROM many'), '1000', 'the result shows whole transactions');
cmp_ok($node->safe_psql('postgres', 'SELECT sum(state_bytes) FROM stream_ckpt.pipelines'), '<=', 16 * 1024 * 1024, 'memory is within its bound');

# raising the setting is all that is needed
$node->safe_psql('postgres', 'ALTER SYSTEM SET stream_ckpt.state_memory = $$256MB$$');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
wait_for('the pipeline to go on', sub {
	return $node->safe_psql('postgres', q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'many'}) eq 'running';
}, 60);
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT count(*), sum(n) FROM many'), '301000|301000', 'after raising the setting, nothing is lost');

# dropping a pipeline gives its memory to others
$node->safe_psql('postgres', q{ALTER SYSTEM SET stream_ckpt.state_memory = '96MB'});
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$node->safe_psql('postgres', q{SELECT stream_ckpt.create_pipeline('more', 'SELECT a, t, count(*) AS n FROM k WHERE a < 0 GROUP BY a, t')});
foreach my $i (1 .. 55)
{
	$node->safe_psql('postgres', "INSERT INTO k SELECT -i, repeat('group ' || i, 5) FROM generate_series($i * 10000, $i * 10000 + 9999) i");
}
my $sent = $node->safe_psql('postgres', q{SELECT stream_ckpt.checkpoint('few')}) && $node->safe_psql('postgres', 'SELECT sum(n) - 301000 FROM few');
# both have all of these rows: one of them finds no room
my @messages = map { (sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$_', '20 s')"))[1] } 'many', 'more';
like(join(' ', @messages), qr/state_memory/, 'the state is full again');
$node->safe_psql('postgres', q{SELECT stream_ckpt.drop_pipeline('many')});
wait_for('the pipeline to go on', sub {
	return $node->safe_psql('postgres', q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'more'}) eq 'running';
}, 60);
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT sum(n) FROM more'), $sent, 'after dropping another pipeline, nothing is lost');

# and the same after a restart, when state is loaded anew
$node->restart;
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT sum(n) FROM more'), $sent, 'the same after a restart');
is( $node->safe_psql('postgres', q{SELECT string_agg(DISTINCT status, ',') FROM stream_ckpt.pipelines}),
	'running', 'all pipelines run');
$node->stop('fast');
done_testing();
