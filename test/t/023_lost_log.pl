# max_slot_wal_keep_size takes log that several pipelines need: each that lost
# something fails and says what, by itself or when it is resumed; the others run.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $node = new_cluster('lost_log', max_slot_wal_keep_size => "'1MB'", wal_keep_size => 0, min_wal_size => "'32MB'",
	max_wal_size => "'1GB'", checkpoint_timeout => "'1h'");

sub sql { my ($sql, $database) = @_; return $node->safe_psql($database || 'postgres', $sql); }

sub column
{
	my ($pipeline, $column) = @_;
	return sql("SELECT $column FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
}

sql('CREATE DATABASE other');
sql(q{CREATE EXTENSION stream_ckpt; SELECT stream_ckpt.create_stream('s', 'v int'); SELECT stream_ckpt.create_pipeline('elsewhere', 'SELECT count(*) AS n FROM s');
	INSERT INTO s VALUES (1); SELECT stream_ckpt.checkpoint(); SELECT stream_ckpt.pause_pipeline('elsewhere'); INSERT INTO s VALUES (2)}, 'other');
sql(<<'SQL');
SELECT stream_ckpt.create_stream('s', 'v int');
SELECT stream_ckpt.create_pipeline(name, 'SELECT count(*) AS n, sum(v) AS v FROM s') FROM (VALUES ('first'), ('second'), ('late'), ('running')) x(name);
SELECT stream_ckpt.create_pipeline('failed', 'SELECT sum(1 / v) AS v, count(*) AS n FROM s');
INSERT INTO s VALUES (1);
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.pause_pipeline('first');
INSERT INTO s VALUES (2);
SELECT stream_ckpt.checkpoint();
SELECT stream_ckpt.pause_pipeline('second');
INSERT INTO s VALUES (0);
SQL
wait_for('a bad row', sub { return column('failed', 'status') eq 'failed' }, 30);

sub lose
{
	# no checkpoint but ours: one that comes too early takes what the others have not read yet
	sql(q{CREATE TABLE IF NOT EXISTS filler AS SELECT i, repeat('x', 500) AS t FROM generate_series(1, 20000) i});
	foreach my $i (1 .. 3)
	{
		sql(q{UPDATE filler SET i = i + 1});
		sql(q{SELECT pg_switch_wal()});
		sql(q{INSERT INTO s VALUES (1); SELECT stream_ckpt.checkpoint()});
		sql('CHECKPOINT');
	}
	return;
}
lose();
sql(q{SELECT stream_ckpt.pause_pipeline('late')});
foreach my $pipeline (qw(first second))
{
	wait_for("the loss of $pipeline", sub { return column($pipeline, 'status') eq 'failed' }, 60);
	like(column($pipeline, 'error'),
		qr{the log that pipeline "$pipeline" needs is gone\. It has read up to [0-9A-F]+/[0-9A-F]+ and needs the log from [0-9A-F]+/[0-9A-F]+ on, which is there from [0-9A-F]+/[0-9A-F]+ on},
		"$pipeline: a paused one fails, and says what it has lost");
}
isnt(column('first', q{substring(error FROM 'read up to ([0-9A-F/]+)')}), column('second', q{substring(error FROM 'read up to ([0-9A-F/]+)')}), 'each has lost its own');
like(column('failed', 'error'), qr/division by zero/, 'one that had failed keeps its reason');
is(column('late', 'status') . column('running', 'status'), 'pausedrunning', 'one that was paused later has lost nothing');
foreach my $pipeline (qw(first second failed))
{
	my ($state, $message) = sql_state($node, 'postgres', "SELECT stream_ckpt.resume_pipeline('$pipeline')");
	is($state, '55000', "$pipeline does not resume by itself");
	like($message, qr/the log that pipeline "$pipeline" needs is gone.*accept_gap => true/s, "$pipeline: and says how it would");
}
is(sql("SELECT string_agg(status, ' ' ORDER BY status) FROM stream_ckpt.pipelines"), 'failed failed failed paused running', 'nothing else changes by that');
wait_for('the loss in another database', sub { return sql('SELECT status FROM stream_ckpt.pipelines', 'other') eq 'failed' }, 60);
like(sql('SELECT error FROM stream_ckpt.pipelines', 'other'), qr/the log that pipeline "elsewhere" needs is gone/, 'of another database, too');
my ($state) = sql_state($node, 'other', q{SELECT stream_ckpt.resume_pipeline('elsewhere')});
is($state, '55000', 'nor does that resume');

# it is still known after a crash
$node->stop('immediate');
$node->start;
sql(q{SELECT stream_ckpt.checkpoint()});
is(sql("SELECT string_agg(status, ' ' ORDER BY status) FROM stream_ckpt.pipelines"), 'failed failed failed paused running', 'a crash changes nothing');

# one accepts the gap, the others do not
sql(q{SELECT stream_ckpt.resume_pipeline('second', accept_gap => true); INSERT INTO s VALUES (5); SELECT stream_ckpt.checkpoint('second')});
is(sql('TABLE second'), '3|8', 'one goes on with its state and what comes');
is(column('first', 'status'), 'failed', 'the others wait for a word of their own');
sql(q{SELECT stream_ckpt.resume_pipeline('late'); SELECT stream_ckpt.checkpoint('late')});
is(sql('TABLE late'), sql('TABLE running'), 'who has lost nothing has all rows');
sql(q{SELECT stream_ckpt.resume_pipeline('failed', accept_gap => true); INSERT INTO s VALUES (1); SELECT stream_ckpt.checkpoint()});
is(sql('SELECT v FROM failed'), '2', 'a bad row in the gap is over');

# lost again: the one that is still there, and a paused one that was in order meanwhile
sql(q{SELECT stream_ckpt.pause_pipeline('second'); INSERT INTO s VALUES (7)});
lose();
wait_for('a second loss', sub { return column('second', 'status') eq 'failed' }, 60);
sql(q{SELECT stream_ckpt.resume_pipeline('first', accept_gap => true), stream_ckpt.resume_pipeline('second', accept_gap => true); INSERT INTO s VALUES (9); SELECT stream_ckpt.checkpoint()});
is(sql('TABLE first'), '2|10', 'a gap as long as two');
is(sql("SELECT count(*) FROM stream_ckpt.pipelines WHERE status = 'running'"), '5', 'all run');

# drop_pipeline() is the other way out
sql(q{SELECT stream_ckpt.drop_pipeline('elsewhere')}, 'other');
is(sql('SELECT count(*) FROM stream_ckpt.pipelines', 'other'), '0', 'what has lost its log can be dropped');

$node->stop('fast');
done_testing();
