# Dumps: pg_dump and pg_restore bring streams, pipelines, results and the state
# of the last checkpoint; in the new database pipelines go on by themselves.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

my $source = new_cluster('source');
my $target = new_cluster('target');
my $dir = PostgreSQL::Test::Utils::tempdir();

# Oids differ in the new cluster.
$target->safe_psql('postgres', "CREATE TABLE junk$_ (a int)") foreach 1 .. 3;
foreach my $node ($source, $target)
{
	$node->safe_psql('postgres', 'CREATE ROLE shop_owner');
}
$source->safe_psql('postgres', 'CREATE DATABASE shop');
$source->safe_psql('shop', q{
CREATE EXTENSION stream_ckpt;
GRANT USAGE ON SCHEMA stream_ckpt TO shop_owner;
GRANT USAGE ON FOREIGN SERVER stream_ckpt TO shop_owner;
GRANT CREATE ON SCHEMA public TO shop_owner;
SET ROLE shop_owner;
CREATE TYPE kind AS ENUM ('b', 'a');
CREATE TABLE items (id int PRIMARY KEY, name text);
INSERT INTO items SELECT i, 'item ' || i FROM generate_series(0, 9) i;
CREATE TABLE oracle (k kind, item int, v numeric, ts timestamptz);
SELECT stream_ckpt.create_stream('gone', 'a int');
SELECT stream_ckpt.create_stream('sales', 'dropped text, k kind, item int, v numeric, ts timestamptz', 'ts');
ALTER FOREIGN TABLE sales DROP COLUMN dropped;
SELECT stream_ckpt.create_pipeline('by_kind', 'SELECT k, count(*) AS n, sum(v) AS v, avg(v) AS a, max(item) AS m FROM sales GROUP BY k');
SELECT stream_ckpt.create_pipeline('by_name', 'SELECT name, count(DISTINCT k) AS n, min(v) AS v FROM sales JOIN items ON items.id = item GROUP BY name');
SELECT stream_ckpt.create_pipeline('per_hour', $$SELECT window_start, count(*) AS n, sum(v) AS v
	FROM sales, stream_ckpt.tumble(ts, '1 hour') GROUP BY window_start$$, emit => 'final');
SELECT stream_ckpt.create_pipeline('total', 'SELECT count(*) AS n, sum(v) AS v FROM sales');
SELECT stream_ckpt.create_pipeline('large', 'SELECT k, item, v FROM sales WHERE v > 900');
SELECT stream_ckpt.create_pipeline('stopped', 'SELECT k, count(*) AS n FROM sales GROUP BY k');
SELECT stream_ckpt.create_pipeline('forgotten', 'SELECT count(*) AS n FROM gone');
SELECT stream_ckpt.drop_pipeline('forgotten');
});

my %oracle = (
	by_kind => 'SELECT k, count(*) AS n, sum(v) AS v, avg(v) AS a, max(item) AS m FROM oracle GROUP BY k',
	by_name => 'SELECT name, count(DISTINCT k) AS n, min(v) AS v FROM oracle JOIN items ON items.id = item GROUP BY name',
	per_hour => q{SELECT date_trunc('hour', ts) AS window_start, count(*) AS n, sum(v) AS v FROM oracle
		GROUP BY 1 HAVING date_trunc('hour', ts) + '1 hour' <= (SELECT max(ts) FROM oracle)},
	total => 'SELECT count(*) AS n, sum(v) AS v FROM oracle',
	large => 'SELECT k, item, v FROM oracle WHERE v > 900');

my $inserted = 0;

sub insert_rows
{
	my ($node, $database, $rows) = @_;
	my $to = $inserted + $rows;

	$node->safe_psql($database, qq{
		CREATE TEMP TABLE new AS SELECT (CASE WHEN i % 3 = 0 THEN 'a' ELSE 'b' END)::kind AS k, i % 10 AS item,
			(i * 7919 % 1000)::numeric / 8 + i % 1000 AS v, '2024-01-01'::timestamptz + i * '10 s'::interval AS ts
			FROM generate_series($inserted + 1, $to) i;
		BEGIN;
		INSERT INTO sales SELECT * FROM new;
		INSERT INTO oracle SELECT * FROM new;
		COMMIT});
	$inserted = $to;
	return;
}

sub check_results
{
	my ($node, $database, $what) = @_;

	foreach my $name (sort keys %oracle)
	{
		is( $node->safe_psql($database, qq{
			SELECT (SELECT count(*) FROM (TABLE $name EXCEPT ALL $oracle{$name}) x)
				+ (SELECT count(*) FROM ($oracle{$name} EXCEPT ALL TABLE $name) x)}),
			'0', "$what: $name");
	}
	return;
}

# Pipelines run by themselves, with what they had and what is inserted there.
sub check_restored
{
	my ($node, $database, $what, $copied) = @_;
	my $before = $inserted;

	wait_for("$what: pipelines to run", sub {
		return $node->safe_psql($database, q{SELECT string_agg(pipeline || '=' || status, ' ' ORDER BY pipeline) FROM stream_ckpt.pipelines})
		  eq 'by_kind=running by_name=running large=running per_hour=running stopped=paused total=running';
	});
	check_results($node, $database, "$what, at once");
	insert_rows($node, $database, 3000);
	checkpoint($node, $database);
	check_results($node, $database, "$what, with new rows");
	is( $node->safe_psql($database, q{SELECT owner, rows_in FROM stream_ckpt.pipelines WHERE pipeline = 'total'}),
		"shop_owner|$inserted", "$what: owner and counters");

	# the one at hand, and, where a database was copied, what that has cut off, are the exceptions
	my $cut_off = $copied ? q{ AND error <> 'the worker ended before the checkpoint was complete'} : '';
	is( $node->safe_psql($database, qq{SELECT pipeline, checkpoint_id, status, error FROM stream_ckpt.checkpoints c WHERE checkpoint_id <= 0
			OR status = 'failed'$cut_off
			OR status = 'in_progress' AND checkpoint_id < (SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints WHERE pipeline = c.pipeline)}),
		'', "$what: checkpoints");
	is( $node->safe_psql($database, q{SELECT count(*) > 0 FROM stream_ckpt.restores WHERE pipeline = 'by_kind' AND cause = 'it came from another database'}),
		't', "$what: the restore is told");
	$inserted = $before;
	return;
}

insert_rows($source, 'shop', 3000);
checkpoint($source, 'shop');
$source->safe_psql('shop', q{SELECT stream_ckpt.pause_pipeline('stopped')});
insert_rows($source, 'shop', 3000);
checkpoint($source, 'shop');
check_results($source, 'shop', 'source');
my $position = $source->safe_psql('shop', q{SELECT max(checkpoint_id) FROM stream_ckpt.checkpoints});

my @dump = ('pg_dump', '-d', $source->connstr('shop'));
command_ok([ @dump, '-f', "$dir/plain.sql" ], 'plain dump');
command_ok([ @dump, '--inserts', '-f', "$dir/inserts.sql" ], 'plain dump with INSERT');
command_ok([ @dump, '-Fc', '-f', "$dir/custom" ], 'custom dump');
command_ok([ @dump, '-Fd', '-j', '3', '-f', "$dir/directory" ], 'directory dump, in parallel');
command_ok([ @dump, '-s', '-f', "$dir/schema.sql" ], 'schema only');

# ---- each format ----

my %restore = (
	plain => sub { return [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", '-d', $_[0] ] },
	inserts => sub { return [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/inserts.sql", '-d', $_[0] ] },
	one_transaction => sub { return [ 'pg_restore', '-e', '-1', '-d', $_[0], "$dir/custom" ] },
	custom => sub { return [ 'pg_restore', '-e', '-d', $_[0], "$dir/custom" ] },
	custom_parallel => sub { return [ 'pg_restore', '-e', '-j', '4', '-d', $_[0], "$dir/custom" ] },
	directory => sub { return [ 'pg_restore', '-e', '-j', '4', '-d', $_[0], "$dir/directory" ] });

foreach my $name (sort keys %restore)
{
	$target->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok($restore{$name}->($target->connstr($name)), "$name: restore");
	check_restored($target, $name, $name);
	$target->safe_psql('postgres', "DROP DATABASE $name");
}

# into another database of the same cluster; a copy of a copy
$source->safe_psql('postgres', 'CREATE DATABASE twin');
command_ok($restore{custom}->($source->connstr('twin')), 'same cluster: restore');
$source->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE twin');
check_restored($source, 'twin', 'same cluster', 1);
check_restored($source, 'copy', 'copied again', 1);
check_results($source, 'shop', 'the source does not notice');

# a pipeline's name and id are not given twice
is( $source->safe_psql('twin', q{SELECT stream_ckpt.create_pipeline('later', 'SELECT k, count(*) AS n FROM sales GROUP BY k');
	SELECT count(DISTINCT id) = count(*) AND max(id) = (SELECT id FROM stream_ckpt.pipeline_def WHERE name = 'later') FROM stream_ckpt.pipeline_def}) =~ s/^later\n//r,
	't', 'ids go on rising');

# the columns of a stream that is used are known under their new numbers
my ($state, $message) = sql_state($source, 'twin', 'ALTER FOREIGN TABLE sales DROP COLUMN item');
is($state, '2BP01', 'a column that pipelines use cannot be dropped');
$source->safe_psql('postgres', 'DROP DATABASE twin');
$source->safe_psql('postgres', 'DROP DATABASE copy');

# ---- schema only ----

$target->safe_psql('postgres', 'CREATE DATABASE empty');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/schema.sql", '-d', $target->connstr('empty') ], 'schema: restore');
is($target->safe_psql('empty', 'SELECT count(*) FROM stream_ckpt.pipelines'), '0', 'schema only: no pipelines');
is($target->safe_psql('empty', q{SELECT string_agg(stream::text, ' ' ORDER BY stream::text) FROM stream_ckpt.streams}), 'gone sales', 'streams');
is($target->safe_psql('empty', 'SELECT count(*) FROM by_kind'), '0', 'and result tables');

# ---- restored in pieces: nothing begins before all is there ----

sub status_of
{
	my ($database, $pipeline) = @_;

	return $target->safe_psql($database, qq{SELECT status, error FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'});
}

sub wait_for_status
{
	my ($database, $pipeline, $like, $what) = @_;
	my $status = '';

	ok(eval { wait_for($what, sub { $status = status_of($database, $pipeline); return $status =~ $like }, 60) }, $what)
	  or diag("status: $status");
	return;
}

$target->safe_psql('postgres', 'CREATE DATABASE pieces');
my @pieces = ('pg_restore', '-e', '-d', $target->connstr('pieces'));
command_ok([ @pieces, '--section=pre-data', "$dir/custom" ], 'pre-data');
my $list = (run_command([ 'pg_restore', '-l', "$dir/custom" ]))[0];
my @data = grep { / TABLE DATA | SEQUENCE SET / } split /\n/, $list;

sub restore_items
{
	my ($what, @items) = @_;

	PostgreSQL::Test::Utils::append_to_file("$dir/$what.list", join("\n", @items) . "\n");
	command_ok([ @pieces, '-L', "$dir/$what.list", "$dir/custom" ], "restoring $what");
	return;
}
restore_items('definitions', grep { / pipeline_def / } @data);
is($target->safe_psql('pieces', 'SELECT count(*) FROM stream_ckpt.pipelines'), '0', 'no pipeline without a position');
restore_items('positions', grep { / pipeline_position / } @data);
wait_for_status('pieces', 'by_kind', qr/^starting\|.*0 of \d+ chunks/, 'a pipeline waits for its state');

# rows that come from here on count
insert_rows($target, 'pieces', 3000);
restore_items('chunks', grep { / chunk / } @data);
restore_items('tables', grep { !/ (chunk|pipeline_def|pipeline_position) / } @data);
wait_for_status('pieces', 'by_kind', qr/^starting\|.*unique index of "by_kind"/, 'then for its index');
wait_for_status('pieces', 'large', qr/^running\|/, 'one that needs no index runs');
command_ok([ @pieces, '--section=post-data', "$dir/custom" ], 'post-data');
checkpoint($target, 'pieces');
check_results($target, 'pieces', 'in pieces');
$inserted -= 3000;

# ---- while the session that restores is there, it may not be complete ----

$target->safe_psql('postgres', 'CREATE DATABASE held');
my $session = session($target, 'held');
$session->query("\\i $dir/plain.sql");
wait_for_status('held', 'by_kind', qr/^starting\|waiting for the end of the session with process ID \d+/, 'a restoring session is waited for');
($state, $message) = sql_state($target, 'held', q{SELECT stream_ckpt.checkpoint('large', '1 s')});
is($state, '57014', 'checkpoint() waits, and gives up at its timeout');
like($message, qr/starting.*waiting for the end of the session/s, 'saying why');
insert_rows($target, 'held', 3000);
$target->safe_psql('held', q{SELECT stream_ckpt.resume_pipeline('by_kind')});
wait_for_status('held', 'by_kind', qr/^running\|/, 'unless told to go on');
$session->close;
checkpoint($target, 'held');
check_results($target, 'held', 'held');
$inserted -= 3000;

# the server is killed while a restore is incomplete: nothing is forgotten, nothing began
$target->safe_psql('postgres', 'CREATE DATABASE killed');
$session = session($target, 'killed');
$session->query("\\i $dir/plain.sql");
wait_for_status('killed', 'by_kind', qr/^starting\|waiting for the end/, 'restored, but not released');
insert_rows($target, 'killed', 3000);
kill_server($target);
$session->close;
start_again($target);
checkpoint($target, 'killed');
check_results($target, 'killed', 'killed');
$inserted -= 3000;

# ---- an encoding that the state is not in ----

$target->safe_psql('postgres', q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
command_ok($restore{custom}->($target->connstr('latin')), 'other encoding: restore');
wait_for_status('latin', 'by_kind', qr/^failed\|.*comes from a database with encoding UTF8/, 'other encoding: refused by name');
wait_for_status('latin', 'large', qr/^running\|/, 'where there is no state, it does not matter');

# ---- whoever drops the extension first can restore over what is there ----

$target->safe_psql('held', 'DROP EXTENSION stream_ckpt CASCADE; DROP SCHEMA stream_ckpt; DROP OWNED BY shop_owner CASCADE; DROP TABLE IF EXISTS oracle');
command_ok($restore{custom}->($target->connstr('held')), 'restored over an emptied database');
check_restored($target, 'held', 'again');
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:|terminated by signal (?!9)/, 'no panic, no failed assertion') foreach $source, $target;
done_testing();
