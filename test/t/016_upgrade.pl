# Upgrades: every released version of the extension, updated, ends in the same
# catalog as a fresh installation; and pg_upgrade brings everything along.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $old = new_cluster('old');

# ---- the extension's versions ----

# All that a script makes, as text, without oids.
my $catalog = q{
WITH member AS (
	SELECT d.classid, d.objid, d.objsubid FROM pg_depend d
	JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
	WHERE e.extname = 'stream_ckpt' AND d.deptype = 'e'),
relation AS (SELECT c.* FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid)
SELECT 'member ' || pg_describe_object(classid, objid, objsubid) || ': ' ||
	coalesce(obj_description(objid, classid::regclass::text), '') AS line FROM member
UNION ALL SELECT 'relation ' || oid::regclass || ' ' || relkind::text || ' ' || coalesce(reloptions::text, '') || ' ' || coalesce(relacl::text, '') FROM relation
UNION ALL SELECT 'column ' || attrelid::regclass || ' ' || attnum || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' ' ||
	attidentity::text || attcompression::text || ' ' || coalesce(pg_get_expr(adbin, adrelid), '')
	FROM pg_attribute a JOIN relation r ON r.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'view ' || oid::regclass || ' ' || pg_get_viewdef(oid) FROM relation WHERE relkind = 'v'
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN relation r ON r.oid = conrelid
UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index JOIN relation r ON r.oid = indrelid
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN relation r ON r.oid = tgrelid
UNION ALL SELECT 'function ' || CASE WHEN prokind = 'a' THEN p.oid::regprocedure::text ELSE pg_get_functiondef(p.oid) END || coalesce(proacl::text, '') FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
UNION ALL SELECT 'dumped ' || c::regclass || ' ' || condition FROM pg_extension e, unnest(extconfig, extcondition) u(c, condition) WHERE extname = 'stream_ckpt'
UNION ALL SELECT 'version ' || extversion FROM pg_extension WHERE extname = 'stream_ckpt'
ORDER BY 1};

my $fresh = $old->safe_psql('postgres', $catalog);
cmp_ok(length($fresh), '>', 10000, 'the catalog of a fresh installation');
my @scripts = glob('sql/stream_ckpt--*.sql');
@scripts = glob("$ENV{TESTDIR}/sql/stream_ckpt--*.sql") if !@scripts && $ENV{TESTDIR};
my @versions = map { /stream_ckpt--([\d.]+)\.sql$/ ? $1 : () } @scripts;
cmp_ok(scalar @versions, '>=', 1, "versions with a script of their own: @versions");
foreach my $version (@versions)
{
	my $database = "from_$version";

	$old->safe_psql('postgres', qq{CREATE DATABASE "$database"});
	$old->safe_psql($database, qq{CREATE EXTENSION stream_ckpt VERSION '$version'});

	# one step at a time too, if there are any
	my $path = $old->safe_psql($database, qq{SELECT path FROM pg_extension_update_paths('stream_ckpt')
		WHERE source = '$version' AND target = (SELECT default_version FROM pg_available_extensions WHERE name = 'stream_ckpt')});
	foreach my $step (split /--/, $path)
	{
		$old->safe_psql($database, qq{ALTER EXTENSION stream_ckpt UPDATE TO '$step'});
	}
	$old->safe_psql($database, 'ALTER EXTENSION stream_ckpt UPDATE');
	ok($old->safe_psql($database, $catalog) eq $fresh, "$version, updated, is as a fresh installation");

	# and the test would notice if it were not
	$old->safe_psql($database, 'ALTER EXTENSION stream_ckpt DROP VIEW stream_ckpt.dead_letters');
	ok($old->safe_psql($database, $catalog) ne $fresh, 'a difference is seen');
	$old->safe_psql('postgres', qq{DROP DATABASE "$database"});
}

# ---- pg_upgrade ----

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init(allows_streaming => 1, extra => [ '--locale=C', '--encoding=UTF8' ]);
$new->append_conf('postgresql.conf', "shared_preload_libraries = 'stream_ckpt'\nmax_worker_processes = 20\nstream_ckpt.checkpoint_interval = '50ms'");

$old->safe_psql('postgres', q{
CREATE TABLE oracle (k text, v numeric);
SELECT stream_ckpt.create_stream('s', 'gone int, k text, v numeric');
ALTER FOREIGN TABLE s DROP COLUMN gone;
SELECT stream_ckpt.create_pipeline('sums', 'SELECT k, count(*) AS n, sum(v) AS v, avg(v) AS a FROM s GROUP BY k');
SELECT stream_ckpt.create_pipeline('copy', 'SELECT k, v FROM s');
SELECT stream_ckpt.create_pipeline('total', 'SELECT count(DISTINCT k) AS n, min(v) AS v FROM s');
});

my %oracle = (
	sums => 'SELECT k, count(*) AS n, sum(v) AS v, avg(v) AS a FROM oracle GROUP BY k',
	copy => 'SELECT k, v FROM oracle',
	total => 'SELECT count(DISTINCT k) AS n, min(v) AS v FROM oracle');

sub insert_and_check
{
	my ($node, $what) = @_;

	$node->safe_psql('postgres', q{BEGIN;
INSERT INTO s SELECT 'k' || i % 13, i / 7.0 FROM generate_series(1, 2000) i;
INSERT INTO oracle SELECT 'k' || i % 13, i / 7.0 FROM generate_series(1, 2000) i; COMMIT});
	checkpoint($node);
	foreach my $name (sort keys %oracle)
	{
		is( $node->safe_psql('postgres', qq{
			SELECT (SELECT count(*) FROM (TABLE $name EXCEPT ALL $oracle{$name}) x)
				+ (SELECT count(*) FROM ($oracle{$name} EXCEPT ALL TABLE $name) x)}),
			'0', "$what: $name");
	}
	return;
}

insert_and_check($old, 'before');
$old->stop;
my $bin = $old->config_data('--bindir');
my $dir = PostgreSQL::Test::Utils::tempdir();

chdir $dir or die $!;
command_ok(
	[
		'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $bin, '-B', $bin, '-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');
$new->start;
insert_and_check($new, 'after pg_upgrade');
is($new->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.pipelines WHERE status = 'running'}), '3', 'all pipelines run');
ok($new->safe_psql('postgres', $catalog) eq $fresh, 'the catalog is as it was');
my ($state) = sql_state($new, 'postgres', 'ALTER FOREIGN TABLE s DROP COLUMN v');
is($state, '2BP01', 'columns are known');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion') foreach $old, $new;
done_testing();
