# Failures that pass, and failures that do not: back-off, neighbours that do
# not notice, and log that is lost.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time);

my $node = new_cluster('failures', max_slot_wal_keep_size => "'1MB'", wal_keep_size => 0, min_wal_size => "'32MB'",
	max_wal_size => "'1GB'", checkpoint_timeout => "'1h'");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub column
{
	my ($pipeline, $column) = @_;
	return sql("SELECT $column FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
}

# ---- Transient errors: again from the last checkpoint, later and later ----

sql(<<'SQL');
SELECT stream_ckpt.create_stream('s', 'v int');
CREATE TABLE failure (code text);
CREATE FUNCTION fails(v int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE c text;
BEGIN
	SELECT code INTO c FROM failure;
	IF c IS NOT NULL THEN RAISE EXCEPTION 'failure %', c USING ERRCODE = c; END IF;
	RETURN v;
END$$;
SELECT stream_ckpt.create_pipeline('sums', 'SELECT sum(fails(v)) AS v, count(*) AS n FROM s', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('copies', 'SELECT fails(v) AS v FROM s', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('healthy', 'SELECT sum(v) AS v, count(*) AS n FROM s');
SELECT stream_ckpt.checkpoint();
SQL
my $rows = 0;
foreach my $code ('40001', '40P01', '55P03', '53100', '57014', '08006')
{
	my $before = column('sums', 'restarts');

	sql("INSERT INTO failure VALUES ('$code'); INSERT INTO s SELECT generate_series(1, 10)");
	$rows += 10;
	wait_for("restarts after $code", sub { return column('sums', 'restarts') >= $before + 2 }, 30);
	like(column('sums', "status || ' ' || coalesce(error, '')"), qr/^(restarting|starting|running) .*failure $code/, "$code restarts a pipeline, which says why");
	wait_for("$code in a checkpoint", sub { return column('copies', q{coalesce(error, '')}) =~ /failure $code/ }, 30);
	sql(q{SELECT stream_ckpt.checkpoint('healthy')});
	is(sql('SELECT n FROM healthy'), $rows, "another one goes on after $code");
	sql(q{DELETE FROM failure; SELECT stream_ckpt.checkpoint()});
	is(sql('SELECT n, v FROM sums'), $rows . '|' . $rows / 10 * 55, "its result is right after $code");
	is(sql('SELECT count(*), sum(v) FROM copies'), $rows . '|' . $rows / 10 * 55, "and without state");
}
is(sql('SELECT count(*) FROM stream_ckpt.dead_letters'), '0', 'no row is blamed for it');
cmp_ok(sql(q{SELECT count(*) FROM stream_ckpt.restores WHERE cause LIKE 'failure%'}), '>=', 6, 'restores tell the cause');

# an error that is neither stops the pipeline, whatever on_error says
sql(q{INSERT INTO failure VALUES ('42883'); INSERT INTO s VALUES (1)});
wait_for('the end', sub { return column('sums', 'status') eq 'failed' }, 30);
like(column('sums', 'error'), qr/failure 42883/, 'any other error stops it');
sql(q{DELETE FROM failure; SELECT stream_ckpt.resume_pipeline('sums'); SELECT stream_ckpt.resume_pipeline('copies'); SELECT stream_ckpt.checkpoint()});
is(sql('SELECT n FROM sums'), ++$rows, 'and nothing is lost');

# ---- Errors in a loop do not slow the others down ----

sub insert_and_wait
{
	my $start = time();

	foreach my $i (1 .. 10)
	{
		sql(q{INSERT INTO s SELECT generate_series(1, 100); SELECT stream_ckpt.checkpoint('healthy')});
		$rows += 100;
	}
	return time() - $start;
}
my $alone = insert_and_wait();
foreach my $code ('40001', '22012')
{
	sql("INSERT INTO failure VALUES ('$code')");
	my $beside = insert_and_wait();
	cmp_ok($beside, '<', $alone + 3, sprintf('beside errors %s in a loop: %.1f s, without: %.1f s', $code, $beside, $alone));
	is(sql('SELECT n FROM healthy'), $rows, 'with the right result');
	sql(q{SELECT stream_ckpt.checkpoint('sums'), stream_ckpt.checkpoint('copies')}) if $code eq '22012';
	sql(q{DELETE FROM failure; SELECT stream_ckpt.checkpoint()});
}
is(sql('SELECT n FROM sums'), $rows - 1000, 'what was bad is in the dead letters');
is(sql(q{SELECT stream_ckpt.retry_dead_letters('sums') + stream_ckpt.retry_dead_letters('copies')}), '2000', 'all of it');
sql(q{SELECT stream_ckpt.checkpoint()});
is(sql('SELECT n, (SELECT count(*) FROM copies) FROM sums'), "$rows|$rows", 'and comes back');

# ---- Log that is lost ----

sql(q{SELECT stream_ckpt.create_pipeline('paused', 'SELECT count(*) AS n, max(v) AS top FROM s'); SELECT stream_ckpt.checkpoint();
	INSERT INTO s VALUES (1000); SELECT stream_ckpt.checkpoint(); SELECT stream_ckpt.pause_pipeline('paused')});
sql(q{INSERT INTO s VALUES (2000)});
# no checkpoint but ours: one that comes too early takes what the others have not read yet
sql(q{CREATE TABLE filler AS SELECT i, repeat('x', 500) AS t FROM generate_series(1, 20000) i});
foreach my $i (1 .. 3)
{
	sql(q{UPDATE filler SET i = i + 1});
	sql(q{SELECT pg_switch_wal()});

	# the others have read everything, and stored that
	sql(q{INSERT INTO s VALUES (2001)});
	sql(q{SELECT stream_ckpt.checkpoint()});
	sql(q{CHECKPOINT});
}
wait_for('the loss to be noticed', sub { return column('paused', 'status') eq 'failed' }, 60);
my $error = column('paused', 'error');
like($error, qr{the log that pipeline "paused" needs is gone\. It has read up to [0-9A-F]+/[0-9A-F]+ and needs the log from [0-9A-F]+/[0-9A-F]+ on, which is there from [0-9A-F]+/[0-9A-F]+ on},
	'a pipeline whose log is lost fails, and says what is');
is(sql(q{SELECT count(*) FROM stream_ckpt.pipelines WHERE status = 'running'}), '3', 'the others run');
my ($state, $message) = sql_state($node, 'postgres', q{SELECT stream_ckpt.resume_pipeline('paused')});
is($state, '55000', 'it does not resume by itself');
like($message, qr/accept_gap => true/, 'but says how it would');
is(column('paused', 'status'), 'failed', 'and stays as it was');

# a transaction that is open belongs to the gap
my $open = session($node);
$open->query('BEGIN; INSERT INTO s VALUES (3000)');
my $resuming = session($node);
$resuming->send(q{SELECT stream_ckpt.resume_pipeline('paused', true)});
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%resume_pipeline%' AND pid <> pg_backend_pid()});
$open->query('INSERT INTO s VALUES (3001); COMMIT');
like($resuming->receive, qr{goes on without the rows of transactions that committed after}, 'accepting the gap says what it is');
sql(q{INSERT INTO s VALUES (50); SELECT stream_ckpt.checkpoint()});
is(sql('SELECT n, top FROM paused'), '2|1000', 'it goes on with its state, without what was lost');
is(sql(q{SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'stream_ckpt%' AND restart_lsn IS NOT NULL}), '1', 'there is a slot again');
$open->close;
$resuming->close;
sql(q{SELECT stream_ckpt.pause_pipeline('paused'); SELECT stream_ckpt.resume_pipeline('paused', accept_gap => true); INSERT INTO s VALUES (51); SELECT stream_ckpt.checkpoint()});
is(sql('SELECT n FROM paused'), '3', 'where nothing is lost, accepting a gap loses nothing');
$node->stop('immediate');
$node->start;
sql(q{INSERT INTO s VALUES (52); SELECT stream_ckpt.checkpoint()});
is(sql('SELECT n FROM paused'), '4', 'nor does a crash');

$node->stop('fast');
done_testing();
