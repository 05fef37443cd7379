# ALTER EXTENSION stream_ckpt UPDATE under running pipelines, into a version
# that the loaded library does not know, and back: nothing is done meanwhile,
# nothing is lost, and everybody is told why.
#
# The other version exists only here: its scripts are in a copy of the
# installation, made of symbolic links, as a server finds its files relative
# to its own program.

use strict;
use warnings FATAL => 'all';

use File::Basename;
use File::Copy;
use File::Path qw(make_path);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $probe = PostgreSQL::Test::Cluster->new('probe');
my ($bin, $lib, $share) = map { $probe->config_data("--$_") } qw(bindir pkglibdir sharedir);
my $copy = PostgreSQL::Test::Utils::tempdir();

foreach my $directory ($bin, $lib, $share)
{
	my $target = $copy . $directory;

	next if -e $target;
	make_path(dirname($target));
	system_or_bail('cp', '-as', $directory, $target);
}
# what must find its place must be no link
foreach my $program (qw(postgres initdb pg_ctl))
{
	unlink "$copy$bin/$program";
	copy("$bin/$program", "$copy$bin/$program") or die $!;
	chmod 0755, "$copy$bin/$program";
}
my $old = '1.0';
my $other = '1.0-other';
append_to_file("$copy$share/extension/stream_ckpt--$old--$other.sql", q{
ALTER TABLE stream_ckpt.pipeline_def ADD COLUMN other int NOT NULL DEFAULT 1;
CREATE FUNCTION stream_ckpt.other() RETURNS int LANGUAGE sql RETURN 1;
});
append_to_file("$copy$share/extension/stream_ckpt--$other--$old.sql", q{
ALTER TABLE stream_ckpt.pipeline_def DROP COLUMN other;
DROP FUNCTION stream_ckpt.other();
});

my $node = PostgreSQL::Test::Cluster->new('main', install_path => dirname("$copy$bin/postgres") =~ s{/bin$}{}r);
$node->init(allows_streaming => 1, extra => [ '--locale=C', '--encoding=UTF8' ]);
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'stream_ckpt'
max_worker_processes = 20
stream_ckpt.checkpoint_interval = '50ms'
});
$node->start;
is($node->safe_psql('postgres', "SELECT default_version FROM pg_available_extensions WHERE name = 'stream_ckpt'"), $old, 'the version there is');
$node->safe_psql('postgres', q{
CREATE EXTENSION stream_ckpt;
CREATE TABLE oracle (k int, v numeric);
SELECT stream_ckpt.create_stream('s', 'k int, v numeric');
SELECT stream_ckpt.create_pipeline('sums', 'SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k');
SELECT stream_ckpt.create_pipeline('copy', 'SELECT k, v FROM s');
CREATE ROLE nobody;
});

my $insert = q{BEGIN; INSERT INTO s SELECT i % 7, i / 3.0 FROM generate_series(1, 1000) i;
INSERT INTO oracle SELECT i % 7, i / 3.0 FROM generate_series(1, 1000) i; COMMIT};
my $differences = q{SELECT
	(SELECT count(*) FROM (TABLE sums EXCEPT ALL SELECT k, count(*), sum(v) FROM oracle GROUP BY k) x) +
	(SELECT count(*) FROM (SELECT k, count(*), sum(v) FROM oracle GROUP BY k EXCEPT ALL TABLE sums) x) +
	(SELECT count(*) FROM (TABLE copy EXCEPT ALL TABLE oracle) x) + (SELECT count(*) FROM (TABLE oracle EXCEPT ALL TABLE copy) x)};

$node->safe_psql('postgres', $insert);
checkpoint($node);
is($node->safe_psql('postgres', $differences), '0', 'before');

# ---- an update that does not come to be ----

my ($state) = sql_state($node, 'postgres', "SET ROLE nobody; ALTER EXTENSION stream_ckpt UPDATE TO '$other'");
is($state, '42501', 'not by just anybody');
my $pid = worker_pid($node);
$node->safe_psql('postgres', "BEGIN; ALTER EXTENSION stream_ckpt UPDATE TO '$other'; ROLLBACK");
$node->safe_psql('postgres', $insert);
checkpoint($node);
is($node->safe_psql('postgres', $differences), '0', 'after an update that was rolled back');
is(worker_pid($node), $pid, 'the worker is the same');

# ---- one that does ----

my $log = -s $node->logfile;
my $producer = session($node);
$producer->send('DO $$BEGIN FOR n IN 1..20 LOOP INSERT INTO s SELECT i % 7, i / 3.0 FROM generate_series(1, 1000) i;
	INSERT INTO oracle SELECT i % 7, i / 3.0 FROM generate_series(1, 1000) i; COMMIT; END LOOP; END$$');
$node->safe_psql('postgres', "ALTER EXTENSION stream_ckpt UPDATE TO '$other'");
is($producer->receive, '', 'producers go on meanwhile');
$producer->close;
my $message = qr/extension "stream_ckpt" has version 1.0-other in database "postgres", but the library that is loaded has version 1.0/;
wait_for('the worker to notice', sub { return slurp_file($node->logfile, $log) =~ /FATAL:.*$message/ }, 60);
my $before = $node->safe_psql('postgres', 'SELECT count(*), sum(n) FROM sums');
$node->safe_psql('postgres', $insert);
ok($node->safe_psql('postgres', 'SELECT count(*), sum(n) FROM sums') eq $before, 'pipelines stand still');
foreach my $command (
	"SELECT stream_ckpt.checkpoint('sums')", 'SELECT stream_ckpt.checkpoint()',
	"SELECT stream_ckpt.create_pipeline('more', 'SELECT k FROM s')",
	"SELECT stream_ckpt.create_stream('t', 'k int')", "SELECT stream_ckpt.drop_pipeline('sums')",
	"SELECT stream_ckpt.pause_pipeline('sums')", 'TABLE stream_ckpt.pipelines')
{
	my ($code, $text) = sql_state($node, 'postgres', $command);

	is($code, '55000', $command);
	like($text, $message, 'and it says why');
}
$node->restart;
$node->safe_psql('postgres', $insert);
is($node->safe_psql('postgres', 'SELECT stream_ckpt.other()'), '1', 'the other version is still there after a restart');
is(slots_of($node), '1', 'and the log is kept');

# ---- and back ----

$node->safe_psql('postgres', "ALTER EXTENSION stream_ckpt UPDATE TO '$old'");
checkpoint($node);
is($node->safe_psql('postgres', $differences), '0', 'everything is there, once');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT status, ',') FROM stream_ckpt.pipelines}), 'running', 'all pipelines run');
is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.pipelines WHERE error IS NOT NULL}), '0', 'without an error');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'no panic, no failed assertion');
done_testing();
