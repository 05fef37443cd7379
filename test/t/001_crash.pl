# SIGKILL at random moments, under producers that commit, roll back, use
# savepoints, fail, prepare and finish later, and send transactions larger than
# the log reader's memory.  Every producer writes the same rows to an ordinary
# table in the same transaction: that is the oracle.  A reader looks at the
# results all the time: they never go backwards and never show part of a
# transaction.

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

my $rounds = $ENV{STREAM_CKPT_ROUNDS} || 32;
my $producers = 3;
my $transactions = 120;		# in one producer's script
my $junk = -1;				# group of rows that must never arrive
my $counter = 0;

seed_random();

my $node = new_cluster('crash',
	'stream_ckpt.log_memory' => "'1MB'",
	checkpoint_timeout => "'30s'",
	wal_keep_size => 0,
	max_wal_size => "'64MB'",
	min_wal_size => "'32MB'");
my $scripts = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', <<'SQL');
SELECT stream_ckpt.create_stream('ev', 'id bigint, g int, amount bigint, pad text');
SELECT stream_ckpt.create_stream('ev2', 'id bigint, g int, amount bigint');
CREATE TABLE oracle (id bigint, g int, amount bigint, pad text);
CREATE TABLE dim (g int PRIMARY KEY, name text);
INSERT INTO dim SELECT i, 'name ' || i % 5 FROM generate_series(0, 18) i;

-- k times seven rows whose amounts add up to nothing, over twenty groups; parts first to last of each seven
CREATE FUNCTION make(txn bigint, k int, first int DEFAULT 0, last int DEFAULT 6, pad int DEFAULT 10)
RETURNS TABLE (id bigint, g int, amount bigint, pad text) LANGUAGE sql IMMUTABLE AS $$
	SELECT txn * 1000000 + i * 7 + j, ((txn + i) * 31 + j * 3)::int % 20, CASE WHEN j < 6 THEN j + 1 ELSE -21 END, repeat('x', pad)
	FROM generate_series(0, k - 1) i, generate_series(first, last) j
$$;

SELECT stream_ckpt.create_pipeline('by_group', 'SELECT g, count(*) AS n, sum(amount) AS amount, min(id) AS min, max(id) AS max FROM ev GROUP BY g');
SELECT stream_ckpt.create_pipeline('total', 'SELECT count(*) AS n, sum(amount) AS amount, avg(id) AS id FROM ev');
SELECT stream_ckpt.create_pipeline('copied', 'SELECT id, g, amount FROM ev');
SELECT stream_ckpt.create_pipeline('joined', 'SELECT d.name, count(*) AS n, max(ev.id) AS max FROM ev LEFT JOIN dim d USING (g) GROUP BY d.name');
SELECT stream_ckpt.create_pipeline('forward', 'SELECT id, g, amount FROM ev', sink => 'ev2');
SELECT stream_ckpt.create_pipeline('chained', 'SELECT g, count(*) AS n, sum(amount) AS amount, min(id) AS min, max(id) AS max FROM ev2 GROUP BY g');
SQL

# One transaction of random shape.
sub transaction
{
	my ($producer) = @_;
	my $txn = $producer * 100_000 + ++$counter;
	my $both = sub {
		my $rows = shift;
		return "INSERT INTO ev SELECT * FROM make($rows);\nINSERT INTO oracle SELECT * FROM make($rows);\n";
	};
	my $junk_rows = "INSERT INTO ev SELECT id, $junk, amount, pad FROM make($txn, 3);\n";
	my $shape = rand();

	return "BEGIN;\n" . $both->("$txn, 1") . "COMMIT;\n" if $shape < 0.30;
	return "BEGIN;\n${junk_rows}ROLLBACK;\n" if $shape < 0.38;
	# one statement
	return "WITH m AS MATERIALIZED (SELECT * FROM make($txn, 2)), i AS (INSERT INTO ev SELECT * FROM m)\n"
	  . "INSERT INTO oracle SELECT * FROM m;\n"
	  if $shape < 0.50;
	# subtransactions: kept, undone, kept within undone
	return
		"BEGIN;\nSAVEPOINT a;\n"
	  . $both->("$txn, 1, 0, 2")
	  . "RELEASE a;\nSAVEPOINT b;\n${junk_rows}SAVEPOINT c;\n${junk_rows}RELEASE c;\nROLLBACK TO b;\n"
	  . $both->("$txn, 1, 3, 5")
	  . "SAVEPOINT d;\n"
	  . $both->("$txn, 1, 6, 6")
	  . "COMMIT;\n"
	  if $shape < 0.68;
	# a statement fails, and with it the transaction
	return "BEGIN;\n${junk_rows}INSERT INTO ev SELECT id, $junk, 1 / (j - 3), '' FROM make($txn, 1), generate_series(1, 5) j;\nCOMMIT;\n"
	  if $shape < 0.76;
	# two phases; some are left for later rounds
	if ($shape < 0.92)
	{
		my $finish = rand();

		return "BEGIN;\n"
		  . $both->("$txn, 1, 0, 3")
		  . "SAVEPOINT a;\n"
		  . $both->("$txn, 1, 4, 6")
		  . "PREPARE TRANSACTION 'p$txn';\n"
		  . ($finish < 0.4 ? "COMMIT PREPARED 'p$txn';\n"
			: $finish < 0.7 ? "ROLLBACK PREPARED 'p$txn';\n"
			: '');
	}
	# many rows, some larger than the reader's memory for all of them
	return "BEGIN;\n" . $both->("$txn, 60, 0, 6, 20") . "COMMIT;\n" if $shape < 0.99;
	return large($txn);
}

# 7,000 rows of 300 bytes in one transaction: 2 MB.
sub large
{
	my ($txn) = @_;

	return "BEGIN;\nINSERT INTO ev SELECT * FROM make($txn, 500, 0, 6, 300);\nSAVEPOINT a;\n"
	  . "INSERT INTO ev SELECT * FROM make($txn + 1, 500, 0, 6, 300);\nRELEASE a;\n"
	  . "INSERT INTO oracle SELECT * FROM make($txn, 500) UNION ALL SELECT * FROM make($txn + 1, 500);\nCOMMIT;\n";
}

# A psql that runs a random script until the server goes away below it.
sub start_producer
{
	my ($round, $producer) = @_;
	my $file = "$scripts/$producer.sql";
	my $script = join '', map { transaction($producer) } 1 .. $transactions;

	if ($producer == 1 && $round % 5 == 1)
	{
		$counter += 2;
		$script = large($producer * 100_000 + $counter - 1) . $script;
	}
	open my $fh, '>', $file or die $!;
	print $fh $script;
	close $fh;

	my $pid = fork() // die $!;
	return $pid if $pid;
	open STDIN, '<', '/dev/null';
	open STDOUT, '>', "$scripts/$producer.out";
	open STDERR, '>&', \*STDOUT;
	$ENV{PGAPPNAME} = "producer $producer";
	exec $node->installed_command('psql'), '-Xqf', $file, '-d', $node->connstr('postgres')
	  or POSIX::_exit(1);
}

# Looks at the results until the file "stop" appears; says what it saw in the file "reader".
sub start_reader
{
	my $pid = fork() // die $!;
	return $pid if $pid;

	my (%groups, %last, @wrong);
	my $looks = 0;
	my $session;

	local $@;
	while (!-e "$scripts/stop" && @wrong < 20)
	{
		$session = eval { session($node) } if !$session;
		my $copied = $looks % 20 == 0 ? 'copied' : '(SELECT FROM copied LIMIT 0) c';
		my $answer = $session && eval {
			$session->query(
				qq{SELECT 'group ' || g || '=' || n FROM by_group UNION ALL
				   SELECT 'chained ' || g || '=' || n FROM chained UNION ALL
				   SELECT 'name ' || coalesce(name, 'null') || '=' || n FROM joined UNION ALL
				   SELECT 'whole by_group=' || coalesce(sum(n), 0) || ' ' || coalesce(sum(amount), 0) FROM by_group UNION ALL
				   SELECT 'whole chained=' || coalesce(sum(n), 0) || ' ' || coalesce(sum(amount), 0) FROM chained UNION ALL
				   SELECT 'whole joined=' || coalesce(sum(n), 0) || ' 0' FROM joined UNION ALL
				   SELECT 'whole total=' || coalesce(sum(n), 0) || ' ' || coalesce(sum(amount), 0) FROM total UNION ALL
				   SELECT 'whole copied=' || count(*) || ' ' || 0 FROM $copied})
		};
		if (!defined $answer || $answer =~ /FATAL|ERROR/)
		{
			push @wrong, "error: $answer" if defined $answer && $answer =~ /ERROR/;
			eval { $session->close } if $session;
			undef $session;
			usleep(20_000);    # the server is down: the next try is the condition
			next;
		}
		my $found = 0;
		foreach my $line (split /\n/, $answer)
		{
			my ($what, $n, $amount) = $line =~ /^(.*)=(\d+)(?: (-?\d+))?$/;

			if (!defined $n)
			{
				# the server is starting or stopping
				next;
			}
			next if $what eq 'whole copied' && $looks % 20;
			$found++;
			push @wrong, "$what went from $last{$what} to $n" if defined $last{$what} && $n < $last{$what};
			push @wrong, "$what shows $n rows: part of a transaction" if $what =~ /^whole/ && $n % 7;
			push @wrong, "$what shows the amount $amount: part of a transaction" if defined $amount && $amount != 0;
			push @wrong, "$what: rolled back" if $what =~ / $junk$/;
			$last{$what} = $n;
		}
		$looks++ if $found;
		usleep(5_000);    # leave the processors to what is being tested
	}
	open my $fh, '>', "$scripts/reader" or POSIX::_exit(1);
	print $fh "$looks\n", map { "$_\n" } @wrong;
	close $fh;
	POSIX::_exit(0);
}

# A prepared transaction may be finished rounds after it was prepared.
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

sub compare
{
	my ($when) = @_;

	checkpoint($node);
	my $answer = $node->safe_psql('postgres', <<'SQL');
SET work_mem = '64MB';
CREATE TEMP VIEW groups AS SELECT g, count(*) AS n, sum(amount) AS amount, min(id) AS min, max(id) AS max FROM oracle GROUP BY g;
CREATE TEMP VIEW names AS SELECT d.name, count(*) AS n, max(o.id) AS max FROM oracle o LEFT JOIN dim d USING (g) GROUP BY d.name;
SELECT 'lost ' || count(*) FROM (SELECT id, g, amount FROM oracle EXCEPT ALL SELECT id, g, amount FROM copied) x;
SELECT 'duplicated ' || count(*) FROM (SELECT id, g, amount FROM copied EXCEPT ALL SELECT id, g, amount FROM oracle) x;
SELECT 'by_group ' || count(*) FROM ((TABLE by_group EXCEPT ALL TABLE groups) UNION ALL (TABLE groups EXCEPT ALL TABLE by_group)) x;
SELECT 'chained ' || count(*) FROM ((TABLE chained EXCEPT ALL TABLE groups) UNION ALL (TABLE groups EXCEPT ALL TABLE chained)) x;
SELECT 'joined ' || count(*) FROM ((TABLE joined EXCEPT ALL TABLE names) UNION ALL (TABLE names EXCEPT ALL TABLE joined)) x;
SELECT 'total ' || count(*) FROM (SELECT count(*), sum(amount), avg(id) FROM oracle EXCEPT ALL TABLE total) x;
SQL
	return is($answer, "lost 0\nduplicated 0\nby_group 0\nchained 0\njoined 0\ntotal 0", $when);
}

checkpoint($node);
my $reader = start_reader();
my %killed;

foreach my $round (1 .. $rounds)
{
	my @running = map { start_producer($round, $_) } 1 .. $producers;
	my $kind = ('worker', 'postmaster', 'producer', 'immediate')[ $round <= 4 ? $round - 1 : int(rand(4)) ];
	my $wait = 50_000 + int(rand(600_000));

	note "round $round: $kind after $wait us";
	usleep($wait);    # a random moment is what this test is about
	if ($kind eq 'worker')
	{
		my $pid = 0;

		wait_for('a worker', sub { return $pid = worker_pid($node) }, 60);
		kill_pid('KILL', $pid);
	}
	elsif ($kind eq 'producer')
	{
		my (undef, $pid) = try_psql($node, 'postgres',
			q{SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'producer%' ORDER BY random() LIMIT 1});

		kill_pid('KILL', $pid) if $pid;
		$kind = 'no producer' if !$pid;
	}
	elsif ($kind eq 'postmaster') { kill_server($node); start_again($node); }
	else { $node->stop('immediate'); start_again($node); }
	$killed{$kind}++;

	waitpid $_, 0 foreach @running;
	wait_for('the server', sub { accepts($node) }, 60);
	finish_prepared(0.5);
	compare("results are right after round $round") if $round % 8 == 0;
}
note join ', ', map { "$_: $killed{$_}" } sort keys %killed;

finish_prepared(1);
$node->safe_psql('postgres', large(9_000_000));
compare("results are right after the last of $rounds rounds");

open my $stop, '>', "$scripts/stop" or die $!;
close $stop;
waitpid $reader, 0;
my ($looks, @wrong) = split /\n/, slurp_file("$scripts/reader");
cmp_ok($looks, '>', $rounds, "a reader looked at the results $looks times");
is(join("\n", @wrong), '', 'results never went backwards and never showed part of a transaction');

my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM oracle');
cmp_ok($rows, '>', 10_000, "$rows rows were committed");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM stream_ckpt.restores'), '>', $rounds / 2, 'restores are listed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_ckpt.checkpoints c WHERE status = 'in_progress' AND triggered_at < now() - interval '1 min'}),
	'0', 'no checkpoint is left in progress');
is( $node->safe_psql('postgres', q{SELECT string_agg(DISTINCT status, ',') FROM stream_ckpt.pipelines}),
	'running', 'all pipelines run');

# the log behind the last checkpoint is let go
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
checkpoint($node);
wait_for('the slot to follow', sub {
	return $node->safe_psql('postgres',
		q{SELECT pg_current_wal_lsn() - restart_lsn < 40 * 1024 * 1024 FROM pg_replication_slots WHERE slot_name LIKE 'stream\_ckpt\_%'}) eq 't';
}, 60);
ok(1, 'the slot follows the log');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion');

$node->stop('fast');
done_testing();
