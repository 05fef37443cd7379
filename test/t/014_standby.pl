# Standbys: results are readable there all along, and after a promotion
# pipelines go on with nothing lost or doubled, on a standby's own slot.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $primary = new_cluster('primary', 'autovacuum' => 'off');
$primary->safe_psql('postgres', q{
CREATE TABLE oracle (k int, v int);
SELECT stream_ckpt.create_stream('s', 'k int, v int');
SELECT stream_ckpt.create_stream('bulk', 't text');
SELECT stream_ckpt.create_pipeline('sums', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k', checkpoint_interval => '20 ms');
SELECT stream_ckpt.create_pipeline('copy', 'SELECT k, v FROM s', checkpoint_interval => '50 ms');
SELECT stream_ckpt.create_pipeline('later', 'SELECT k, count(*) AS n, max(v) AS v FROM s GROUP BY k');
});
$primary->safe_psql('postgres', 'CREATE DATABASE other');
$primary->safe_psql('postgres', 'CREATE DATABASE lost');

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
# nothing but the slot is to keep the log
$standby->append_conf('postgresql.conf', "wal_keep_size = 0\nmin_wal_size = '32MB'\nhot_standby_feedback = on\n");
$standby->start;

my %oracle = (
	sums => 'SELECT k, count(*) AS n, sum(v) AS v FROM oracle GROUP BY k',
	copy => 'SELECT k, v FROM oracle',
	later => 'SELECT k, count(*) AS n, max(v) AS v FROM oracle GROUP BY k');

sub check_results
{
	my ($node, $what, @names) = @_;

	foreach my $name (@names)
	{
		is( $node->safe_psql('postgres', qq{
			SELECT (SELECT count(*) FROM (TABLE $name EXCEPT ALL $oracle{$name}) x)
				+ (SELECT count(*) FROM ($oracle{$name} EXCEPT ALL TABLE $name) x)}),
			'0', "$what: $name");
	}
	return;
}

sub insert_rows
{
	my ($node, $key) = @_;

	$node->safe_psql('postgres', qq{BEGIN;
INSERT INTO s SELECT $key + i % 10, i FROM generate_series(1, 1000) i;
INSERT INTO oracle SELECT $key + i % 10, i FROM generate_series(1, 1000) i; COMMIT});
	return;
}

sub slot_of
{
	my ($node, $database) = @_;

	return $node->safe_psql('postgres', qq{SELECT restart_lsn FROM pg_replication_slots
		WHERE slot_name = 'stream_ckpt_' || (SELECT oid FROM pg_database WHERE datname = '$database')});
}

# ---- the standby's own slot ----

insert_rows($primary, 0);
checkpoint($primary);
wait_for('a slot on the standby', sub { return slot_of($standby, 'postgres') ne '' }, 60);
ok(1, 'a standby has a slot of its own');
wait_for('a worker on the standby', sub { return worker_pid($standby) != 0 }, 60);
$primary->wait_for_catchup($standby);
check_results($standby, 'on the standby', 'sums', 'copy', 'later');
is( $standby->safe_psql('postgres', 'SELECT count(*) FROM stream_ckpt.pipelines p JOIN stream_ckpt.tasks t USING (pipeline) JOIN stream_ckpt.checkpoint_summary USING (pipeline)'),
	'3', 'views can be read on the standby');
my ($state, $message) = sql_state($standby, 'postgres', 'INSERT INTO s VALUES (1, 1)');
is($state, '25006', 'a stream on a standby takes no rows');
($state, $message) = sql_state($standby, 'postgres', q{SELECT stream_ckpt.checkpoint()});
is($state, '25006', 'and there are no checkpoints');

# streams that the primary makes later, in other databases; databases that go
foreach my $database ('other', 'lost')
{
	$primary->safe_psql($database, q{CREATE EXTENSION stream_ckpt;
SELECT stream_ckpt.create_stream('s', 'a int'); SELECT stream_ckpt.create_pipeline('p', 'SELECT count(*) AS n, sum(a) AS a FROM s');
INSERT INTO s VALUES (1)});
	checkpoint($primary, $database);
}
wait_for('slots of new streams', sub { return slots_of($standby) eq '3' }, 60);
ok(1, 'streams made later have slots, too');
my $dropped = time();
$primary->safe_psql('postgres', 'DROP DATABASE lost');
$primary->safe_psql('other', q{SELECT stream_ckpt.create_stream('t', 'a int')});
wait_for('the slot of a dropped database to go', sub { return slots_of($standby) eq '2' }, 60);
cmp_ok(time() - $dropped, '<', 20, 'a dropped database does not hold up replay, and leaves no slot');

# ---- the slot keeps what a pipeline has not read, restartpoints or not ----

$primary->safe_psql('postgres', q{SELECT stream_ckpt.pause_pipeline('later')});
insert_rows($primary, 100);
foreach my $round (1 .. 3)
{
	$primary->safe_psql('postgres', q{INSERT INTO bulk SELECT repeat(md5(i::text), 100) FROM generate_series(1, 8000) i; SELECT pg_switch_wal(); CHECKPOINT});
	insert_rows($primary, 1000 * $round);
	checkpoint($primary);
	$primary->wait_for_catchup($standby);
	$standby->safe_psql('postgres', 'CHECKPOINT');
}
my $needed = $primary->safe_psql('postgres', q{SELECT p.restart FROM stream_ckpt.pipeline_position p JOIN stream_ckpt.pipeline_def d ON d.id = pipeline_id WHERE name = 'later'});
is($standby->safe_psql('postgres', qq{SELECT '@{[ slot_of($standby, 'postgres') ]}'::pg_lsn <= '$needed'}), 't', 'the slot holds the log of a paused pipeline');
is($standby->safe_psql('postgres', qq{SELECT pg_last_wal_replay_lsn() - '$needed' > 64 * 1024 * 1024}), 't', '... of some segments');
my $segment = $primary->safe_psql('postgres', qq{SELECT pg_walfile_name('$needed')});
ok(-e $standby->data_dir . "/pg_wal/$segment", 'which are there');
check_results($standby, 'the others go on', 'sums', 'copy');

# ---- a standby that starts again ----

$standby->stop('immediate');
insert_rows($primary, 200);
checkpoint($primary);
$standby->start;
$primary->wait_for_catchup($standby);
check_results($standby, 'after a restart', 'sums', 'copy');

# ---- readers on the standby always see results of one moment ----

$primary->safe_psql('postgres', q{SELECT stream_ckpt.create_pipeline('balances', 'SELECT k, sum(v) AS v FROM s WHERE k < 0 GROUP BY k', checkpoint_interval => '10 ms')});
my @writers = map { session($primary) } 1 .. 3;
foreach my $n (1 .. 3)
{
	# each transaction moves an amount from one account to another, and is in both the stream and the table
	$writers[ $n - 1 ]->send(qq{DO \$\$BEGIN FOR i IN 1..1000000 LOOP
		INSERT INTO s VALUES (-$n, i), (-(i % 5) - 4, -i); INSERT INTO oracle VALUES (-$n, i), (-(i % 5) - 4, -i);
		COMMIT; END LOOP; END\$\$});
}
my ($reads, $wrong) = (0, 0);
wait_for('reads on the standby', sub {
	my ($rc, $sum) = try_psql($standby, 'postgres', q{SELECT sum(v), count(*) FROM balances});
	return 0 if $rc != 0 || $sum !~ /^(-?\d+)\|/;
	$reads++;
	$wrong++ if $1 != 0;
	return $reads >= 50;
}, 120);
is($wrong, 0, "the balance is zero in $reads reads on the standby");

# ---- the primary dies while rows are inserted; the standby takes over ----

my @pids = split /\n/, $primary->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
$primary->kill9;
kill_pid('KILL', $_) foreach @pids;
$_->close foreach @writers;
$standby->promote;
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 'f', 'promoted');
$standby->safe_psql('postgres', q{SELECT stream_ckpt.resume_pipeline('later')});
checkpoint($standby);
check_results($standby, 'after the promotion', 'sums', 'copy', 'later');
is($standby->safe_psql('postgres', q{SELECT sum(v) = 0 AND count(*) = 8 FROM balances}), 't', 'balances');
insert_rows($standby, 300);
checkpoint($standby);
check_results($standby, 'going on', 'sums', 'copy', 'later');
$standby->safe_psql('other', 'INSERT INTO s VALUES (2)');
checkpoint($standby, 'other');
is($standby->safe_psql('other', 'TABLE p'), '2|3', 'other databases go on, too');
is( $standby->safe_psql('postgres', 'SELECT count(*) FROM stream_ckpt.pipelines WHERE status <> $$running$$'), '0', 'all of them run');

# and so does its own standby, with the timeline changed
$standby->backup('second');
my $next = PostgreSQL::Test::Cluster->new('next');
$next->init_from_backup($standby, 'second', has_streaming => 1);
$next->append_conf('postgresql.conf', 'wal_keep_size = 0');
$next->start;
insert_rows($standby, 400);
wait_for('a slot', sub { return slot_of($next, 'postgres') ne '' }, 60);
$standby->wait_for_catchup($next);
kill_server($standby);
$next->promote;
insert_rows($next, 500);
checkpoint($next);
check_results($next, 'promoted again', 'sums', 'copy', 'later');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal (?!9)/, 'no panic, no failed assertion') foreach $standby, $next;
done_testing();
