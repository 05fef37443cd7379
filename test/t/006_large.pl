# Rows much larger than a log record: fragments, and their limit.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $node = new_cluster('large',
	max_wal_size => "'1GB'",
	'stream_ckpt.log_memory' => "'1MB'",
	'stream_ckpt.state_memory' => "'1GB'");

$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.create_stream('s', 'id int, v text, w bytea');
SELECT stream_ckpt.create_pipeline('copied', 'SELECT id, v, w FROM s');
SELECT stream_ckpt.create_pipeline('lengths', 'SELECT length(v) AS l, count(*) AS n, max(md5(v)) AS md5 FROM s GROUP BY length(v)');
CREATE TABLE t (id int, v text, w bytea);
ALTER TABLE t ALTER COLUMN v SET STORAGE EXTERNAL;
-- compressing 100 MB takes its time
ALTER TABLE copied ALTER COLUMN v SET STORAGE EXTERNAL, ALTER COLUMN w SET STORAGE EXTERNAL;
-- that no compression makes small: 1 MB around the limit of a record, 3 MB, 5 MB
CREATE FUNCTION noise(bytes int) RETURNS text LANGUAGE sql AS
	$$SELECT substr(string_agg(md5(i::text || bytes), ''), 1, bytes) FROM generate_series(0, bytes / 32) i$$;
INSERT INTO t SELECT row_number() OVER (), noise(l), decode(noise(1000), 'hex')
FROM unnest(ARRAY[0, 1, 30000, 32767, 32768, 65536, 1048576 - 200, 1048576 - 100, 1048576 - 64, 1048576 - 32, 1048576, 1048577, 3000000, 5000000]) l;
SQL

sub same
{
	my ($when) = @_;

	checkpoint($node);
	is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE copied) x), (SELECT count(*) FROM (TABLE copied EXCEPT ALL TABLE t) x)'),
		'0|0', "same rows: $when");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT length(v) AS l, count(*) AS n, max(md5(v)) AS md5 FROM t GROUP BY length(v) EXCEPT ALL TABLE lengths) x'),
		'0', "same groups: $when");
	return;
}

$node->safe_psql('postgres', 'INSERT INTO s SELECT * FROM t');
same('around the size of a record');

# fragments of several writers between each other, one of which rolls back
my @sessions = map { session($node) } 1 .. 3;
$_->query('BEGIN') foreach @sessions;
foreach my $round (1 .. 2)
{
	foreach my $i (0 .. 2)
	{
		my $id = 100 + $i * 10 + $round;
		$sessions[$i]->send("INSERT INTO s SELECT $id, noise(4000000 + $id), NULL");
	}
	defined $_->receive or die 'lost' foreach @sessions;
}
$sessions[0]->query('COMMIT');
$sessions[1]->query('ROLLBACK');
$sessions[2]->query('SAVEPOINT a; INSERT INTO s SELECT 1, noise(3000000); ROLLBACK TO a; COMMIT');
$_->close foreach @sessions;
$node->safe_psql('postgres', 'INSERT INTO t SELECT id, noise(4000000 + id) FROM unnest(ARRAY[101, 102, 121, 122]) id');
same('fragments of several writers');

# a crash between the fragments of a row
my $writer = session($node);
$writer->query('BEGIN');
$writer->query('INSERT INTO s SELECT 1, noise(3000000)');
$writer->send('INSERT INTO s SELECT 1, noise(30000000)');
$node->stop('immediate');
$writer->close;
$node->start;
same('after a crash');

# 100 MB: noise, as far as the reader's memory of 1 MB is concerned
$node->safe_psql('postgres', <<'SQL');
SET work_mem = '1GB';
INSERT INTO s (id, v) SELECT 200, repeat(noise(1000003), 100);
INSERT INTO s (id, w) SELECT 201, convert_to(repeat(noise(1000003), 100), 'UTF8');
SQL
checkpoint($node);
is( $node->safe_psql('postgres', q{SELECT id, length(v), length(w), md5(coalesce(v, convert_from(w, 'UTF8'))) = md5(repeat(noise(1000003), 100)) FROM copied WHERE id >= 200 ORDER BY id}),
	"200|100000300||t\n201||100000300|t", '100 MB arrive as they were');
is( $node->safe_psql('postgres', 'SELECT n FROM lengths WHERE l = 100000300'), '1', 'and are counted');

# past 512 MB: refused, and nothing of it stays
my ($state, $message) = sql_state($node, 'postgres', q{INSERT INTO s VALUES (300, repeat('x', 300 * 1024 * 1024), convert_to(repeat('y', 300 * 1024 * 1024), 'UTF8'))});
is($state, '54000', 'a row over 512 MB is refused');
note $message;
$node->safe_psql('postgres', q{INSERT INTO s VALUES (301, 'small')});
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT id FROM copied WHERE id >= 300'), '301', 'and what follows it is not disturbed');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT status, ',') FROM stream_ckpt.pipelines}), 'running', 'all pipelines run');
$node->stop('fast');
done_testing();
