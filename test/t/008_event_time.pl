# Event time against an independent oracle, under crashes.  Producers insert rows
# whose event times are shuffled within and beyond the watermark's delay, some on
# boundaries, some NULL or infinite, around changes of the clocks and of months;
# some transactions are rolled back, prepared and finished rounds later, or larger
# than the log reader's memory.
#
# What is late depends on the order of the commits.  The oracle takes it from the
# log's commit records (pg_walinspect), and rows and watermarks from ordinary
# tables that producers write in the same transactions.  It uses neither the
# extension's window functions nor anything else of it.
#
# STREAM_CKPT_EVENT_ROUNDS or LONG=1 for more rounds.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(usleep time);

my $rounds = $ENV{STREAM_CKPT_EVENT_ROUNDS} || ($ENV{LONG} ? 200 : 24);
my $producers = 3;
my $transactions = 22;		# in one producer's script
my $span = 240;				# seconds of event time in a round
my $delay = 10;				# of stream ev
my $local_delay = 5;		# of stream loc, whose event times are of Berlin's clocks
my $second_start = 7;		# the round before which further pipelines are created
my $origin = '2000-01-03 00:00Z';
my $id = 0;

seed_random();

my $node = new_cluster('event_time',
	'stream_ckpt.log_memory' => "'1MB'",
	'stream_ckpt.fault' => "''",
	checkpoint_timeout => "'30s'",
	wal_keep_size => "'4GB'",
	max_wal_size => "'1GB'");
my $scripts = PostgreSQL::Test::Utils::tempdir();

# ---- windows, as the oracle has them ----

sub tumble
{
	my ($size) = @_;
	return { sql => "stream_ckpt.tumble(ts, '$size')",
		oracle => "LATERAL (SELECT b AS window_start, b + interval '$size' AS window_end FROM date_bin('$size', ts, '$origin') b) w" };
}

sub hop
{
	my ($slide, $size) = @_;
	return { sql => "stream_ckpt.hop(ts, '$slide', '$size')",
		oracle => "LATERAL (SELECT b AS window_start, b + interval '$size' AS window_end
			FROM generate_series(date_bin('$slide', ts, '$origin') - interval '$size' + interval '$slide', date_bin('$slide', ts, '$origin'), '$slide') b) w" };
}

sub cumulate
{
	my ($step, $size) = @_;
	return { sql => "stream_ckpt.cumulate(ts, '$step', '$size')",
		oracle => "LATERAL (SELECT b AS window_start, e AS window_end
			FROM date_bin('$size', ts, '$origin') b, generate_series(b + interval '$step', b + interval '$size', '$step') e WHERE e > ts) w" };
}

# Of a calendar: the creating session's time zone.
sub berlin_month
{
	return { sql => "stream_ckpt.tumble(ts, '1 month')",
		oracle => "LATERAL (SELECT date_trunc('month', ts, 'Europe/Berlin') AS window_start,
			(date_trunc('month', ts AT TIME ZONE 'Europe/Berlin') + interval '1 month') AT TIME ZONE 'Europe/Berlin' AS window_end) w" };
}

# ---- pipelines ----

# A pipeline is an array:
#	window, list of targets, GROUP BY
# and options
#	where		a condition, on columns of the stream and the window
#	lateness	allowed_lateness
#	final		emit => 'final'
#	stream		ev, or loc
#	second		created later: sees what is committed from then on
#	zone		of the creating session
#	sink		an existing table with a serial column, to see the order
# Or it names its own query, expected rows (`oracle`) and late rows (`late`).
my @pipelines;

sub pipeline
{
	my ($name, %p) = @_;
	my $rows;

	$p{name} = $name;
	$p{stream} ||= 'ev';
	$p{lateness} ||= '0';
	$p{where} ||= 'true';
	$p{rows} = $p{second} ? 'e2' : $p{stream} eq 'loc' ? 'e_loc' : 'e';
	$p{watermark} = "(SELECT w FROM at_end WHERE rows = '$p{rows}')";
	if ($p{window})
	{
		my $closed = $p{final} ? "HAVING max(window_end) + interval '$p{lateness}' <= $p{watermark}" : '';

		$p{query} ||= "SELECT $p{targets} FROM $p{stream}, $p{window}{sql} WHERE $p{where} GROUP BY $p{keys}";
		$p{pairs} = "(SELECT $p{rows}.*, window_start, window_end, window_end <= $p{rows}.w - interval '$p{lateness}' AS late FROM $p{rows}, $p{window}{oracle})";
		$p{oracle} ||= "SELECT $p{targets} FROM (SELECT * FROM $p{pairs} p WHERE NOT late) $p{stream} WHERE $p{where} GROUP BY $p{keys} $closed";
		$p{late} ||= "SELECT count(DISTINCT id) FROM $p{pairs} $p{stream} WHERE late AND ($p{where})";
	}
	push @pipelines, \%p;
	return;
}

# Gaps and islands.
sub session_pipeline
{
	my ($name, $gap, %p) = @_;
	my $lateness = $p{lateness} || '0';
	my $where = $p{where} || 'true';
	my $rows = $p{second} ? 'e2' : 'e';
	my $closed = $p{final} ? "HAVING max(ts) + interval '$gap' + interval '$lateness' <= (SELECT w FROM at_end WHERE rows = '$rows')" : '';
	my $values = 'count(*) AS n, sum(v) AS v, min(id) AS first, count(DISTINCT v) AS d';

	pipeline($name, %p,
		query => "SELECT k, window_start, window_end, $values FROM ev, stream_ckpt.session(ts, '$gap') WHERE $where GROUP BY k, window_start, window_end",
		oracle => "SELECT k, min(ts), max(ts) + interval '$gap', $values
			FROM (SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY k ORDER BY ts, id) AS island
				FROM (SELECT *, coalesce(ts - lag(ts) OVER (PARTITION BY k ORDER BY ts, id) >= interval '$gap', true) AS fresh
					FROM $rows ev WHERE ts >= w - interval '$lateness' AND ($where)) a) b
			GROUP BY k, island $closed",
		late => "SELECT count(*) FROM $rows ev WHERE ts < w - interval '$lateness' AND ($where)");
	return;
}

my $plain = 'count(*) AS n, sum(v) AS v, min(ts) AS lo, max(ts) AS hi';
my $minute = tumble('1 minute');
my $hops = hop('20 s', '1 minute');
my $steps = cumulate('15 s', '1 minute');

pipeline('tumble_changes', window => $minute, targets => "window_start, k, $plain", keys => '1, 2', where => 'v % 5 <> 0');
pipeline('tumble_late', window => $minute, targets => "window_start, window_end, $plain", keys => '1, 2', lateness => '45 s');
pipeline('tumble_final', window => $minute, targets => "window_start, window_end, k, $plain", keys => '1, 2, 3', final => 1);
pipeline('tumble_final_late', window => $minute, targets => "window_start, $plain", keys => '1', final => 1, lateness => '30 s', sink => 1);
pipeline('hop_changes', window => $hops, targets => "window_start, $plain", keys => '1', where => "ts < window_start + interval '50 s' AND v > 2");
pipeline('hop_final', window => $hops, targets => "window_end, k, $plain", keys => '1, 2', final => 1, sink => 1);
pipeline('cumulate_changes', window => $steps, targets => "window_start, window_end, $plain", keys => '1, 2', lateness => '20 s');
pipeline('cumulate_final', window => $steps, targets => "window_start, window_end, k, $plain", keys => '1, 2, 3', final => 1);
pipeline('months', window => berlin_month(), targets => "window_start, window_end, $plain", keys => '1, 2', zone => 'Europe/Berlin');
pipeline('months_final', window => berlin_month(), targets => "window_start, window_end, $plain", keys => '1, 2', zone => 'Europe/Berlin', final => 1);
pipeline('days_local', stream => 'loc', window => tumble('1 hour'), targets => "window_start, window_end, $plain", keys => '1, 2', zone => 'Europe/Berlin');
pipeline('local_final', stream => 'loc', window => $minute, targets => "window_start, window_end, $plain", keys => '1, 2', final => 1);
pipeline('distinct_changes', window => $minute, keys => '1',
	targets => 'window_start, count(DISTINCT v) AS d, count(DISTINCT v) FILTER (WHERE v % 2 = 0) AS even, count(DISTINCT k) FILTER (WHERE v > 5) AS dk,
		sum(DISTINCT v) AS s, array_agg(DISTINCT v ORDER BY v) AS a, avg(DISTINCT v) FILTER (WHERE k = 1) AS one, count(*) AS n');
pipeline('distinct_final', window => $hops, keys => '1, 2', final => 1,
	targets => 'window_start, window_end, count(DISTINCT v) AS d, count(DISTINCT k * 100 + v) AS p, count(DISTINCT k) FILTER (WHERE v % 3 = 0) AS third');
pipeline('ordered_changes', window => $minute, keys => '1',
	targets => q{window_start, string_agg(v::text, ',' ORDER BY ts, id) AS t, array_agg(id ORDER BY v DESC, id) FILTER (WHERE v > 4) AS i,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY v) AS median, mode() WITHIN GROUP (ORDER BY v) AS m});
pipeline('ordered_final', window => $minute, keys => '1, 2', final => 1, lateness => '10 s',
	targets => q{window_end, k, string_agg(v::text, ',' ORDER BY ts, id) AS t, percentile_disc(0.9) WITHIN GROUP (ORDER BY v) AS p});
session_pipeline('sessions', '20 s');
session_pipeline('sessions_late', '15 s', lateness => '30 s', where => 'v % 4 <> 1');
session_pipeline('sessions_final', '20 s', final => 1);
session_pipeline('sessions_final_late', '5 s', final => 1, lateness => '20 s');

# two stages: counts of a key in a window, and their extremes
foreach my $emit ('changes', 'final')
{
	my $closed = $emit eq 'final' ? q{HAVING window_start + interval '1 minute' <= (SELECT w FROM at_end WHERE rows = 'e')} : '';

	pipeline("stages_$emit", final => $emit eq 'final',
		query => "SELECT window_start, max(n) AS top, sum(n) AS n, count(*) AS keys, sum(v) AS v
			FROM (SELECT window_start, window_end, k, count(*) AS n, sum(v) AS v FROM ev, $hops->{sql} GROUP BY 1, 2, 3) x GROUP BY window_start",
		oracle => "SELECT window_start, max(n), sum(n), count(*), sum(v)
			FROM (SELECT window_start, k, count(*) AS n, sum(v) AS v FROM e, $hops->{oracle} WHERE window_end > e.w GROUP BY 1, 2) x GROUP BY window_start $closed",
		late => "SELECT count(DISTINCT id) FROM e, $hops->{oracle} WHERE window_end <= e.w");

	# and a window over the start of another, which is known for good 20 s later than it
	$closed = $emit eq 'final' ? q{HAVING b + interval '1 minute' + interval '20 s' <= (SELECT w FROM at_end WHERE rows = 'e')} : '';
	my $small = tumble('20 s');
	pipeline("nested_$emit", final => $emit eq 'final',
		query => "SELECT o.window_start, max(n) AS top, count(*) AS parts
			FROM (SELECT window_start AS s, k, count(*) AS n FROM ev, $small->{sql} GROUP BY 1, 2) x, stream_ckpt.tumble(s, '1 minute') o GROUP BY o.window_start",
		oracle => "SELECT b, max(n), count(*)
			FROM (SELECT window_start AS s, k, count(*) AS n FROM e, $small->{oracle} WHERE window_end > e.w GROUP BY 1, 2) x, date_bin('1 minute', s, '$origin') b GROUP BY b $closed",
		late => "SELECT count(DISTINCT id) FROM e, $small->{oracle} WHERE window_end <= e.w");
}

# two windows of a row: it is late where it is for one of them
pipeline('two_windows',
	query => "SELECT a.window_start AS a, b.window_start AS b, count(*) AS n FROM ev, stream_ckpt.tumble(ts, '1 minute') a, stream_ckpt.hop(ts, '15 s', '30 s') b GROUP BY 1, 2",
	oracle => "SELECT a, b, count(*) FROM two_pairs WHERE NOT late GROUP BY 1, 2",
	late => 'SELECT count(DISTINCT id) FROM two_pairs WHERE late');

# without groups: a row for each window
pipeline('linear',
	query => "SELECT id, ts, window_start, v + 1 AS v FROM ev, $hops->{sql} WHERE v % 3 = 0",
	oracle => "SELECT id, ts, window_start, v + 1 FROM e, $hops->{oracle} WHERE window_end > e.w AND v % 3 = 0",
	late => "SELECT count(DISTINCT id) FROM e, $hops->{oracle} WHERE window_end <= e.w AND v % 3 = 0");

# Groups that are forgotten when the watermark before a transaction has passed their last touch by so much.  A row touches at its own
# event time, or at the watermark before its transaction if that is later.
my $ttl = '50 s';
pipeline('forgetting',
	options => "state_ttl => '$ttl'",
	query => 'SELECT g, count(*) AS n, sum(v) AS v, count(DISTINCT v) AS d FROM ev GROUP BY g',
	oracle => "SELECT g, count(*), sum(v), count(DISTINCT v)
		FROM (SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY g ORDER BY lsn) AS life
			FROM (SELECT *, coalesce(last <> '-infinity' AND w <> '-infinity' AND last + interval '$ttl' <= w, false) AS fresh
				FROM (SELECT *, max(touch) OVER (PARTITION BY g ORDER BY lsn GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS last
					FROM (SELECT *, greatest(w, CASE WHEN isfinite(ts) THEN ts END) AS touch FROM e_all) a) b) c) d
		GROUP BY g, life
		HAVING max(touch) = '-infinity' OR max(touch) + interval '$ttl' > (SELECT w FROM at_end WHERE rows = 'e')",
	late => 'SELECT 0');

# these start later: what came before is neither in their windows nor in their watermark
pipeline('second_changes', second => 1, window => $hops, targets => "window_start, k, $plain", keys => '1, 2');
pipeline('second_final', second => 1, window => $minute, targets => "window_start, window_end, $plain", keys => '1, 2', final => 1);
session_pipeline('second_sessions', '20 s', second => 1);

# ---- the schema ----

$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_walinspect;
SELECT stream_ckpt.create_stream('ev', 'id bigint, k int, g int, v int, ts timestamptz, pad text', event_time => 'ts', watermark_delay => '$delay s');
SELECT stream_ckpt.create_stream('loc', 'id bigint, k int, v int, ts timestamp', event_time => 'ts', watermark_delay => '$local_delay s');
CREATE TABLE done (xid bigint, id bigint, k int, g int, v int, ts timestamptz);
CREATE TABLE advanced (xid bigint, wm timestamptz);
CREATE TABLE commits (xid bigint PRIMARY KEY, lsn pg_lsn);
CREATE TABLE walks AS SELECT 0 AS n;
CREATE TABLE copied (id bigint, seq bigserial);
SELECT stream_ckpt.create_pipeline('copied_in_order', 'SELECT id FROM ev', sink => 'copied');
CREATE FUNCTION final() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RAISE EXCEPTION ''% of a final row of %'', TG_OP, TG_TABLE_NAME; END';
SQL

sub quoted
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

sub create_pipelines
{
	my (@new) = @_;

	foreach my $p (@new)
	{
		my $options = "allowed_lateness => '$p->{lateness}'";
		my $sql = $p->{zone} ? "SET timezone = '$p->{zone}';\n" : '';

		$p->{result} = $p->{name};
		$options .= ", emit => 'final'" if $p->{final};
		$options .= ", $p->{options}" if $p->{options};
		if ($p->{sink})
		{
			$p->{result} = "$p->{name}_sink";
			$sql .= "CREATE TABLE $p->{result} AS $p->{query} LIMIT 0;\n" =~ s/FROM ev,/FROM done ev,/r;
			$sql .= "ALTER TABLE $p->{result} ADD COLUMN seq bigserial;\n";
			$options .= ", sink => '$p->{result}'";
		}
		$sql .= "SELECT stream_ckpt.create_pipeline('$p->{name}', " . quoted($p->{query}) . ", $options);\n";
		$sql .= "CREATE TRIGGER final BEFORE UPDATE OR DELETE ON $p->{result} FOR EACH ROW EXECUTE FUNCTION final();\n" if $p->{final};
		$node->safe_psql('postgres', $sql);
		$p->{columns} = $node->safe_psql('postgres',
			"SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '$p->{result}'::regclass AND attnum > 0 AND attname <> 'seq'");
	}
	return;
}

create_pipelines(grep { !$_->{second} } @pipelines);

# ---- producers ----

# The second at which something happens to Berlin's clocks or calendar.
my @instants = map { $node->safe_psql('postgres', "SELECT extract(epoch FROM '$_'::timestamptz)::bigint") } (
	'2024-03-31 01:00Z', '2024-04-30 22:00Z', '2024-10-27 01:00Z', '2024-10-31 23:00Z', '2024-12-31 23:00Z',
	'2025-03-30 01:00Z', '2025-03-31 22:00Z', '2025-10-26 01:00Z', '2026-01-31 23:00Z');
my $base = $instants[0] - 3 * $span;

sub timestamp
{
	my ($seconds) = @_;
	my $fraction = $seconds - POSIX::floor($seconds);

	return POSIX::strftime('%Y-%m-%d %H:%M:%S', gmtime(POSIX::floor($seconds)))
	  . ($fraction ? sprintf('.%06d', $fraction * 1_000_000) : '') . 'Z';
}

my @recent;

sub event_time
{
	my ($clock) = @_;
	my $kind = rand();
	my $time;

	return 'NULL' if $kind < 0.02;
	return rand() < 0.5 ? "'infinity'" : "'-infinity'" if $kind < 0.04;
	return $recent[ int(rand(@recent)) ] if $kind < 0.12 && @recent;
	if ($kind < 0.25)    # the boundary of some window, and what is next to it
	{
		$time = POSIX::floor(($clock + rand(40) - 25) / 5) * 5;
		$time -= 0.000001 if rand() < 0.3;
		$time += 0.000001 if rand() < 0.1;
	}
	elsif ($kind < 0.82) { $time = POSIX::floor(($clock - rand($delay)) * 1000) / 1000; }
	elsif ($kind < 0.96) { $time = POSIX::floor($clock - rand(90)); }
	elsif ($kind < 0.99) { $time = POSIX::floor($clock - rand(600)); }
	else { $time = POSIX::floor($clock + rand(30)); }
	$time = "'" . timestamp($time) . "'";
	$recent[ @recent < 50 ? @recent : int(rand(50)) ] = $time;
	return $time;
}

# Into both streams and the oracle.
sub rows
{
	my ($clock, $count) = @_;
	my @values;

	foreach (1 .. $count)
	{
		push @values, sprintf '(%d::bigint, %s::int, %d, %d, %s::timestamptz)', ++$id, rand() < 0.05 ? 'NULL' : int(rand(4)),
		  rand(12), rand(10), event_time($clock);
	}
	return 'WITH r(id, k, g, v, ts) AS MATERIALIZED (VALUES ' . join(', ', @values) . "),\n"
	  . "a AS (INSERT INTO ev SELECT id, k, g, v, ts, '' FROM r ORDER BY id),\n"
	  . "b AS (INSERT INTO loc SELECT id, k, v, ts AT TIME ZONE 'Europe/Berlin' FROM r)\n"
	  . "INSERT INTO done SELECT pg_current_xact_id()::xid::text::bigint, * FROM r;\n";
}

# Rows that must leave no trace, the watermark included.
sub junk
{
	my ($clock) = @_;
	my $time = timestamp($clock + 100_000);

	return "INSERT INTO ev SELECT -1, 1, 1, 1, '$time', '' FROM generate_series(1, 3);\nINSERT INTO loc VALUES (-1, 1, 1, '$time');\n"
	  . "SELECT stream_ckpt.advance_watermark('ev', '$time');\n";
}

sub advance
{
	my ($clock) = @_;
	my $time = timestamp(POSIX::floor($clock - $delay - 20 + rand(35)));

	return "SELECT stream_ckpt.advance_watermark('ev', '$time');\n"
	  . "INSERT INTO advanced VALUES (pg_current_xact_id()::xid::text::bigint, '$time');\n";
}

# More than the log reader keeps in memory, spread over the last minutes.
sub large
{
	my ($clock) = @_;
	my $count = 5_000;
	my $first = $id + 1;
	my $time = timestamp(POSIX::floor($clock));

	$id += $count;
	return "BEGIN;\nCREATE TEMP TABLE big ON COMMIT DROP AS SELECT $first + i AS id, i % 4 AS k, i % 12 AS g, i * 7 % 10 AS v, '$time'::timestamptz - i % 97 * interval '1 s' AS ts\n"
	  . "FROM generate_series(0::bigint, $count - 1) i;\n"
	  . "INSERT INTO ev SELECT *, repeat('x', 300) FROM big ORDER BY id;\nINSERT INTO loc SELECT id, k, v, ts AT TIME ZONE 'Europe/Berlin' FROM big;\n"
	  . "INSERT INTO done SELECT pg_current_xact_id()::xid::text::bigint, * FROM big;\nCOMMIT;\n";
}

sub transaction
{
	my ($clock) = @_;
	my $shape = rand();
	my $count = 1 + int(rand(6));

	return rows($clock, $count) if $shape < 0.45;
	return "BEGIN;\n" . join('', map { rows($clock + rand(20), 1 + int(rand(3))) } 1 .. 3) . "COMMIT;\n" if $shape < 0.60;
	return "BEGIN;\n" . advance($clock) . "COMMIT;\n" if $shape < 0.66;
	return "BEGIN;\n" . rows($clock, $count) . advance($clock) . rows($clock, 2) . "COMMIT;\n" if $shape < 0.71;
	return "BEGIN;\n" . junk($clock) . rows($clock, 1) . "ROLLBACK;\n" if $shape < 0.78;
	return "BEGIN;\n" . rows($clock, $count) . "SAVEPOINT a;\n" . junk($clock) . "ROLLBACK TO a;\nSAVEPOINT b;\n" . rows($clock, 2) . "RELEASE b;\nCOMMIT;\n"
	  if $shape < 0.92;
	return "BEGIN;\n" . rows($clock, $count) . advance($clock) . "PREPARE TRANSACTION 'p$id';\n"
	  . (rand() < 0.5 ? "COMMIT PREPARED 'p$id';\n" : '');
}

sub start_producer
{
	my ($round, $producer) = @_;
	my $file = "$scripts/$producer.sql";
	my $script = join '', map { transaction($base + $span * $_ / $transactions) } 1 .. $transactions;

	$script .= large($base + $span) if $producer == 1 && $round % 9 == 4 && $round < 60;
	open my $fh, '>', $file or die $!;
	print $fh $script;
	close $fh;

	my $pid = fork() // die $!;
	return $pid if $pid;
	open STDIN, '<', '/dev/null';
	open STDOUT, '>', "$scripts/$producer.out";
	open STDERR, '>&', \*STDOUT;
	exec $node->installed_command('psql'), '-Xqf', $file, '-d', $node->connstr('postgres')
	  or POSIX::_exit(1);
}

sub finish_prepared
{
	my ($share) = @_;

	foreach my $gid (split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts ORDER BY 1'))
	{
		next if rand() > $share;
		$node->safe_psql('postgres', (rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
	return;
}

# ---- the oracle ----

my $walked = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
my $second_lsn = 'FFFFFFFF/0';

# Learn the order of the commits since the last time.
sub walk
{
	my ($next) = $node->safe_psql('postgres', <<"SQL") =~ /(\S+)\s*$/;
UPDATE walks SET n = n + 1;		-- flushes the log
CREATE TEMP TABLE reached AS SELECT pg_current_wal_flush_lsn() AS lsn;
INSERT INTO commits
	SELECT CASE record_type WHEN 'COMMIT' THEN xid::text ELSE substring(description FROM '^\\d+') END::bigint, start_lsn
	FROM reached, pg_get_wal_records_info('$walked', lsn)
	WHERE resource_manager = 'Transaction' AND record_type IN ('COMMIT', 'COMMIT_PREPARED')
	ON CONFLICT DO NOTHING;
SELECT lsn FROM reached;
SQL
	$walked = $next;
	return;
}

# What rows and watermarks were, transaction by transaction.
sub oracle_tables
{
	return <<"SQL";
SET timezone = 'UTC';
SET work_mem = '64MB';
SET jit = off;
CREATE TEMP TABLE txs AS
	SELECT c.xid, c.lsn, greatest(d.top - interval '$delay s', a.top) AS top, d.loc - interval '$local_delay s' AS loc
	FROM commits c
	LEFT JOIN (SELECT xid, max(ts) FILTER (WHERE isfinite(ts)) AS top, max(ts AT TIME ZONE 'Europe/Berlin') FILTER (WHERE isfinite(ts)) AS loc
		FROM done GROUP BY xid) d USING (xid)
	LEFT JOIN (SELECT xid, max(wm) AS top FROM advanced GROUP BY xid) a USING (xid)
	WHERE d.xid IS NOT NULL OR a.xid IS NOT NULL;
CREATE TEMP TABLE marks AS
	SELECT xid, lsn, top, loc,
		coalesce(max(top) OVER earlier, '-infinity') AS w,
		coalesce(max(loc) OVER earlier, '-infinity') AS w_loc,
		coalesce(max(top) FILTER (WHERE lsn > '$second_lsn') OVER earlier, '-infinity') AS w2
	FROM txs WINDOW earlier AS (ORDER BY lsn ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);
CREATE TEMP TABLE at_end AS
	SELECT 'e' AS rows, max(top) AS w FROM txs UNION ALL
	SELECT 'e_loc', max(loc) AT TIME ZONE 'UTC' FROM txs UNION ALL
	SELECT 'e2', max(top) FROM txs WHERE lsn > '$second_lsn';
CREATE TEMP TABLE e_all AS SELECT id, k, g, v, ts, lsn, w FROM done JOIN marks USING (xid);
CREATE TEMP TABLE e AS SELECT id, k, g, v, ts, w FROM e_all WHERE isfinite(ts);
CREATE TEMP TABLE e_loc AS SELECT id, k, v, ts AT TIME ZONE 'Europe/Berlin' AS ts, w_loc AS w FROM done JOIN marks USING (xid) WHERE isfinite(ts);
CREATE TEMP TABLE e2 AS SELECT id, k, v, ts, w2 AS w FROM done JOIN marks USING (xid) WHERE isfinite(ts) AND lsn > '$second_lsn';
CREATE TEMP TABLE two_pairs AS
	SELECT id, a, b, a + interval '1 minute' <= w OR b + interval '30 s' <= w AS late
	FROM e, date_bin('1 minute', ts, '$origin') a, generate_series(date_bin('15 s', ts, '$origin') - interval '15 s', date_bin('15 s', ts, '$origin'), '15 s') b;
ANALYZE e;
ANALYZE e_all;
SQL
}

sub compare
{
	my ($when) = @_;
	my $sql = oracle_tables();
	my @created = grep { $_->{result} } @pipelines;
	my $started = time();

	walk();
	checkpoint($node);
	my $waited = time() - $started;
	$sql .= "SELECT 'order unknown', count(*) FROM done WHERE xid NOT IN (SELECT xid FROM commits);\n";
	$sql .= "SELECT 'rows in order', (SELECT count(*) FROM (SELECT lsn, lag(lsn) OVER (ORDER BY seq) AS before FROM copied JOIN e_all USING (id)) x WHERE before > lsn)
		+ abs((SELECT count(*) FROM copied) - (SELECT count(*) FROM e_all));\n";
	foreach my $p (@created)
	{
		my $relation = "(SELECT $p->{columns} FROM $p->{result}) r";

		# the rows that differ: (+, what should not be there) and (-, what should)
		$sql .= "SELECT '$p->{name}', left(string_agg(differing::text, ' '), 400), count(*)
			FROM (SELECT '+' AS sign, x.* FROM (SELECT * FROM $relation EXCEPT ALL ($p->{oracle})) x
			UNION ALL SELECT '-', x.* FROM (($p->{oracle}) EXCEPT ALL SELECT * FROM $relation) x) differing;\n";
		$sql .= "SELECT '$p->{name} late', late_rows - ($p->{late}) FROM stream_ckpt.pipelines WHERE pipeline = '$p->{name}';\n";
		$sql .= "SELECT '$p->{name} watermark', (watermark IS DISTINCT FROM $p->{watermark})::int FROM stream_ckpt.pipelines WHERE pipeline = '$p->{name}';\n";
		$sql .= "SELECT '$p->{name} in window order', count(*) FROM (SELECT w < lag(w) OVER (ORDER BY seq) AS back FROM (SELECT seq, $1 AS w FROM $p->{result}) x) y WHERE back;\n"
		  if $p->{sink} && $p->{columns} =~ /(window_\w+)/;
	}
	$sql .= "SELECT pipeline || ' ' || status || ' ' || coalesce(error, ''), 1 FROM stream_ckpt.pipelines WHERE status <> 'running';\n";
	my ($rc, $answer, $problem) = try_psql($node, 'postgres', $sql, on_error_stop => 0);
	my %seen = map { /^([^|]*)\|(.*\|)?(-?\d+)$/ ? ($1, $3) : () } split /\n/, $answer;
	my @wrong = grep { !/\|0$/ } split /\n/, $answer;

	push @wrong, map { "$_->{name} was not compared" } grep { !defined $seen{ $_->{name} } } @created;
	note sprintf 'checkpoint %.2f s, comparison %.2f s', $waited, time() - $started - $waited;
	return is(join("\n", @wrong, $problem), '', "results, late rows and watermarks are right: $when");
}

# ---- rounds ----

my @kinds = ('none', 'worker', 'postmaster', 'immediate', 'error', 'kill', 'restart');
my @points = ('checkpoint-trigger', 'barrier', 'chunks-written', 'before-commit', 'after-commit', 'cleanup', 'restore');
my %done;

compare('over no rows');
foreach my $round (1 .. $rounds)
{
	my $kind = $round <= @kinds ? $kinds[ $round - 1 ] : $kinds[ int(rand(@kinds)) ];
	my $point = $points[ int(rand(@points)) ];
	my $started = time();

	if ($round == $second_start)
	{
		# nothing is running
		create_pipelines(grep { $_->{second} } @pipelines);
		$second_lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	}
	set_fault($node, "$point:$kind") if $kind eq 'error' || $kind eq 'kill';
	my @running = map { start_producer($round, $_) } 1 .. $producers;

	usleep(20_000 + int(rand(300_000))) if $kind ne 'none';    # a random moment is what this test is about
	if ($kind eq 'worker' || ($point eq 'restore' && $kind eq 'error'))
	{
		my $pid = 0;

		wait_for('a worker', sub { return $pid = worker_pid($node) }, 60);
		kill_pid('KILL', $pid);
		wait_for('the server to notice', sub { return !kill(0, $pid) }, 60);
	}
	elsif ($kind eq 'postmaster') { kill_server($node); start_again($node); }
	elsif ($kind eq 'immediate') { $node->stop('immediate'); start_again($node); }
	elsif ($kind eq 'restart') { $node->stop('fast'); start_again($node); }
	waitpid $_, 0 foreach @running;
	clear_fault($node) if $kind eq 'error' || $kind eq 'kill';
	wait_for('the server', sub { accepts($node) }, 60);
	finish_prepared(0.5);
	note sprintf "round %d: %s%s, %.2f s", $round, $kind, ($kind eq 'error' || $kind eq 'kill') ? " at $point" : '', time() - $started;
	# the oracle's work grows with the rows
	compare("round $round, $kind") if $round <= 24 || $round % 8 == 0;
	$done{$kind}++;

	# event time goes on, a little, or to the next instant where something happens
	$base += $span;
	if (rand() < 0.35 || $round < 3)
	{
		my ($next) = grep { $_ - $span > $base } @instants;
		$base = $next - $span * rand() if $next;
	}
	elsif (rand() < 0.3) { $base += rand(2000); }
	$base = POSIX::floor($base);
}
note join ', ', map { "$_: $done{$_}" } sort keys %done;

# the end of all windows
finish_prepared(1);
$node->safe_psql('postgres', "BEGIN;\n" . "SELECT stream_ckpt.advance_watermark('ev', '2030-01-01Z');\n"
	  . "INSERT INTO advanced VALUES (pg_current_xact_id()::xid::text::bigint, '2030-01-01Z');\n"
	  . "WITH r AS (INSERT INTO loc VALUES (0, 0, 0, '2030-01-01') RETURNING id) INSERT INTO done SELECT pg_current_xact_id()::xid::text::bigint, 0, 0, 0, 0, '2029-12-31 23:00Z' FROM r;\n"
	  . "INSERT INTO ev VALUES (0, 0, 0, 0, '2029-12-31 23:00Z', '');\nCOMMIT;");
compare('when everything has closed');
# only the last row's windows of loc, and the windows of ev that contain it, may still be open
is( $node->safe_psql('postgres', q{SELECT coalesce(string_agg(pipeline || ' ' || state_rows, ', ' ORDER BY pipeline), '') FROM stream_ckpt.pipelines
	WHERE state_rows > CASE WHEN query LIKE '%loc%' OR query LIKE '%month%' THEN 1 ELSE 0 END AND pipeline <> 'forgetting'}),
	'', 'closed windows have left the state');

my ($rows, $late) = split /\|/, $node->safe_psql('postgres', q{SELECT count(*), (SELECT min(late_rows) FROM stream_ckpt.pipelines WHERE query LIKE '%tumble%' AND query LIKE '%minute%') FROM done});
cmp_ok($rows, '>', 60 * $rounds, "$rows rows were committed");
cmp_ok($late, '>', 0, 'there were late rows in each');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion');

$node->stop('fast');
done_testing();
