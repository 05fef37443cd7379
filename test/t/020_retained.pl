# Retained checkpoints and savepoints: whatever is restored, back and forth, the
# result is the same SQL over the rows up to its position; then it catches up.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;

seed_random();
my $node = new_cluster('retained', 'stream_ckpt.checkpoint_interval' => "'1h'");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

# ---- Pipelines, and the same SQL over what the stream had after so many batches ----

my @pipelines = (
	[ agg => 'SELECT k, count(*) AS n, sum(v) AS v, max(v) AS m FROM s GROUP BY k' ],
	[ halves => 'SELECT k, sum(v) AS v FROM s GROUP BY k HAVING sum(v) % 2 = 0' ],
	[ nums => 'SELECT (v % 5)::numeric / 2 AS h, count(*) AS n FROM s GROUP BY 1' ],
	[ distincts => q{SELECT k % 3 AS k3, count(DISTINCT v) AS d, string_agg(DISTINCT txt, ',' ORDER BY txt) AS t FROM s GROUP BY 1} ],
	[ rows_of => 'SELECT id, k, v, txt FROM s WHERE v % 3 <> 0' ],
	[ named => 'SELECT s.id, d.name FROM s JOIN dim d ON d.k = s.k' ],
	[ names => 'SELECT d.name, count(*) AS n FROM s JOIN dim d ON d.k = s.k GROUP BY 1' ],
	[ total => 'SELECT count(*) AS n, sum(v) AS v FROM s' ],
	[ two => 'SELECT n, count(*) AS c FROM (SELECT k, count(*) AS n FROM s GROUP BY k) x GROUP BY n' ],
	[ chg => q{SELECT window_start, k % 2 AS k2, count(*) AS n, sum(v) AS v FROM s, stream_ckpt.tumble(ts, '1 min') GROUP BY 1, 2} ],
	[ fin => q{SELECT window_start, window_end, k % 2 AS k2, count(*) AS n FROM s, stream_ckpt.tumble(ts, '1 min') GROUP BY 1, 2, 3},
		options => q{, emit => 'final'},
		oracle => q{SELECT * FROM (%s) q WHERE window_end <= (SELECT max(ts) - interval '30 s' FROM s)} ],
	[ ses => q{SELECT window_start, window_end, k, count(*) AS n FROM s, stream_ckpt.session(ts, '25 s') GROUP BY 1, 2, 3},
		sql => q{SELECT min(ts) AS window_start, max(ts) + interval '25 s' AS window_end, k, count(*) AS n FROM
			(SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY k ORDER BY ts, id) AS g FROM
			 (SELECT *, coalesce(ts >= lag(ts) OVER (PARTITION BY k ORDER BY ts, id) + interval '25 s', true) AS fresh FROM s) a) b GROUP BY k, g} ],
	[ bad => 'SELECT k, sum(100 / (v % 7)) AS x FROM s GROUP BY k', options => q{, on_error => 'dead_letter'},
		sql => 'SELECT k, sum(100 / (v % 7)) AS x FROM s WHERE v % 7 <> 0 GROUP BY k' ],
);
my %oracle;

sql(q{
	CREATE TABLE dim (k int PRIMARY KEY, name text);
	INSERT INTO dim SELECT i, 'name ' || i / 2 FROM generate_series(0, 40) i;
	SELECT stream_ckpt.create_stream('s', 'id int, k int, v int, txt text, ts timestamptz', event_time => 'ts', watermark_delay => '30 s');
	CREATE TABLE r (b int, id int, k int, v int, txt text, ts timestamptz);
	CREATE SCHEMA o;
	CREATE VIEW o.s AS SELECT * FROM r WHERE b <= current_setting('t.b')::int;
});
foreach (@pipelines)
{
	my ($name, $query, %more) = @$_;
	my $options = $more{options} // '';

	sql("SELECT stream_ckpt.create_pipeline('$name', \$\$$query\$\$, retained_checkpoints => 3$options)");
	$oracle{$name} = sprintf($more{oracle} // '%s', $more{sql} // $query);
}
my @names = map { $_->[0] } @pipelines;

# Batches, and where the log was before each.
my @before = (undef);
my $id = 0;

sub insert_batch
{
	my $b = @before;
	my $rows = 1 + int rand 40;
	my $keys = 1 + int rand 30;
	my $seed = int rand 1e6;

	push @before, sql('SELECT pg_current_wal_insert_lsn()');
	sql(qq{WITH n AS (INSERT INTO r SELECT $b, $id + i, hashint4(i * 7 + $seed) & 1023, hashint4(i + $seed) & 255,
		repeat(chr(97 + (hashint4(i + 3 * $seed) & 7)), 1 + (i & 3)), timestamptz '2024-01-01' + $b * interval '20 s' + (hashint4(i + 5 * $seed) & 15) * interval '1 s'
		FROM generate_series(1, $rows) i RETURNING *) INSERT INTO s SELECT id, k % $keys, v, txt, ts FROM n});
	sql("UPDATE r SET k = k % $keys WHERE b = $b");
	$id += $rows;
	return;
}

# How many batches are before a place.
sub batches_before
{
	my ($position) = @_;

	return sql("SELECT count(*) FROM unnest('{" . join(',', @before[1 .. $#before]) . "}'::pg_lsn[]) b WHERE b < '$position'");
}

# SQL that says what is wrong with a result, for a position of the log; in whatever transaction.
sub compare_sql
{
	my ($name, $b) = @_;

	return qq{SET LOCAL t.b = $b; SET LOCAL search_path = o, public;
		SELECT 'differ ' || (SELECT count(*) FROM ((TABLE public.$name EXCEPT ALL ($oracle{$name})) UNION ALL (($oracle{$name}) EXCEPT ALL TABLE public.$name)) x)}
	  . ($name eq 'bad' ? q{ + (SELECT abs((SELECT count(*) FROM stream_ckpt.dead_letters WHERE pipeline = 'bad') - (SELECT count(*) FROM s WHERE v % 7 = 0)))} : '')
	  . '; RESET search_path;';
}

sub verdict
{
	my ($output) = @_;

	return $output =~ /^differ (\d+)$/m ? $1 : "? $output";
}

sub check_all
{
	my ($what) = @_;

	sql('SELECT stream_ckpt.checkpoint()');
	foreach my $name (@names)
	{
		is(verdict(sql('BEGIN; ' . compare_sql($name, $#before) . ' COMMIT;')), 0, "$name $what");
	}
	return;
}

sub retained
{
	my ($name) = @_;

	return map { [ split /\|/ ] } split /\n/,
	  sql("SELECT checkpoint_id, position FROM stream_ckpt.checkpoints WHERE pipeline = '$name' AND retained ORDER BY 1");
}

# Restore, and compare before anything else can happen to it.
sub restore
{
	my ($name, $checkpoint, $position, $end) = @_;
	my $b = batches_before($position);

	is(verdict(sql("BEGIN; SELECT stream_ckpt.restore_pipeline('$name', $checkpoint); " . compare_sql($name, $b) . " $end;")),
		0, "$name restored to $checkpoint, after $b batches, then $end");
	return;
}

# ---- History: checkpoints and savepoints ----

foreach my $round (1 .. 7)
{
	insert_batch() foreach 1 .. 1 + int rand 3;
	sql('SELECT stream_ckpt.checkpoint()');
	next if $round != 2 && $round != 4;
	sql("SELECT stream_ckpt.savepoint('$_', 'round $round') FROM (VALUES (1)) v") foreach @names;
}
foreach my $name (@names)
{
	is(sql("SELECT count(*), count(*) FILTER (WHERE kind = 'savepoint'), string_agg(label, ', ' ORDER BY label) FROM stream_ckpt.checkpoints WHERE pipeline = '$name' AND retained"),
		'5|2|round 2, round 4', "three checkpoints and two savepoints of $name are there");
	cmp_ok(sql(qq{SELECT count(*) FROM stream_ckpt.chunk c JOIN stream_ckpt.pipeline_def d ON d.id = c.pipeline_id WHERE d.name = '$name'
		AND NOT upper_inf(lives) AND NOT EXISTS (SELECT FROM stream_ckpt.retained r WHERE r.pipeline_id = d.id AND lives @> r.checkpoint_id)}), '==', 0,
		"no chunk of $name is there for nothing");
}
is(sql(q{SELECT bool_and(restorable = 5 AND held_bytes > 0) FROM stream_ckpt.pipelines}), 't', 'and the view says so');
is(sql(q{SELECT s.restart_lsn <= (SELECT min(restart) FROM stream_ckpt.retained) FROM pg_replication_slots s WHERE slot_name LIKE 'stream_ckpt_%'}),
	't', 'the slot holds their log');
check_all('before anything is restored');

# ---- Back and forth ----

foreach my $name (@names)
{
	# each of them, and nothing of it stays
	restore($name, @$_, 'ROLLBACK') foreach retained($name);
}
check_all('after restores that were rolled back');
foreach my $name (@names)
{
	sql("SELECT stream_ckpt.pause_pipeline('$name')");
	foreach (1 .. 5)
	{
		my @retained = retained($name);

		restore($name, @{ $retained[ int rand @retained ] }, 'COMMIT');
	}
	is(sql("SELECT status FROM stream_ckpt.pipelines WHERE pipeline = '$name'"), 'paused', "$name stays paused");
	sql("SELECT stream_ckpt.resume_pipeline('$name')");
}

# What they write when they start again has its place before the batch, not within it: batches_before() asks where that begins.
sql('SELECT stream_ckpt.checkpoint()');
insert_batch();
check_all('caught up after restores while paused');
foreach my $round (1 .. 2)
{
	foreach my $name (@names)
	{
		my @retained = retained($name);

		restore($name, @{ $retained[ int rand @retained ] }, 'COMMIT');
	}
	sql('SELECT stream_ckpt.checkpoint()');
	insert_batch();
	check_all("caught up after restores while running, round $round");
}

# two restores in one transaction, one of them forth
foreach my $name (@names)
{
	my @retained = retained($name);

	sql("BEGIN; SELECT stream_ckpt.restore_pipeline('$name', $retained[0][0]); SELECT stream_ckpt.restore_pipeline('$name', $retained[-1][0]); COMMIT");
}
check_all('after two restores in one transaction');
is(sql(q{SELECT count(DISTINCT pipeline) FROM stream_ckpt.restores WHERE cause = 'restore_pipeline'}), scalar @names, 'restores are in the history');

# ---- While rows come in ----

{
	my $producer = session($node);

	foreach my $round (1 .. 3)
	{
		my $b = @before;

		push @before, sql('SELECT pg_current_wal_insert_lsn()');
		$producer->send(qq{DO \$\$BEGIN FOR i IN 1 .. 50 LOOP
			WITH n AS (INSERT INTO r VALUES ($b, $id + i, i % 9, i * 3 % 100, 'p', timestamptz '2024-01-01' + $b * interval '20 s') RETURNING *)
			INSERT INTO s SELECT id, k, v, txt, ts FROM n; COMMIT; END LOOP; END\$\$});
		$id += 50;
		foreach my $name (@names)
		{
			foreach my $try (1 .. 10)
			{
				my @retained = retained($name);
				my ($rc, undef, $error) = $node->psql('postgres', "SELECT stream_ckpt.restore_pipeline('$name', $retained[ int rand @retained ][0])");

				last if $rc == 0;
				# a checkpoint of the rows that come in may have taken its place meanwhile
				die $error if $try == 10 || $error !~ /is not retained any more/;
			}
		}
		$producer->receive;
	}
	$producer->close;
	check_all('after restores while rows came in');
}

# ---- Crashes ----

foreach my $fault ('cleanup:kill', 'before-commit:kill', 'after-commit:kill', 'savepoint:kill')
{
	insert_batch();
	set_fault($node, $fault);
	try_psql($node, 'postgres', "SELECT stream_ckpt.savepoint('agg', 'crash $fault')", timeout => 20);
	wait_for('the server', sub { return accepts($node) });
	clear_fault($node);
	check_all("after $fault");
	my @retained = retained('agg');
	restore('agg', @{ $retained[0] }, 'ROLLBACK');
}
foreach my $name ('agg', 'rows_of', 'fin')
{
	my @retained = retained($name);
	my $last = sql("SELECT last_checkpoint FROM stream_ckpt.pipelines WHERE pipeline = '$name'");

	try_psql($node, 'postgres', "SET stream_ckpt.fault = 'restore:kill'; SELECT stream_ckpt.restore_pipeline('$name', $retained[0][0])");
	wait_for('the server', sub { return accepts($node) });
	is(sql("SELECT last_checkpoint FROM stream_ckpt.pipelines WHERE pipeline = '$name'"), $last, "a restore of $name that was killed has not happened");
	sql("SELECT stream_ckpt.restore_pipeline('$name', $retained[0][0])");
	kill_server($node);
	start_again($node);
}
insert_batch();
check_all('after restores and kill -9');

# ---- Refused ----

my @retained = retained('agg');
foreach (
	[ '42704', q{SELECT stream_ckpt.restore_pipeline('agg', 99999)} ],
	[ '55000', q{SELECT stream_ckpt.restore_pipeline('agg', 1)} ],
	[ '25001', "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT stream_ckpt.restore_pipeline('agg', $retained[0][0])" ],
	[ '0A000', "SELECT stream_ckpt.restore_pipeline('agg', $retained[0][0], true)" ])
{
	my ($state, $statement) = @$_;
	my ($got, $message) = sql_state($node, 'postgres', $statement);

	is($got, $state, "$statement: $message");
}

# log that is gone
sql(q{BEGIN; CREATE TEMP TABLE was AS SELECT * FROM stream_ckpt.retained; SELECT pg_switch_wal(); COMMIT});
sql(q{UPDATE stream_ckpt.retained SET restart = '0/10'});
{
	my ($state, $message) = sql_state($node, 'postgres', "SELECT stream_ckpt.restore_pipeline('agg', $retained[0][0])");

	is($state, '55000', 'log that is gone');
	like($message, qr{needs the log from 0/10 on, which is there from .* on\. Missing: [0-9A-F]{24}}s, 'is told');
}
sql(q{UPDATE stream_ckpt.retained SET restart = position});

# results that cannot be taken back
sql(q{
	SELECT stream_ckpt.create_stream('downstream', 'k int, n bigint');
	CREATE TABLE kept (k int UNIQUE NOT NULL, n bigint);
	SELECT stream_ckpt.create_pipeline('to_table', 'SELECT k, count(*) AS n FROM s GROUP BY k', sink => 'kept', retained_checkpoints => 3);
	SELECT stream_ckpt.create_pipeline('to_stream', 'SELECT k, v::bigint AS n FROM s', sink => 'downstream', retained_checkpoints => 3);
	SELECT stream_ckpt.create_pipeline('after_it', 'SELECT count(*) AS n FROM downstream');
});
sql(q{SELECT stream_ckpt.checkpoint()});
my $first = @before;
foreach (1 .. 3)
{
	insert_batch();
	sql('SELECT stream_ckpt.checkpoint()');
}
foreach my $name ('to_table', 'to_stream')
{
	my @list = retained($name);
	my ($state, $message) = sql_state($node, 'postgres', "SELECT stream_ckpt.restore_pipeline('$name', $list[0][0])");

	is($state, '0A000', "$name: $message");
	sql("SELECT stream_ckpt.restore_pipeline('$name', $list[0][0], true)");
}
insert_batch();
sql('SELECT stream_ckpt.checkpoint()');
is(sql("SELECT count(*) FROM ((TABLE kept EXCEPT SELECT k, count(*) FROM r WHERE b >= $first GROUP BY k) UNION ALL (SELECT k, count(*) FROM r WHERE b >= $first GROUP BY k EXCEPT TABLE kept)) x"),
	'0', 'an existing table is right again when the pipeline has caught up');
cmp_ok(sql('SELECT n FROM after_it'), '>', sql("SELECT count(*) FROM r WHERE b >= $first"), 'a stream has rows twice, as told');


# ---- What it costs ----

foreach my $i (1 .. 12)
{
	insert_batch();
	sql('SELECT stream_ckpt.checkpoint()');
}
sql("SELECT stream_ckpt.drop_savepoint(pipeline, label) FROM stream_ckpt.checkpoints WHERE label IS NOT NULL AND retained");
insert_batch();
sql('SELECT stream_ckpt.checkpoint()');
is(sql(q{SELECT max(n) FROM (SELECT count(*) AS n FROM stream_ckpt.retained GROUP BY pipeline_id) x}), '3', 'no more than three are kept');
cmp_ok(sql(q{SELECT max(n) FROM (SELECT count(DISTINCT checkpoint_id) AS n FROM stream_ckpt.touched GROUP BY pipeline_id) x}), '<=', 2,
	'and what happened to results since the first of them');
cmp_ok(sql(q{SELECT max(n) FROM (SELECT count(*) AS n FROM stream_ckpt.chunk GROUP BY pipeline_id) x}), '<', 60, 'chunks are bounded');
check_all('at the end');

# ---- A dump has the last checkpoint only ----

sql(q{SELECT stream_ckpt.savepoint('agg', 'not to go')});
insert_batch();
sql('SELECT stream_ckpt.checkpoint()');
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->command_ok([ 'bash', '-c', sprintf(q{pg_dump -h '%s' -p %d postgres | psql -X -q -h '%s' -p %d elsewhere >/dev/null}, $node->host, $node->port, $node->host, $node->port) ], 'dump and restore');
wait_for('the pipelines elsewhere', sub {
	return $node->safe_psql('elsewhere', q{SELECT bool_and(status = 'running') FROM stream_ckpt.pipelines}) eq 't' });
is($node->safe_psql('elsewhere', 'SELECT (SELECT count(*) FROM stream_ckpt.retained WHERE kind = $$savepoint$$) + (SELECT count(*) FROM stream_ckpt.chunk WHERE NOT upper_inf(lives))'), '0',
	'savepoints do not travel');
is($node->safe_psql('elsewhere', 'SELECT count(*) FROM (TABLE agg EXCEPT SELECT k, count(*), sum(v), max(v) FROM r GROUP BY k) x'), '0', 'results do');

# ---- Nor has a copied database it; a promoted standby has ----

my $savepoint = sql(q{SELECT checkpoint_id FROM stream_ckpt.checkpoints WHERE label = 'not to go'});
my $at = sql(q{SELECT position FROM stream_ckpt.checkpoints WHERE label = 'not to go'});

$node->safe_psql('elsewhere', q{SELECT stream_ckpt.savepoint('agg', 'there'); SELECT stream_ckpt.checkpoint()});
my $there = $node->safe_psql('elsewhere', q{SELECT checkpoint_id FROM stream_ckpt.checkpoints WHERE label = 'there'});
$node->safe_psql('elsewhere', q{INSERT INTO s SELECT i, 1, 1, 'x', '2025-01-01' FROM generate_series(1, 10) i; SELECT stream_ckpt.checkpoint()});
$node->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE elsewhere');
wait_for('the copied pipelines', sub {
	return $node->safe_psql('copied', q{SELECT count(*) FROM stream_ckpt.pipelines WHERE status <> 'running'}) eq '0' });
{
	my ($state, $message) = sql_state($node, 'copied', "SELECT stream_ckpt.restore_pipeline('agg', $there)");

	like($state, qr/^(55000|42704)$/, "a savepoint cannot be restored in a copy: $message");
}
is($node->safe_psql('copied', q{SELECT (SELECT count(*) FROM stream_ckpt.retained WHERE kind = 'savepoint') + (SELECT count(*) FROM stream_ckpt.chunk WHERE NOT upper_inf(lives))}),
	'0', 'and is not there');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "wal_keep_size = 0\nhot_standby_feedback = on\n");
$standby->start;
wait_for('the slot of the standby', sub {
	return $standby->safe_psql('postgres', q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'stream_ckpt_' || (SELECT oid FROM pg_database WHERE datname = 'postgres')}) eq '1' });
sql(q{SELECT stream_ckpt.savepoint('agg', 'to be promoted')});
my $promoted = sql(q{SELECT checkpoint_id FROM stream_ckpt.checkpoints WHERE label = 'to be promoted'});
my $promoted_at = sql(q{SELECT position FROM stream_ckpt.checkpoints WHERE label = 'to be promoted'});

insert_batch();
sql('SELECT stream_ckpt.checkpoint()');
sql('SELECT pg_switch_wal(); CHECKPOINT');
insert_batch();
sql('SELECT stream_ckpt.checkpoint()');
$node->wait_for_catchup($standby);
my $batches = batches_before($promoted_at);
my $old = $node;

$old->stop('immediate');
$standby->promote;
$node = $standby;
sql('SELECT stream_ckpt.checkpoint()');
is(verdict(sql("BEGIN; SELECT stream_ckpt.restore_pipeline('agg', $promoted); " . compare_sql('agg', $batches) . ' COMMIT;')), 0,
	'a savepoint is restored on the new timeline');
insert_batch();
check_all('caught up on the new timeline');

# ---- Nothing is left of a pipeline that was dropped ----

sql("SELECT stream_ckpt.drop_pipeline('$_')") foreach @names, 'to_table', 'to_stream', 'after_it';
is(sql(q{SELECT (SELECT count(*) FROM stream_ckpt.retained) + (SELECT count(*) FROM stream_ckpt.touched) + (SELECT count(*) FROM stream_ckpt.chunk)}),
	'0', 'nothing is left of dropped pipelines');
$node->stop;
done_testing();
