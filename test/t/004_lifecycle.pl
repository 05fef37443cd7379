# Life with the server: several databases; commands on databases and on the
# extension while pipelines run; fast shutdown under load; what is dropped
# leaves nothing behind; too few processes or slots.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_cluster('lifecycle');

# A database with a stream, two pipelines and three rows.
sub populate
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database") if $database ne 'postgres';
	$node->safe_psql($database, <<'SQL');
CREATE EXTENSION IF NOT EXISTS stream_ckpt;
SELECT stream_ckpt.create_stream('s', 'k text, v int');
SELECT stream_ckpt.create_pipeline('p', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');
SELECT stream_ckpt.create_pipeline('l', 'SELECT k, v FROM s');
SQL
	$node->safe_psql($database, "INSERT INTO s VALUES ('$database', 1), ('$database', 2), ('x', 3)");
	checkpoint($node, $database);
	return;
}

sub result
{
	my ($database) = @_;

	checkpoint($node, $database);
	return $node->safe_psql($database, q{SELECT string_agg(format('%s=%s,%s', k, n, v), ' ' ORDER BY k) FROM p});
}

# How long a command took; it must succeed.
sub at_once
{
	my ($what, $seconds, $code) = @_;
	my $start = time();

	$code->();
	my $took = time() - $start;
	return cmp_ok($took, '<', $seconds, sprintf('%s: %.1f s', $what, $took));
}

sub sql_at_once
{
	my ($sql) = @_;
	return at_once($sql, 3, sub { $node->safe_psql('postgres', $sql) });
}

# Hundredths of a second that a process has run; 0 where that cannot be known.
sub processor_ticks
{
	my ($pid) = @_;

	return 0 if !-r "/proc/$pid/stat";
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;
	return $fields[11] + $fields[12];
}

# ---- several databases ----

populate($_) foreach 'one', 'two', 'three';
is(result($_), "$_=2,3 x=1,3", "$_ has its own rows") foreach 'one', 'two', 'three';
is(slots_of($node), '3', 'one slot per database with streams');
is( $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE datname IN ('one', 'two', 'three') AND backend_type = 'stream_ckpt worker'}),
	'3', 'one worker each');
is(worker_pid($node), 0, 'none where there is no stream');

# an error in one database does not disturb the others
$node->safe_psql('two', q{SELECT stream_ckpt.create_pipeline('bad', 'SELECT 1 / v AS q FROM s')});
$node->safe_psql('two', q{INSERT INTO s VALUES ('bad', 0)});
wait_for('the pipeline to fail', sub {
	return $node->safe_psql('two', q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'bad'}) eq 'failed';
}, 60);
like($node->safe_psql('two', q{SELECT error FROM stream_ckpt.pipelines WHERE pipeline = 'bad'}), qr/division by zero/, 'and says why');
my ($state, $message) = sql_state($node, 'two', q{SELECT stream_ckpt.checkpoint('bad', '5 s')});
like($message, qr/bad.*division by zero/s, 'checkpoint() says it, too');
$node->safe_psql('one', q{INSERT INTO s VALUES ('one', 10)});
is(result('one'), 'one=3,13 x=1,3', 'the other database goes on');
$node->safe_psql('two', q{SELECT stream_ckpt.drop_pipeline('bad')});
is(result('two'), 'bad=1,0 two=2,3 x=1,3', 'and so do the other pipelines');

# ---- commands on databases while pipelines run and rows arrive ----

my $load = session($node, 'one');
$load->send(q{DO $$BEGIN FOR i IN 1..200 LOOP INSERT INTO s VALUES ('load', i); COMMIT; END LOOP; END$$});
sql_at_once('CREATE DATABASE copied TEMPLATE two');
sql_at_once('ALTER DATABASE two RENAME TO deux');
$load->receive;
$load->close;
is(result('deux'), 'bad=1,0 two=2,3 x=1,3', 'renamed');
$node->safe_psql('deux', q{INSERT INTO s VALUES ('two', 10)});
is(result('deux'), 'bad=1,0 two=3,13 x=1,3', 'and it goes on');
is(result('one'), 'load=200,20100 one=3,13 x=1,3', 'rows that arrived meanwhile are there');

# a copy goes on from the copied state with what is inserted there
is(result('copied'), 'bad=1,0 two=2,3 x=1,3', 'a copy has the state of its template');
$node->safe_psql('copied', q{INSERT INTO s VALUES ('two', 100), ('copy', 1)});
is(result('copied'), 'bad=1,0 copy=1,1 two=3,103 x=1,3', 'and goes on by itself');
is(result('deux'), 'bad=1,0 two=3,13 x=1,3', 'which its template does not see');
is(slots_of($node), '4', 'with a slot of its own');

my $space = PostgreSQL::Test::Utils::tempdir_short();
$node->safe_psql('postgres', "CREATE TABLESPACE moved LOCATION '$space'");
sql_at_once('ALTER DATABASE three SET TABLESPACE moved');
$node->safe_psql('three', q{INSERT INTO s VALUES ('three', 10)});
is(result('three'), 'three=3,13 x=1,3', 'moved');

# refused or failed commands leave everything as it was
my $visitor = session($node, 'one');
$visitor->query('SELECT 1');
my ($code) = sql_state($node, 'postgres', 'ALTER DATABASE one RENAME TO un');
is($code, '55006', 'a session in the way');
$visitor->close;
$node->safe_psql('postgres', 'CREATE ROLE nobody');
foreach my $sql ('DROP DATABASE one', 'ALTER DATABASE one RENAME TO un', 'ALTER DATABASE one SET TABLESPACE moved')
{
	my $pid = worker_pid($node, 'one');
	($code) = sql_state($node, 'postgres', "SET ROLE nobody; $sql");
	is($code, '42501', "not allowed: $sql");
	is(worker_pid($node, 'one'), $pid, 'and the worker did not even stop') if $pid;
}
$node->safe_psql('one', q{INSERT INTO s VALUES ('one', 100)});
is(result('one'), 'load=200,20100 one=4,113 x=1,3', 'nothing changed');

# ---- dropping ----

sql_at_once('DROP DATABASE copied');
sql_at_once('DROP DATABASE three WITH (FORCE)');
wait_for('slots to go', sub { return slots_of($node) eq '2' }, 30);
ok(1, 'dropped databases leave no slots');
is(result('one'), 'load=200,20100 one=4,113 x=1,3', 'other databases do not notice');

at_once('DROP EXTENSION, rolled back', 3, sub {
	$node->safe_psql('deux', 'BEGIN; DROP EXTENSION stream_ckpt CASCADE; ROLLBACK');
});
$node->safe_psql('deux', q{INSERT INTO s VALUES ('two', 20)});
is(result('deux'), 'bad=1,0 two=4,33 x=1,3', 'everything goes on');
at_once('DROP EXTENSION', 3, sub { $node->safe_psql('deux', 'DROP EXTENSION stream_ckpt CASCADE') });
wait_for('the slot to go', sub { return slots_of($node) eq '1' }, 30);
wait_for('the worker to go', sub { return worker_pid($node, 'deux') == 0 }, 30);
ok(1, 'a dropped extension leaves neither slot nor worker');
$node->safe_psql('deux', 'DROP TABLE IF EXISTS p, l; CREATE EXTENSION stream_ckpt');
populate_again('deux');
is(result('deux'), 'again=1,1', 'and can be made again');

sub populate_again
{
	my ($database) = @_;

	$node->safe_psql($database, q{SELECT stream_ckpt.create_stream('s', 'k text, v int');
SELECT stream_ckpt.create_pipeline('p', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');});
	$node->safe_psql($database, q{INSERT INTO s VALUES ('again', 1)});
	return;
}

# the last stream takes the slot with it
$node->safe_psql('deux', q{SELECT stream_ckpt.drop_stream('s', cascade => true)});
wait_for('the slot to go', sub { return slots_of($node) eq '1' }, 30);
ok(1, 'dropping the last stream lets the slot go');
$node->safe_psql('deux', 'BEGIN; SELECT stream_ckpt.create_stream($$gone$$, $$a int$$); ROLLBACK');
wait_for('the slot to go', sub { return slots_of($node) eq '1' }, 30);
ok(1, 'so does a stream that was never committed');
$node->safe_psql('deux', 'DROP TABLE IF EXISTS p; DROP TABLE IF EXISTS l');
populate_again('deux');
is(result('deux'), 'again=1,1', 'a stream after that works');

# while a session writes, the extension waits for it, and is gone after it
my $writer = session($node, 'deux');
$writer->query(q{BEGIN; INSERT INTO s VALUES ('late', 1)});
my $dropper = session($node, 'deux');
$dropper->send('DROP EXTENSION stream_ckpt CASCADE');
wait_for('the drop to wait', sub {
	return $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP EXTENSION%'}) eq '1';
}, 30);
$writer->query('COMMIT');
like($dropper->receive // 'lost', qr/NOTICE|^$/, 'the extension goes when the writer is done');
$_->close foreach $writer, $dropper;
wait_for('the slot to go', sub { return slots_of($node) eq '1' }, 30);

# ---- idle: the slot follows the log, and nothing is written ----

$node->safe_psql('postgres', 'CREATE TABLE filler (t text)');
$node->safe_psql('postgres', q{INSERT INTO filler SELECT repeat(md5(i::text), 100) FROM generate_series(1, 20000) i; DROP TABLE filler; SELECT pg_switch_wal()});
wait_for('the slot to follow unrelated log', sub {
	return $node->safe_psql('postgres',
		q{SELECT pg_current_wal_lsn() - restart_lsn < 40 * 1024 * 1024 FROM pg_replication_slots WHERE slot_name LIKE 'stream\_ckpt\_%'}) eq 't';
}, 60);
ok(1, 'the slot of an idle database follows the log');
$node->safe_psql('postgres', 'CHECKPOINT');
my $rows = $node->safe_psql('one', 'SELECT sum(checkpoint_id) FROM stream_ckpt.checkpoints');
my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
my $ticks = processor_ticks(worker_pid($node, 'one'));
usleep(1_500_000);
cmp_ok(processor_ticks(worker_pid($node, 'one')) - $ticks, '<=', 3, 'an idle worker takes no processor time');
cmp_ok($node->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() - '$lsn'"), '<', 4000, 'and an idle database writes nothing');
is($node->safe_psql('one', 'SELECT sum(checkpoint_id) FROM stream_ckpt.checkpoints'), $rows, 'nor takes checkpoints');

# ---- stop and start ----

foreach my $mode ('fast', 'immediate')
{
	my @writers = map { session($node, 'one') } 1 .. 2;
	$_->send(q{DO $$BEGIN FOR i IN 1..1000000 LOOP INSERT INTO s VALUES ('stopped', i); COMMIT; END LOOP; END$$}) foreach @writers;
	wait_for('rows', sub { return $node->safe_psql('one', q{SELECT count(*) FROM p WHERE k = 'stopped'}) eq '1' }, 60);
	at_once("pg_ctl stop -m $mode", $mode eq 'fast' ? 2.5 : 5, sub { $node->stop($mode) });
	$_->close foreach @writers;
	$node->start;
	like(result('one'), qr/^load=200,20100 one=4,113 stopped=\d+,\d+ x=1,3$/, 'the rest is as it was');
	is( $node->safe_psql('one', q{SELECT count(*) FROM (SELECT k, count(*), sum(v) FROM l GROUP BY k EXCEPT ALL TABLE p) x}),
		'0', 'two results agree');
}
is( $node->safe_psql('one', q{SELECT count(*) FROM (SELECT v FROM l WHERE k = 'stopped' GROUP BY v HAVING count(*) > 4) x}),
	'0', 'no row arrived twice');

# a worker that is told to end comes back
my $pid = worker_pid($node, 'one');
cmp_ok($pid, '>', 0, 'there is a worker');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_for('another worker', sub { my $new = worker_pid($node, 'one'); return $new && $new != $pid }, 30);
$node->safe_psql('one', q{INSERT INTO s VALUES ('one', 1000)});
like(result('one'), qr/one=5,1113/, 'and goes on');

# templates and databases that allow no connections are left alone
$node->safe_psql('postgres', 'ALTER DATABASE one WITH ALLOW_CONNECTIONS false');
$node->restart;
$node->safe_psql('postgres', 'ALTER DATABASE one WITH ALLOW_CONNECTIONS true');
like(result('one'), qr/one=5,1113/, 'a database that allows connections again goes on');

# ---- without the library preloaded, everything says so ----

$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
foreach my $sql (
	q{SELECT stream_ckpt.create_stream('t', 'a int')},
	q{SELECT stream_ckpt.create_pipeline('t', 'SELECT v FROM s')},
	q{SELECT stream_ckpt.checkpoint()},
	q{SELECT stream_ckpt.drop_pipeline('p')},
	q{INSERT INTO s VALUES ('x', 1)})
{
	($state, $message) = sql_state($node, 'one', $sql);
	is($state, '55000', "refused: $sql");
	like($message, qr/shared_preload_libraries/, 'naming the setting');
}
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "'stream_ckpt'");
$node->restart;
like(result('one'), qr/one=5,1113/, 'and with it, everything is there again');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal (?!9)/, 'no panic, no failed assertion');
$node->stop('fast');

# ---- too few of something ----

my $small = new_cluster('small',
	max_replication_slots => 1,
	max_wal_senders => 1,
	max_worker_processes => 2,
	max_parallel_workers => 0,
	max_logical_replication_workers => 0);
$small->safe_psql('postgres', q{CREATE DATABASE other});
$small->safe_psql('other', q{CREATE EXTENSION stream_ckpt});
$small->safe_psql('postgres', q{SELECT stream_ckpt.create_stream('s', 'a int'); SELECT stream_ckpt.create_pipeline('p', 'SELECT a FROM s')});
$small->safe_psql('postgres', q{INSERT INTO s VALUES (1)});
checkpoint($small);
($state, $message) = sql_state($small, 'other', q{SELECT stream_ckpt.create_stream('s', 'a int')});
is($state, '53400', 'no slot is left');
like($message, qr/max_replication_slots/, 'the error names the setting');
like($message, qr/\b2\b/, 'and the value it needs');
$small->adjust_conf('postgresql.conf', 'max_replication_slots', '10');
$small->append_conf('postgresql.conf', "max_replication_slots = 10\nmax_worker_processes = 1\n");
$small->restart;
($state, $message) = sql_state($small, 'postgres', q{SELECT stream_ckpt.checkpoint('10 s'::interval)});
isnt($state, '00000', 'no worker can start');
like($message, qr/max_worker_processes/, 'the error names the setting');
$small->append_conf('postgresql.conf', "max_worker_processes = 8\n");
$small->restart;
$small->safe_psql('postgres', q{INSERT INTO s VALUES (2)});
checkpoint($small);
is($small->safe_psql('postgres', 'SELECT string_agg(a::text, $$,$$ ORDER BY a) FROM p'), '1,2', 'and with enough, nothing was lost');
$small->stop('fast');
done_testing();
