# Base backups and point-in-time recovery: pipelines go on where the database
# was, or say which segments of the log are missing.

use strict;
use warnings FATAL => 'all';

use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1, has_archiving => 1, extra => [ '--locale=C', '--encoding=UTF8' ]);
$primary->append_conf('postgresql.conf', q{
shared_preload_libraries = 'stream_ckpt'
stream_ckpt.checkpoint_interval = '50ms'
max_worker_processes = 20
autovacuum = off
min_wal_size = '32MB'
});
$primary->start;
$primary->safe_psql('postgres', q{
CREATE EXTENSION stream_ckpt;
CREATE TABLE oracle (k int, v int);
SELECT stream_ckpt.create_stream('s', 'k int, v int');
SELECT stream_ckpt.create_stream('quiet', 'a int');
SELECT stream_ckpt.create_pipeline('sums', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');
SELECT stream_ckpt.create_pipeline('copy', 'SELECT k, v FROM s');
SELECT stream_ckpt.create_pipeline('idle', 'SELECT count(*) AS n, sum(a) AS a FROM quiet');
SELECT stream_ckpt.create_pipeline('idle_too', 'SELECT a FROM quiet');
INSERT INTO quiet VALUES (1), (2);
});

my %oracle = (
	sums => 'SELECT k, count(*) AS n, sum(v) AS v FROM oracle GROUP BY k',
	copy => 'SELECT k, v FROM oracle');

sub check_results
{
	my ($node, $what) = @_;

	foreach my $name (sort keys %oracle)
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

# A restored server goes on.
sub check_restored
{
	my ($node, $what) = @_;

	checkpoint($node);
	check_results($node, $what);
	insert_rows($node, 50000);
	$node->safe_psql('postgres', 'INSERT INTO quiet VALUES (3)');
	checkpoint($node);
	check_results($node, "$what, with new rows");
	is($node->safe_psql('postgres', 'TABLE idle'), '3|6', "$what: idle");
	is($node->safe_psql('postgres', q{SELECT string_agg(a::text, ' ' ORDER BY a) FROM idle_too}), '1 2 3', "$what: idle, without grouping");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM stream_ckpt.pipelines WHERE status <> $$running$$'), '0', "$what: all run");
	return;
}

insert_rows($primary, 0);
checkpoint($primary);
my $idle = $primary->safe_psql('postgres', q{SELECT position FROM stream_ckpt.pipeline_position p JOIN stream_ckpt.pipeline_def d ON d.id = pipeline_id WHERE name = 'idle'});

# ---- a base backup by itself, of a server on which nothing happens ----

# takes longer than a second: the worker notes after the backup's start that these pipelines are idle
$primary->backup('alone', backup_options => ['--max-rate=12M']);
is( $primary->safe_psql('postgres', qq{SELECT pg_walfile_name(position) = pg_walfile_name('$idle'), pg_walfile_name('$idle') < pg_walfile_name(pg_current_wal_lsn())
	FROM stream_ckpt.pipeline_position p JOIN stream_ckpt.pipeline_def d ON d.id = pipeline_id WHERE name = 'idle'}),
	't|t', 'the position of an idle pipeline is before the backup');
my $alone = PostgreSQL::Test::Cluster->new('alone');
$alone->init_from_backup($primary, 'alone');
$alone->append_conf('postgresql.conf', 'archive_mode = off');
$alone->start;
check_restored($alone, 'a base backup alone');
like(slurp_file($alone->logfile), qr/pipeline "idle" goes on from .*\n.*has nothing for it/, 'and the log says so');

# ... which is remembered
kill_server($alone);
start_again($alone);
checkpoint($alone);
check_results($alone, 'after a crash');
$alone->stop('fast');

# the note neither keeps an idle server busy nor is written twice
my $before = $primary->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
usleep_for(1.5);
cmp_ok($primary->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() - '$before'"), '<', 2000, 'an idle server writes no more notes');

# Nothing is there to be waited for: nothing is to happen.
sub usleep_for
{
	select(undef, undef, undef, $_[0]);
	return;
}

# ---- to a point in time ----

my $writer = session($primary);
$writer->send(q{DO $$BEGIN FOR i IN 1..1000000 LOOP INSERT INTO s VALUES (i % 7, i); INSERT INTO oracle VALUES (i % 7, i); COMMIT; END LOOP; END$$});
$primary->backup('busy');
insert_rows($primary, 100);
$primary->safe_psql('postgres', q{SELECT pg_create_restore_point('here')});
insert_rows($primary, 200);
kill_pid('TERM', $primary->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO %'}));
$writer->close;
checkpoint($primary);
check_results($primary, 'the primary');
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
$primary->poll_query_until('postgres', 'SELECT last_archived_wal IS NOT NULL AND last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) FROM pg_stat_archiver')
  or die 'nothing was archived';

foreach my $action ('promote', 'pause')
{
	my $node = PostgreSQL::Test::Cluster->new("point_$action");
	$node->init_from_backup($primary, 'busy', has_restoring => 1, standby => 0);
	$node->append_conf('postgresql.conf', "recovery_target_name = 'here'\nrecovery_target_action = '$action'\narchive_mode = off");
	$node->start;
	if ($action eq 'pause')
	{
		$node->poll_query_until('postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'}) or die 'recovery does not pause';
		like($node->safe_psql('postgres', 'SELECT count(*) FROM sums'), qr/^[1-9]/, 'results can be read while recovery pauses');
		$node->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	}
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
	is($node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE k BETWEEN 100 AND 109), count(*) FILTER (WHERE k BETWEEN 200 AND 209) FROM oracle'),
		'1000|0', "$action: recovered to the point");
	check_restored($node, "point in time, $action");
	$node->stop('fast');
}

# ---- log that a pipeline needs is not in the backup: it says which, and goes on when it is there ----

$primary->safe_psql('postgres', q{SELECT stream_ckpt.pause_pipeline('copy')});
insert_rows($primary, 300);
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
insert_rows($primary, 400);
$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
insert_rows($primary, 500);
checkpoint($primary);
my ($from, $to) = split /\|/, $primary->safe_psql('postgres', q{SELECT pg_walfile_name(p.restart), pg_walfile_name(pg_current_wal_lsn())
	FROM stream_ckpt.pipeline_position p JOIN stream_ckpt.pipeline_def d ON d.id = pipeline_id WHERE name = 'copy'});
$primary->backup('gap', backup_options => ['--max-rate=12M']);
my $gap = PostgreSQL::Test::Cluster->new('gap');
$gap->init_from_backup($primary, 'gap');
$gap->append_conf('postgresql.conf', 'archive_mode = off');
$gap->start;
wait_for('the pipeline to fail', sub {
	return $gap->safe_psql('postgres', q{SELECT status FROM stream_ckpt.pipelines WHERE pipeline = 'copy'}) eq 'failed';
}, 60);
like($gap->safe_psql('postgres', q{SELECT error FROM stream_ckpt.pipelines WHERE pipeline = 'copy'}),
	qr/the log that pipeline "copy" needs is gone.*Missing: $from to $to\./, 'the error names the missing segments');
foreach my $file (glob($primary->archive_dir . '/0*'))
{
	my ($name) = $file =~ /([0-9A-F]{24})$/ or next;
	my $path = $gap->data_dir . "/pg_wal/$name";

	next if $name lt $from || $name gt $to || -e $path;
	copy($file, $path) or die "cannot copy $file: $!";
	chmod 0600, $path;
}
$gap->safe_psql('postgres', q{SELECT stream_ckpt.resume_pipeline('copy'); CHECKPOINT});
check_restored($gap, 'with the segments copied from the archive');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion') foreach $primary, $alone, $gap;
done_testing();
