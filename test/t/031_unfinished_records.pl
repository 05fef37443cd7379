# A crash leaves a record unfinished at the end of a segment, and others are written where it would have gone on. Readers leave it out, and read on: those that
# want what it holds, and those that would have passed over it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $node = new_cluster('unfinished', wal_keep_size => "'64MB'", checkpoint_timeout => "'1h'", autovacuum => 'off');

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

# Rows of a stream that are never committed, into the next segment, flushed by the walwriter; then the crash, which loses that segment. There is nothing else in it:
# commits that are lost would leave their rows' pages behind.
sub crash_within
{
	my ($stream, $rows, $values) = @_;
	my $writer = session($node);

	# near the end of a segment: positions that pipelines note while nothing is for them are 16 MB of log apart
	sql(q{SELECT pg_switch_wal()});
	sql(q{SELECT pg_logical_emit_message(false, 'filler', repeat('x', 14 * 1024 * 1024))});
	sql(q{SELECT stream_ckpt.checkpoint(timeout => '1 min')});

	my $first = sql('SELECT pg_walfile_name(pg_current_wal_insert_lsn())');
	my $insert = "INSERT INTO $stream SELECT $values FROM generate_series(1, $rows) i";
	my $file;

	$writer->query('BEGIN');
	$writer->query($insert) until sql('SELECT pg_walfile_name(pg_current_wal_insert_lsn())') ne $first;
	wait_for('the walwriter', sub { return ($file = sql('SELECT pg_walfile_name(pg_current_wal_flush_lsn())')) ne $first }, 30);
	$node->stop('immediate');
	$writer->close;
	unlink $node->data_dir . "/pg_wal/$file" or die "could not remove segment $file: $!";
	$node->start;

	my ($output) = run_command([ $node->config_data('--bindir') . '/pg_waldump', '-p', $node->data_dir . '/pg_wal', '--rmgr=XLOG', $first, $file ]);
	like($output, qr/OVERWRITE_CONTRECORD/, "the log has an unfinished record in $first");
	return;
}

sql(q{SELECT stream_ckpt.create_stream('s', 'v int, t text'), stream_ckpt.create_stream('unread', 'v int, t text')});
sql(q{SELECT stream_ckpt.create_pipeline('sums', 'SELECT v % 10 AS k, count(*) AS n, sum(v) AS v FROM s GROUP BY 1')});
sql(q{SELECT stream_ckpt.create_pipeline('all_rows', 'SELECT v FROM s')});

my $result = q{SELECT (SELECT concat(sum(n), ' ', sum(v)) FROM sums), (SELECT concat(count(*), ' ', sum(v)) FROM all_rows)};
my $rows = 0;
my $sum = 0;

sub put
{
	my ($n) = @_;
	sql("INSERT INTO s SELECT i, 'put' FROM generate_series(1, $n) i");
	$rows += $n;
	$sum += $n * ($n + 1) / 2;
	return;
}

foreach my $stream ('s', 'unread')
{
	# small rows in records of 32 kB, and rows that are records of their own
	foreach my $data ([ 5000, 'i, repeat(md5(i::text), 3)' ], [ 5, q{i, (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 5000) j)} ])
	{
		put(1000);
		crash_within($stream, @$data);
		put(100);
		sql('SELECT stream_ckpt.checkpoint(timeout => \'1 min\')');
		is(sql($result), "$rows $sum|$rows $sum", "rows of \"$stream\" in it: every other row is there once");
	}
}

# what an open transaction wrote into a stream that nobody read is there for those who read it by the time that it commits
my $writer = session($node);
$writer->query(q{BEGIN; INSERT INTO unread SELECT i, 'open' FROM generate_series(1, 50000) i; SAVEPOINT a; INSERT INTO unread VALUES (1, 'sub'); RELEASE a});
put(10);
sql('SELECT stream_ckpt.checkpoint(timeout => \'1 min\')');
sql(q{SELECT stream_ckpt.create_pipeline('later', 'SELECT count(*) AS n, sum(v) AS v FROM unread')});
put(10);
sql('SELECT stream_ckpt.checkpoint(timeout => \'1 min\')');
is(sql('SELECT n FROM later'), '0', 'nothing of an open transaction');
$writer->query('COMMIT');
$writer->close;
sql('SELECT stream_ckpt.checkpoint(timeout => \'1 min\')');
is(sql('SELECT n, v FROM later'), '50001|1250025001', 'all of it, once it has committed');
is(sql($result), "$rows $sum|$rows $sum", 'the others saw their own');

my $log = slurp_file($node->logfile);
unlike($log, qr/could not read WAL record|PANIC|TRAP/, 'no reader met anything that it could not read');
$node->stop;
done_testing();
