# The bank: transfers between accounts in one stream, and pipelines for balances; one of them joins what accounts got with what they gave.
# Whoever reads them, in whatever snapshot, on the primary or on a standby, finds
# that they add up to zero, that no writer's rows have a gap, and that nothing
# goes back: through SIGKILL of workers and of the postmaster, immediate stops,
# crashes of the standby, and its promotion under load. In the end balances equal
# those of a table that was written in the same transactions.
#
# STREAM_CKPT_PARALLELISM="1 4" says for which numbers of tasks, STREAM_CKPT_ROUNDS or LONG=1 ask for more rounds.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time usleep);

my $start = time();
my $rounds = $ENV{STREAM_CKPT_ROUNDS} || ($ENV{LONG} ? 120 : 12);
my $writers = 4;
my $rate = 400;				# transactions a second, of all writers
my $accounts = 40;
my $branches = 7;
my $rollback = 'rolled back';
my $scripts = PostgreSQL::Test::Utils::tempdir();

seed_random();

my $primary = new_cluster('primary',
	'stream_ckpt.workers' => 2,
	'stream_ckpt.checkpoint_interval' => "'20ms'",
	'stream_ckpt.log_memory' => "'256kB'",
	hot_standby_feedback => 'on',
	max_standby_streaming_delay => -1,
	checkpoint_timeout => "'30s'",
	wal_retrieve_retry_interval => "'50ms'",
	log_min_messages => 'warning',
	log_statement => 'none');
my @levels = parallelisms($primary);

$primary->safe_psql('postgres', <<"SQL" . join '', map { <<"PIPELINES" } @levels);
SELECT stream_ckpt.create_stream('transfers', 'writer int, seq bigint, account int, amount bigint, note text');
SELECT stream_ckpt.create_stream('forwarded', 'account int, amount bigint');
CREATE TABLE oracle (writer int, seq bigint, account int, amount bigint, PRIMARY KEY (writer, seq));
SQL
SELECT stream_ckpt.create_pipeline('balances_$_', 'SELECT account, sum(amount) AS balance, count(*) AS n FROM transfers GROUP BY account', parallelism => $_);
SELECT stream_ckpt.create_pipeline('branches_$_', 'SELECT account % $branches AS branch, sum(balance) AS balance, sum(n) AS n
	FROM (SELECT account, sum(amount) AS balance, count(*) AS n FROM transfers GROUP BY account) accounts GROUP BY 1', parallelism => $_);
SELECT stream_ckpt.create_pipeline('facing_$_', 'SELECT coalesce(c.account, d.account) AS account, coalesce(credit, 0) - coalesce(debit, 0) AS balance, coalesce(c.n, 0) + coalesce(d.n, 0) AS n
	FROM (SELECT account, sum(amount) AS credit, count(*) AS n FROM transfers WHERE amount > 0 GROUP BY account) c
	FULL JOIN (SELECT account, -sum(amount) AS debit, count(*) AS n FROM transfers WHERE amount < 0 GROUP BY account) d ON c.account = d.account', parallelism => $_);
SELECT stream_ckpt.create_pipeline('writers_$_', 'SELECT writer, account, sum(amount) AS balance, count(*) AS n, max(seq) AS last FROM transfers GROUP BY writer, account', parallelism => $_);
PIPELINES
$primary->safe_psql('postgres', <<"SQL");
SELECT stream_ckpt.create_pipeline('forward', 'SELECT account, amount FROM transfers', sink => 'forwarded', parallelism => $levels[-1]);
SELECT stream_ckpt.create_pipeline('chained', 'SELECT account, sum(amount) AS balance, count(*) AS n FROM forwarded GROUP BY account', parallelism => $levels[-1]);
SELECT stream_ckpt.checkpoint();
SQL
my @tables = ((map { ("balances_$_", "branches_$_", "facing_$_", "writers_$_") } @levels), 'chained');

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# ---- writers ----

# Some transfers of one transaction: first what is taken, in a statement of its own, then what is given. A writer's rows are numbered without
# gaps: the next number is what the table says, for a transaction that a crash ended counts for nothing.
sub transfers
{
	my ($file, $pairs, $pad) = @_;
	my $both = sub {
		my ($seq, $account, $amount) = @_;
		return "WITH r AS MATERIALIZED (SELECT :client_id + 1 AS writer, $seq AS seq, $account AS account, $amount AS amount FROM generate_series(1, :pairs) i),"
		  . " s AS (INSERT INTO transfers SELECT r.*, repeat('x', $pad) FROM r) INSERT INTO oracle SELECT * FROM r;\n";
	};

	append_to_file("$scripts/$file", <<"SCRIPT");
\\set pairs $pairs
\\set a random(0, $accounts - 1)
\\set b random(0, $accounts - 1)
\\set x random(1, 1000)
\\set kind random(1, 10)
BEGIN;
SELECT coalesce(max(seq), 0) AS base FROM oracle WHERE writer = :client_id + 1 \\gset
\\if :kind = 1
SAVEPOINT a;
INSERT INTO transfers SELECT :client_id + 1, :base + i, :a, :x, '$rollback' FROM generate_series(1, :pairs) i;
ROLLBACK TO a;
\\endif
@{[ $both->(':base + i', "(:a + i) % $accounts", '-:x * i') ]}
\\if :kind < 4
SAVEPOINT b;
\\endif
@{[ $both->(':base + :pairs + i', "(:b + i * 7) % $accounts", ':x * i') ]}
\\if :kind = 10
INSERT INTO transfers SELECT :client_id + 1, :base + i, :a, :x, '$rollback' FROM generate_series(1, :pairs) i;
ROLLBACK;
\\else
COMMIT;
\\endif
SCRIPT
	return "$scripts/$file";
}

my $small = transfers('small', 'random(1, 5)', 0);
my $large = transfers('large', 'random(100, 800)', 50);	# more than the log reader's memory, sometimes

# Runs pgbench against a node, again and again, until the file "writers.stop" is there.
sub start_writers
{
	my ($node) = @_;
	my $pid = fork() // die $!;
	return $pid if $pid;

	open STDIN, '<', '/dev/null';
	open STDOUT, '>>', "$scripts/writers.out";
	open STDERR, '>&', \*STDOUT;
	while (!-e "$scripts/writers.stop")
	{
		my $bench = fork() // POSIX::_exit(1);
		if (!$bench)
		{
			exec $node->installed_command('pgbench'), '-n', '-c', $writers, '-j', 1, '-R', $rate, '-T', 3600, '-f', "$small\@99", '-f', "$large\@1", $node->connstr('postgres')
			  or POSIX::_exit(1);
		}
		while (waitpid($bench, POSIX::WNOHANG()) == 0)
		{
			kill('TERM', $bench) if -e "$scripts/writers.stop";
			usleep(20_000);
		}
		usleep(50_000);    # the server is away: the next try is the condition
	}
	POSIX::_exit(0);
}

sub stop_writers
{
	my ($pid) = @_;

	append_to_file("$scripts/writers.stop", '');
	waitpid $pid, 0;
	unlink "$scripts/writers.stop";
	return;
}

# ---- readers ----

# One snapshot of all results: for each its name, balance, rows, and what is wrong in itself.
my $look = join ' UNION ALL ', map {
	my $gap = /^writers/ ? qq{(SELECT string_agg('writer ' || writer || ': ' || n || ' rows, the last has number ' || last, ', ')
		FROM (SELECT writer, sum(n) AS n, max(last) AS last FROM $_ GROUP BY writer) x WHERE n <> last)} : 'NULL';
	"SELECT '$_', coalesce(sum(balance), 0), coalesce(sum(n), 0), coalesce($gap, ''), md5(coalesce(string_agg(balance::text, ' ' ORDER BY $_.*::text), '')) FROM $_"
} @tables;

# Looks at the results until the file "readers.stop" is there. What it has seen is in a file: looks, then for each table how many states
# and the time of the last change; then what was wrong.
sub start_reader
{
	my ($node, $name) = @_;
	my $pid = fork() // die $!;
	return $pid if $pid;

	my ($session, $looks, %rows, %last, %states, @wrong) = (undef, 0);

	local $@;
	while (@wrong < 20)
	{
		my $stop = -e "$scripts/readers.stop";

		$session = eval { session($node) } if !$session;
		# every other time, two statements of one snapshot
		my $twice = $looks % 2;
		my $answer = $session && eval { $session->query($twice ? "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; $look; $look; COMMIT" : $look) };
		my @lines = split /\n/, $answer // '';
		my $wanted = @tables * (1 + $twice);

		if (@lines != $wanted || grep { !/^\w+\|-?\d+\|\d+\|/ } @lines)
		{
			push @wrong, "no answer but: $answer"
			  if defined $answer && $answer =~ /ERROR/ && $answer !~ /conflict with recovery|terminating connection|not yet accepting|starting up|shutting down/;
			eval { $session->close } if $session;
			undef $session;
			last if $stop;
			usleep(20_000);    # the server is down: the next try is the condition
			next;
		}
		my %seen;
		foreach (@lines)
		{
			my ($table, $balance, $n, $gap, $state) = split /\|/, $_, 5;

			push @wrong, "$table adds up to $balance" if $balance ne '0';
			push @wrong, "$table has $n rows: part of a transaction" if $n % 2;
			push @wrong, "$table: $gap" if $gap ne '';
			push @wrong, "$table went from $rows{$table} rows to $n" if $n < ($rows{$table} // 0);
			push @wrong, "$table differs within a snapshot" if exists $seen{$table} && $seen{$table} ne "$n $state";
			push @wrong, "$table changed without a row" if ($last{$table} // '') ne $state && exists $rows{$table} && $rows{$table} == $n && $n > 0;
			$states{$table}++ if ($rows{$table} // -1) != $n;
			($rows{$table}, $last{$table}, $seen{$table}) = ($n, $state, "$n $state");
		}
		$looks++;
		if ($looks % 5 == 0 || $stop || @wrong)
		{
			open my $fh, '>', "$scripts/$name.new" or POSIX::_exit(1);
			print $fh join("\n", $looks, join(' ', map { "$_=" . ($states{$_} // 0) } @tables), @wrong), "\n";
			CORE::close($fh);
			rename "$scripts/$name.new", "$scripts/$name";
		}
		last if $stop;
		usleep(3_000);    # leave the processors to what is being tested
	}
	POSIX::_exit(0);
}

# What a reader has seen so far: looks, states of each table, what was wrong.
sub report
{
	my ($name) = @_;
	my ($looks, $states, @wrong) = -e "$scripts/$name" ? split(/\n/, slurp_file("$scripts/$name")) : (0, '');

	return ($looks, { map { split /=/ } split / /, $states }, join "\n", @wrong);
}

# Wait until both readers have seen every table change some times more, or found something wrong.
sub wait_for_readers
{
	my ($changes, @readers) = @_;
	my %before = map { my (undef, $states) = report($_); $_ => $states } @readers;

	wait_for('readers to see changes', sub {
		foreach my $name (@readers)
		{
			my (undef, $states, $wrong) = report($name);

			return 1 if $wrong ne '';
			return 0 if grep { ($states->{$_} // 0) < ($before{$name}{$_} // 0) + $changes } @tables;
		}
		return 1;
	}, 120);
	return;
}

my $groups = 'SELECT account, sum(amount) AS balance, count(*) AS n FROM oracle GROUP BY account';
my %oracle = (
	balances => $groups,
	facing => $groups,
	branches => "SELECT account % $branches AS branch, sum(balance) AS balance, sum(n) AS n FROM ($groups) accounts GROUP BY 1",
	writers => 'SELECT writer, account, sum(amount) AS balance, count(*) AS n, max(seq) AS last FROM oracle GROUP BY writer, account',
	chained => $groups);

sub compare
{
	my ($node, $when) = @_;

	is($node->safe_psql('postgres', join ' UNION ALL ', map {
		my ($what) = /^([a-z]+)/;
		"SELECT '$_: ' || count(*) || ' rows differ' FROM ((TABLE $_ EXCEPT ALL ($oracle{$what})) UNION ALL (($oracle{$what}) EXCEPT ALL TABLE $_)) x HAVING count(*) > 0"
	} @tables), '', "balances equal those of the table $when");
	return;
}

# ---- rounds ----

my @readers = (start_reader($primary, 'primary'), start_reader($standby, 'standby'));
my $running = start_writers($primary);
my %happened;

foreach my $round (1 .. $rounds)
{
	my @kinds = ('worker', 'postmaster', 'immediate', 'standby', 'worker', 'writer');
	my $kind = $kinds[ $round <= @kinds ? $round - 1 : int(rand(@kinds)) ];

	wait_for_readers(3, 'primary', 'standby');
	usleep(int(rand(300_000)));    # a random moment is what this test is about
	note "round $round: $kind";
	if ($kind eq 'worker')
	{
		my @pids;

		wait_for('workers', sub { return @pids = worker_pids($primary) }, 60);
		kill_pid('KILL', $pids[ rand @pids ]);
	}
	elsif ($kind eq 'postmaster') { kill_server($primary); start_again($primary); }
	elsif ($kind eq 'immediate') { $primary->stop('immediate'); start_again($primary); }
	elsif ($kind eq 'standby') { $standby->stop('immediate'); start_again($standby); }
	else
	{
		my (undef, $pid) = try_psql($primary, 'postgres', q{SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' ORDER BY random() LIMIT 1});
		kill_pid('KILL', $pid) if $pid;
	}
	$happened{$kind}++;
	wait_for('the server', sub { return accepts($primary) && accepts($standby) }, 60);
}
wait_for_readers(10, 'primary', 'standby');
stop_writers($running);
checkpoint($primary);
compare($primary, 'on the primary');
is(history_faults($primary), '', 'the history of checkpoints is consistent');
$primary->wait_for_catchup($standby);
compare($standby, 'on the standby');
my $before = $primary->safe_psql('postgres', 'SELECT count(*) FROM oracle');

# ---- the primary dies under load; the standby takes over ----

$running = start_writers($primary);
wait_for_readers(5, 'primary', 'standby');
kill_server($primary);
stop_writers($running);
$standby->promote;
$running = start_writers($standby);
wait_for_readers(20, 'standby');
foreach my $round (1 .. 2)
{
	my @pids;

	wait_for('workers', sub { return @pids = worker_pids($standby) }, 60);
	kill_pid('KILL', $pids[ rand @pids ]);
	wait_for('the server', sub { return accepts($standby) }, 60);
	wait_for_readers(5, 'standby');
}
stop_writers($running);
checkpoint($standby);
compare($standby, 'after the promotion');
is(history_faults($standby), '', 'and the history of checkpoints is consistent');
append_to_file("$scripts/readers.stop", '');
waitpid $_, 0 foreach @readers;

foreach my $name ('primary', 'standby')
{
	my ($looks, $states, $wrong) = report($name);

	is($wrong, '', "in every snapshot on the $name balances add up to zero, without gaps, and nothing goes back");
	cmp_ok($looks, '>', 5 * $rounds, "which was looked at $looks times");
	cmp_ok($states->{$_}, '>', 3 * $rounds, "$_ was seen in $states->{$_} states") foreach @tables;
}
my $rows = $standby->safe_psql('postgres', 'SELECT count(*) FROM oracle');
cmp_ok($before, '>', 1000, "$before rows came before the promotion");
cmp_ok($rows, '>', $before, "$rows with those after it");
is($standby->safe_psql('postgres', 'SELECT count(*) FROM chained'), $accounts, 'every account has a balance');
cmp_ok($happened{$_}, '>', 0, "$_: $happened{$_}") foreach sort keys %happened;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP:/, 'no panic, no failed assertion') foreach $primary, $standby;
note sprintf '%.0f s', time() - $start;
$standby->stop('fast');
done_testing();
