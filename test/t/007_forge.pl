# A role without INSERT on a stream cannot write to it through the log: what
# SQL can put there is not taken for rows, whatever it looks like.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $node = new_cluster('forge', 'stream_ckpt.checkpoint_interval' => "'1h'");

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE forger LOGIN;
SELECT stream_ckpt.create_stream('s', 'a int, b text');
SELECT stream_ckpt.create_pipeline('p', 'SELECT a, b FROM s');
SELECT stream_ckpt.create_pipeline('g', 'SELECT b, count(*) AS n FROM s GROUP BY b');
SELECT stream_ckpt.checkpoint();
SQL
my $start = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$node->safe_psql('postgres', q{INSERT INTO s VALUES (1, 'honest')});
$node->safe_psql('postgres', 'CHECKPOINT');
my $end = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');

# the honest record, as it stands in the log
my $file = $node->data_dir . '/pg_wal/'
  . $node->safe_psql('postgres', "SELECT pg_walfile_name('$start')");
my $offset = $node->safe_psql('postgres', "SELECT (pg_walfile_name_offset('$start')).file_offset");
my $bytes = $node->safe_psql('postgres', "SELECT ('$end'::pg_lsn - '$start'::pg_lsn)::int");
open my $fh, '<:raw', $file or die "$file: $!";
seek $fh, $offset, 0;
read $fh, my($wal), $bytes;
close $fh;
my $position = index($wal, 'honest');
cmp_ok($position, '>', 0, 'the row is in the log');
# the prefix ends in NULs and starts with printable characters
my ($prefix) = substr($wal, 0, $position) =~ /(stream_ckpt[^\0]*)\0/;
ok(defined $prefix, 'so is a prefix');
my $payload = unpack 'H*', substr($wal, index($wal, $prefix) + 24, $position - index($wal, $prefix));

# everything that a role without INSERT can send
my $forger = sub {
	my ($sql) = @_;
	return $node->psql('postgres', $sql, extra_params => [ '-U', 'forger' ]);
};
my ($rc, undef, $stderr) = $forger->(q{INSERT INTO public.s VALUES (2, 'forged')});
isnt($rc, 0, 'the role may not insert');
like($stderr, qr/permission denied/, 'and is told so');

my @prefixes = ($prefix, "${prefix}x", 'stream_ckpt', substr($prefix, 0, length($prefix) - 1), '', $prefix x 2, $prefix . ' ' x (23 - length $prefix), 'x' x 23);
foreach my $transactional ('true', 'false')
{
	foreach my $try (@prefixes)
	{
		foreach my $cut (0, 2, 16, 40)
		{
			my $content = substr($payload, $cut);
			$content =~ s/@{[ unpack 'H*', 'honest' ]}/@{[ unpack 'H*', 'forged' ]}/;
			my ($code, undef, $error) =
			  $forger->("SELECT pg_logical_emit_message($transactional, '$try', '\\x$content'::bytea)");
			die $error if $code != 0;
		}
	}
	# escapes that might smuggle a NUL
	foreach my $escape (q{E'stream_ckpt\\000x'}, q{U&'stream_ckpt\\0000x'}, q{convert_from('\\x73747265616d5f636b707400', 'UTF8')})
	{
		my ($code) = $forger->("SELECT pg_logical_emit_message($transactional, $escape, '\\x00'::bytea)");
		isnt($code, 0, "no NUL in a prefix by $escape");
	}
}

# internals are out of reach
foreach my $sql (
	'SELECT stream_ckpt.checkpoint()',
	q{SELECT stream_ckpt.drop_stream('public.s')},
	'UPDATE stream_ckpt.pipelines SET status = $$failed$$',
	q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots},
	q{SET stream_ckpt.fault = 'barrier:kill'})
{
	my ($code) = $forger->($sql);
	isnt($code, 0, "refused: $sql");
}
my (undef, $tables) = $forger->(
	q{SELECT string_agg(c.relname, ',') FROM pg_class c WHERE relnamespace = 'stream_ckpt'::regnamespace AND relkind = 'r'
	  AND (has_table_privilege(c.oid, 'INSERT') OR has_table_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE') OR has_table_privilege(c.oid, 'TRUNCATE'))});
is($tables, '', 'no table of the extension can be written');

$node->safe_psql('postgres', q{INSERT INTO s VALUES (3, 'honest')});
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT a, b FROM p ORDER BY a'), "1|honest\n3|honest", 'only honest rows arrived');
is($node->safe_psql('postgres', 'SELECT b, n FROM g'), 'honest|2', 'and were counted');
is($node->safe_psql('postgres', 'SELECT sum(restarts) FROM stream_ckpt.pipelines'), '0', 'nothing had to restart');

# neither do crash recovery and pg_waldump mind our records
$node->stop('immediate');
$node->start;
checkpoint($node);
is($node->safe_psql('postgres', 'SELECT b, n FROM g'), 'honest|2', 'the same after recovery');
my $dump = $node->data_dir;
command_ok([ $node->installed_command('pg_waldump'), '-p', "$dump/pg_wal", '-s', $start, '-e', $end, '-r', 'LogicalMessage' ],
	'pg_waldump reads the records');
$node->stop('fast');
done_testing();
