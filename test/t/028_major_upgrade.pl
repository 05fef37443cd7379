# pg_upgrade into a newer major version brings streams, pipelines, results and
# state along.
#
# The newer one is that of PG_CONFIG_NEW, or the newest with the extension
# installed in /usr/lib/postgresql; without one there is nothing to test.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

sub ask
{
	my ($pg_config, $what) = @_;
	my $answer = `"$pg_config" --$what 2>/dev/null` // '';

	chomp $answer;
	return $answer;
}

sub major
{
	my ($pg_config) = @_;

	return ask($pg_config, 'version') =~ /^PostgreSQL (\d+)/ ? $1 : 0;
}

my $probe = PostgreSQL::Test::Cluster->new('probe');
my $old_major = $probe->config_data('--version') =~ /^PostgreSQL (\d+)/ ? $1 : 0;
my @candidates = $ENV{PG_CONFIG_NEW} ||
	sort { major($b) <=> major($a) } grep { -x $_ } glob('/usr/lib/postgresql/*/bin/pg_config');
my ($pg_config) = grep { major($_) > $old_major && -x ask($_, 'bindir') . '/pg_upgrade' &&
	  -e ask($_, 'sharedir') . '/extension/stream_ckpt.control' } @candidates;

if (!$pg_config)
{
	die "PG_CONFIG_NEW: $ENV{PG_CONFIG_NEW} is not newer than $old_major, or has no stream_ckpt" if $ENV{PG_CONFIG_NEW};
	plan skip_all => "no PostgreSQL newer than $old_major with stream_ckpt installed (PG_CONFIG_NEW=… names one)";
}
my $new_major = major($pg_config);
note("from $old_major to $new_major");

# ---- before ----

my $old = new_cluster('old');

$old->safe_psql('postgres', q{
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE dim (k int PRIMARY KEY, label text);
INSERT INTO dim SELECT i, 'label ' || i % 3 FROM generate_series(0, 12) i;
CREATE TABLE oracle (id int, k int, t text, n numeric, i int, b bigint, f float8, m mood, iv interval, ts timestamptz);
CREATE TABLE sink (k int PRIMARY KEY, total bigint);
SELECT stream_ckpt.create_stream('s', 'gone int, id int, k int, t text, n numeric, i int, b bigint, f float8, m mood, iv interval, ts timestamptz',
	event_time => 'ts', watermark_delay => '1 hour');
ALTER FOREIGN TABLE s DROP COLUMN gone;
SELECT stream_ckpt.create_stream('bad', 'id int, v text');
SELECT stream_ckpt.create_pipeline('broken', 'SELECT id, v::int AS v FROM bad', on_error => 'dead_letter');
SELECT stream_ckpt.create_pipeline('paused', 'SELECT k, count(*) AS n FROM s GROUP BY k');
});

my %query = (
	sums => 'SELECT k, count(*) AS c, sum(n) AS n, avg(n) AS an, sum(i) AS i, avg(i) AS ai, sum(b) AS b, avg(b) AS ab, round(stddev(i), 6) AS d,
		round(variance(n), 6) AS v, round(corr(f, i)::numeric, 6) AS r, min(t) AS mt, max(m) AS mm, bool_and(i > 3) AS o FROM s GROUP BY k',
	moods => 'SELECT m, k % 2 AS half, count(*) AS c, max(iv) AS iv FROM s GROUP BY m, k % 2',
	sets => q{SELECT k, count(DISTINCT t) AS t, count(DISTINCT m) AS m, array_agg(DISTINCT i % 5) AS i, string_agg(t, ',' ORDER BY id) AS s,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS p, mode() WITHIN GROUP (ORDER BY m) AS mo FROM s GROUP BY k},
	spans => 'SELECT k, sum(iv) AS s, avg(iv) AS a, count(DISTINCT iv) AS c FROM s GROUP BY k',
	whole => 'SELECT count(*) AS c, sum(n) AS n, sum(iv) AS iv, avg(iv) AS a FROM s',
	copy => 'SELECT id, k, t, m FROM s WHERE i > 2',
	joined => 'SELECT label, count(*) AS c, sum(b) AS b FROM s JOIN dim USING (k) GROUP BY label',
	windows => q{SELECT k, window_start, window_end, count(*) AS c, sum(n) AS n FROM s, stream_ckpt.tumble(ts, '10 minutes') GROUP BY k, window_start, window_end},
	sliding => q{SELECT window_end, avg(b) AS a FROM s, stream_ckpt.hop(ts, '10 minutes', '30 minutes') GROUP BY window_end},
	levels => 'SELECT c, count(*) AS ks FROM (SELECT k, count(*) AS c FROM s GROUP BY k) x GROUP BY c',
);
my $sessions = q{SELECT k, window_start, window_end, count(*) AS c, sum(n) AS n, array_agg(DISTINCT i) AS i FROM s, stream_ckpt.session(ts, '3 minutes') GROUP BY k, window_start, window_end};
my %pipelines = (%query, sessions => $sessions);

# Rows of a key are 13 seconds apart: one session for each.
my %oracle = (
	%query,
	sink => 'SELECT k, sum(i) AS total FROM s GROUP BY k',
	sessions => q{SELECT k, min(ts), max(ts) + interval '3 minutes', count(*), sum(n), array_agg(DISTINCT i) FROM s GROUP BY k});
foreach my $name (sort keys %pipelines)
{
	$old->safe_psql('postgres', "SELECT stream_ckpt.create_pipeline('$name', \$\$$pipelines{$name}\$\$)");
}
$old->safe_psql('postgres', "SELECT stream_ckpt.create_pipeline('into_sink', 'SELECT k, sum(i) AS total FROM s GROUP BY k', sink => 'sink')");

my $next = 1;

sub insert_rows
{
	my ($node, $count) = @_;
	my $to = $next + $count - 1;
	my $rows = qq{SELECT i AS id, i % 13 AS k, 't' || i % 9 AS t, i / 7.0 AS n, i % 11 AS i, i * 10000000000 AS b, i / 3.0 AS f,
		(ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood AS m, i * interval '1 second' + i % 2 * interval '1 day' AS iv,
		timestamptz '2024-01-01 00:00:00+00' + i * interval '1 second' AS ts FROM generate_series($next, $to) i};

	$node->safe_psql('postgres', "BEGIN; INSERT INTO s $rows; INSERT INTO oracle $rows; COMMIT");
	$next = $to + 1;
	return;
}

sub compare
{
	my ($node, $what) = @_;

	checkpoint($node);
	foreach my $name (sort keys %oracle)
	{
		my $query = $oracle{$name};

		# the window functions work over tables, too
		$query =~ s/\bFROM s\b/FROM oracle/;
		is( $node->safe_psql('postgres', qq{SET search_path = public, stream_ckpt;
			SELECT (SELECT count(*) FROM (TABLE $name EXCEPT ALL $query) x) + (SELECT count(*) FROM ($query EXCEPT ALL TABLE $name) x)}),
			'0', "$what: $name");
	}
	return;
}

insert_rows($old, 2000);
compare($old, 'before');
$old->safe_psql('postgres', q{INSERT INTO bad VALUES (1, '1'), (2, 'no number'), (3, '3')});
checkpoint($old);
$old->safe_psql('postgres', "SELECT stream_ckpt.pause_pipeline('paused')");
insert_rows($old, 500);
compare($old, 'at the end');
my $paused = $old->safe_psql('postgres', 'SELECT sum(n) FROM paused');
my $ids = $old->safe_psql('postgres', 'SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints');
$old->stop;

# ---- pg_upgrade ----

my $new = PostgreSQL::Test::Cluster->new('new', install_path => ask($pg_config, 'bindir') =~ s{/bin$}{}r);
my $dir = PostgreSQL::Test::Utils::tempdir();

$new->init(allows_streaming => 1, extra => [ '--locale=C', '--encoding=UTF8', $new_major >= 18 ? '--no-data-checksums' : () ]);
$new->append_conf('postgresql.conf', "shared_preload_libraries = 'stream_ckpt'\nmax_worker_processes = 20\ntimezone = 'UTC'\nstream_ckpt.checkpoint_interval = '50ms'");
chdir $dir or die $!;
my @command = (
	ask($pg_config, 'bindir') . '/pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
	'-b', $old->config_data('--bindir'), '-B', ask($pg_config, 'bindir'), '-s', $new->host, '-p', $old->port, '-P', $new->port);
command_ok([ @command, '--check' ], 'pg_upgrade --check');
command_ok(\@command, "pg_upgrade from $old_major to $new_major");
$new->start;
like($new->safe_psql('postgres', 'SHOW server_version'), qr/^$new_major\b/, 'it is the new version');

# ---- after ----

compare($new, 'right after');
insert_rows($new, 2500);
compare($new, 'with new rows');
is($new->safe_psql('postgres', q{SELECT string_agg(pipeline || ' ' || status, ',' ORDER BY pipeline) FROM stream_ckpt.pipelines WHERE status <> 'running'}),
	'paused paused', 'all pipelines run, or are paused as they were');
is($new->safe_psql('postgres', 'SELECT sum(n) FROM paused'), $paused, 'the paused one stands still');
cmp_ok($new->safe_psql('postgres', 'SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints'), '>', $ids, 'checkpoints are counted on');
is($new->safe_psql('postgres', q{SELECT count(*), min(pipeline) FROM stream_ckpt.dead_letters}), '1|broken', 'dead letters are there');
$new->safe_psql('postgres', q{INSERT INTO bad VALUES (4, '4'), (5, 'none either')});
checkpoint($new);
is($new->safe_psql('postgres', 'SELECT sum(v) FROM broken'), '8', 'good rows are kept');
is($new->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.dead_letters}), '2', 'and bad ones');

# and the new state survives
kill_server($new);
start_again($new);
insert_rows($new, 100);
compare($new, 'after a crash');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion') foreach $old, $new;
done_testing();
