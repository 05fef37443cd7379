# No room on disk, values of 100 MB, a hundred pipelines, several users at
# once: nothing crashes, errors name what they are about, and nothing is lost.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes qw(time);

my $node = new_cluster('limits', max_wal_size => "'2GB'", 'stream_ckpt.restart_backoff_max' => "'400ms'");

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub column
{
	my ($pipeline, $column) = @_;
	return sql("SELECT $column FROM stream_ckpt.pipelines WHERE pipeline = '$pipeline'");
}

# ---- No room on disk ----

# A library in front of libc, through which files whose paths contain what stands in another file are full.
sub build_full_disk
{
	my $dir = PostgreSQL::Test::Utils::tempdir;

	append_to_file("$dir/full.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* What is there can be written again; only growing needs room. */
static int full(int fd, off_t at)
{
	struct stat file;
	char link[64], path[1024], names[1024];
	ssize_t n;
	int list = open(getenv("FULL_DISK"), O_RDONLY);
	int error = errno;

	if (list < 0)
		return 0;
	if (fstat(fd, &file) == 0 && at < file.st_size)
	{
		close(list);
		return 0;
	}
	n = read(list, names, sizeof(names) - 1);
	close(list);
	errno = error;
	if (n <= 0)
		return 0;
	names[n] = '\0';
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return 0;
	path[n] = '\0';
	for (char *rest, *name = strtok_r(names, " \n", &rest); name; name = strtok_r(NULL, " \n", &rest))
		if (strstr(path, name))
		{
			errno = ENOSPC;
			return 1;
		}
	return 0;
}
#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))
ssize_t pwrite(int fd, const void *buf, size_t n, off_t at) { return full(fd, at) ? -1 : REAL(pwrite)(fd, buf, n, at); }
ssize_t pwrite64(int fd, const void *buf, size_t n, off_t at) { return full(fd, at) ? -1 : REAL(pwrite64)(fd, buf, n, at); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) { return full(fd, at) ? -1 : REAL(pwritev)(fd, v, n, at); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return full(fd, at) ? -1 : REAL(pwritev64)(fd, v, n, at); }
int posix_fallocate(int fd, off_t at, off_t n) { return full(fd, at) ? ENOSPC : REAL(posix_fallocate)(fd, at, n); }
int posix_fallocate64(int fd, off_t at, off_t n) { return full(fd, at) ? ENOSPC : REAL(posix_fallocate64)(fd, at, n); }
C
	system("cc -shared -fPIC -o $dir/full.so $dir/full.c -ldl >$dir/log 2>&1") == 0 or return;
	return $dir;
}

SKIP:
{
	my $dir = $^O eq 'linux' ? build_full_disk() : undef;
	skip 'no C compiler, or another system', 1 if !$dir;

	# A file system's files, one after the other, until nothing fits any more: the last page that is there has no room left.
	my $fill = sub { my (@names) = @_; unlink "$dir/list"; append_to_file("$dir/list", join("\n", map { (split m{/}, $_)[-1] =~ s/^/\//r } @names) . "\n"); };

	$node->stop;
	{
		local $ENV{LD_PRELOAD} = "$dir/full.so";
		local $ENV{FULL_DISK} = "$dir/list";
		$node->start;
	}
	sql(<<'SQL');
SELECT stream_ckpt.create_stream('d', 'k int, v text');
SELECT stream_ckpt.create_pipeline('keyed', 'SELECT k, max(v) AS v, count(*) AS n FROM d GROUP BY k');
SELECT stream_ckpt.create_pipeline('plain', 'SELECT k, v FROM d');
SELECT stream_ckpt.create_pipeline('small', 'SELECT count(*) AS n FROM d');
INSERT INTO d SELECT i, repeat('x', 100) FROM generate_series(1, 100) i;
SELECT stream_ckpt.checkpoint();
SQL
	my $rows = 100;
	my %files = (
		keyed => [ sql(q{SELECT pg_relation_filepath('keyed')}) ],
		plain => [ sql(q{SELECT pg_relation_filepath('plain')}) ],
		'chunks' => [ sql(q{SELECT pg_relation_filepath('stream_ckpt.chunk')}), sql(q{SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE oid = 'stream_ckpt.chunk'::regclass}) ]);
	foreach my $what (sort keys %files)
	{
		my $who = $what eq 'chunks' ? 'keyed' : $what;

		$fill->(@{ $files{$what} });
		sql('INSERT INTO d SELECT i + ' . $rows . q{, md5(i::text) || repeat(md5(i::text), 20) FROM generate_series(1, 2000) i});
		$rows += 2000;
		wait_for("$what to be full", sub { return column($who, q{coalesce(error, '')}) =~ /No space left/ }, 60);
		like(column($who, 'error'), qr/could not extend file "[^"]+": No space left on device/, "$what: the error names the file");
		my $restarts = column($who, 'restarts');
		wait_for("restarts of $who", sub { return column($who, 'restarts') > $restarts }, 60);
		sql(q{SELECT stream_ckpt.checkpoint('small')});
		is(sql('TABLE small'), $rows, "$what: another pipeline goes on");
		unlink "$dir/list";
		sql(q{SELECT stream_ckpt.checkpoint()});
		is(sql('SELECT sum(n), (SELECT count(*) FROM plain) FROM keyed'), "$rows|$rows", "$what: when there is room, all is there, once");
	}

	# all of it, and a crash meanwhile
	$fill->(map { @$_ } values %files);
	sql('INSERT INTO d SELECT i + ' . $rows . q{, md5(i::text) || repeat(md5(i::text), 20) FROM generate_series(1, 2000) i});
	$rows += 2000;
	wait_for('all to be full', sub { return column('keyed', q{coalesce(error, '')}) =~ /No space left/ && column('plain', q{coalesce(error, '')}) =~ /No space left/ }, 60);
	unlink "$dir/list";
	$node->stop('immediate');
	$node->start;
	sql(q{SELECT stream_ckpt.checkpoint()});
	is(sql('SELECT sum(n), (SELECT count(*) FROM plain) FROM keyed'), "$rows|$rows", 'nor does a crash change that');

	# no room for the log: the server stops, as PostgreSQL does, and what was committed is there when there is room again
	{
		local $ENV{LD_PRELOAD} = "$dir/full.so";
		local $ENV{FULL_DISK} = "$dir/list";
		$node->stop;
		$node->start;
	}
	my $offset = -s $node->logfile;
	append_to_file("$dir/list", "/pg_wal/\n");
	my ($rc) = try_psql($node, 'postgres', q{INSERT INTO d SELECT i, md5(i::text) FROM generate_series(1, 1000000) i});
	isnt($rc, 0, 'no row without room in the log');
	like(substr(slurp_file($node->logfile), $offset), qr/No space left on device/, 'the server says why');
	unlink "$dir/list";
	$node->stop('immediate') if accepts($node) || -e $node->data_dir . '/postmaster.pid';
	start_again($node) if !accepts($node);
	sql(q{INSERT INTO d VALUES (-1, 'after'); SELECT stream_ckpt.checkpoint()});
	$rows++;
	is(sql('SELECT sum(n), (SELECT count(*) FROM plain) FROM keyed'), "$rows|$rows", 'what was committed before is there, and goes on');
	sql(q{SELECT stream_ckpt.drop_stream('d', true)});
}

# ---- Values of 100 MB ----

my $quiet = -s $node->logfile;

sql(<<'SQL');
SELECT stream_ckpt.create_stream('b', 'id int, v text');
SELECT stream_ckpt.create_pipeline('big_key', 'SELECT v, count(*) AS n FROM b GROUP BY v');
SELECT stream_ckpt.create_pipeline('big_value', 'SELECT id, max(v) AS v, count(*) AS n FROM b GROUP BY id');
SELECT stream_ckpt.create_pipeline('big_list', $$SELECT id, string_agg(v, ',' ORDER BY id) AS l FROM b GROUP BY id$$);
SELECT stream_ckpt.create_pipeline('big_row', 'SELECT id, v FROM b');
SELECT stream_ckpt.create_pipeline('lengths', 'SELECT id, sum(length(v)) AS l FROM b GROUP BY id');
INSERT INTO b VALUES (1, 'small');
SELECT stream_ckpt.checkpoint();
INSERT INTO b SELECT 2, repeat('0123456789', 10000000);
SQL
sql(q{SELECT stream_ckpt.checkpoint('lengths')});
is(sql('SELECT l FROM lengths WHERE id = 2'), '100000000', 'a row of 100 MB');
foreach my $pipeline (qw(big_key big_value big_list big_row))
{
	my ($state, $message) = sql_state($node, 'postgres', "SELECT stream_ckpt.checkpoint('$pipeline', '60 s')");
	my ($status, $error) = split /\|/, column($pipeline, "status, coalesce(error, '')"), 2;

	# it works, or says which setting, file or limit is in the way
	ok($state eq '00000' || $error =~ /state_memory|dynamic shared memory|memory|exceed|too (large|long)|limit/i,
		"$pipeline: " . ($state eq '00000' ? 'done' : "$status: " . substr($error, 0, 200)));
}
is(sql('SELECT length(v) FROM big_row WHERE id = 2'), '100000000', 'as a row of a result');
sql(q{INSERT INTO b VALUES (3, 'small'); SELECT stream_ckpt.checkpoint('lengths')});
is(sql('SELECT count(*) FROM lengths'), '3', 'others go on');
my ($state) = sql_state($node, 'postgres', q{INSERT INTO b SELECT 4, repeat('0123456789', 60000000)});
is($state, '54000', 'a row of 600 MB is refused');
$node->stop('immediate');
$node->start;
sql(q{INSERT INTO b VALUES (5, 'small'); SELECT stream_ckpt.checkpoint('lengths'); SELECT stream_ckpt.checkpoint('big_row')});
is(sql('SELECT count(*), max(l) FROM lengths') . ' ' . sql('SELECT count(*), max(length(v)) FROM big_row'), '4|100000000 4|100000000', 'and after a crash');
sql(q{SELECT stream_ckpt.drop_stream('b', true)});

# ---- A hundred pipelines ----

sql(q{SELECT stream_ckpt.create_stream('h', 'k int, v int')});
my $start = time();
sql(join '', map { "SELECT stream_ckpt.create_pipeline('h$_', 'SELECT k, count(*) AS n, sum(v + $_) AS v FROM h GROUP BY k');" } 1 .. 100);
sql(q{INSERT INTO h SELECT i % 10, i FROM generate_series(1, 1000) i; SELECT stream_ckpt.checkpoint()});
note(sprintf '100 pipelines: %.1f s', time() - $start);
is(sql(join ' UNION ', map { "SELECT sum(n), sum(v) - 1000 * $_ FROM h$_" } 1 .. 100), '1000|500500', 'all of them have all rows');
sql(q{SELECT stream_ckpt.pause_pipeline('h' || i) FROM generate_series(1, 100, 2) i});
$node->stop('immediate');
$node->start;
sql(q{INSERT INTO h VALUES (0, 0); SELECT stream_ckpt.checkpoint(); SELECT stream_ckpt.resume_pipeline('h' || i) FROM generate_series(1, 100, 2) i});
sql(q{SELECT stream_ckpt.checkpoint()});
is(sql(join ' UNION ', map { "SELECT sum(n), sum(v) - 1001 * $_ FROM h$_" } 1 .. 100), '1001|500500', 'also after a crash with half of them paused');
is(sql('SELECT count(*) FROM stream_ckpt.pipelines'), '100', 'a hundred');
sql(q{SET client_min_messages = warning; SELECT stream_ckpt.drop_stream('h', true)});
is(sql('SELECT count(*) FROM stream_ckpt.pipelines') . sql(q{SELECT count(*) FROM pg_class WHERE relname ~ '^h\d+$'}), '00', 'and gone, together');

# ---- Users at once: creating, dropping, pausing, writing, asking ----

sql(q{SELECT stream_ckpt.create_stream('m', 'k int, v int'); CREATE TABLE written (v int);
	SELECT stream_ckpt.create_pipeline('all_of_m', 'SELECT count(*) AS n, sum(v) AS v FROM m')});
foreach my $user ('anna', 'bert')
{
	sql("CREATE ROLE $user LOGIN; CREATE SCHEMA $user AUTHORIZATION $user; GRANT USAGE ON SCHEMA stream_ckpt TO $user; GRANT USAGE ON FOREIGN SERVER stream_ckpt TO $user; GRANT SELECT, INSERT ON m, written TO $user");
}
my @users = map { session($node) } 1 .. 4;
foreach my $n (0 .. $#users)
{
	my $user = $n % 2 ? 'anna' : 'bert';
	my @work = ("SET ROLE $user; SET search_path = $user, public;");
	foreach my $i (1 .. 15)
	{
		push @work, "BEGIN; INSERT INTO m SELECT i, 1 FROM generate_series(1, 50) i; INSERT INTO written SELECT 1 FROM generate_series(1, 50); " . ($i % 5 ? 'COMMIT;' : 'ROLLBACK;');
		# some names are the same as of others
		my $name = $i % 3 ? "p_${n}_$i" : "shared_$i";
		push @work, "SELECT stream_ckpt.create_pipeline('$user.$name', 'SELECT k, count(*) AS n FROM m GROUP BY k');";
		push @work, "SELECT stream_ckpt.checkpoint('$name');" if $i % 4 == 0;
		push @work, "SELECT stream_ckpt.pause_pipeline('$name');" if $i % 2;
		push @work, 'SELECT count(*) FROM stream_ckpt.pipelines, stream_ckpt.checkpoints;';
		push @work, "SELECT stream_ckpt.drop_pipeline('$name');";
	}
	$users[$n]->send(join "\n", @work);
}
my %states;
foreach my $session (@users)
{
	my $answer = $session->receive(120);
	$states{$1}++ while $answer =~ /ERROR:\s+(\w{5}):/g;
	$session->close;
}
note('errors: ' . join ', ', map { "$_: $states{$_}" } sort keys %states);
delete @states{qw(42710 42704 42501 42P07 23505 55000 40001 40P01)};
is(join(', ', %states), '', 'only errors that tell of the other users');
sql(q{SELECT stream_ckpt.checkpoint()});
is(sql('SELECT n FROM all_of_m'), sql('SELECT count(*) FROM written'), 'and every row that was committed is there');
# one waits for a checkpoint, another drops the pipeline
my ($waiting, $dropping) = (session($node), session($node));
sql(q{SELECT stream_ckpt.create_pipeline('waited_for', 'SELECT k, count(*) AS n FROM m GROUP BY k'); SELECT stream_ckpt.checkpoint('waited_for')});
$dropping->query('BEGIN; LOCK waited_for IN SHARE MODE');
sql('INSERT INTO m VALUES (1, 1)');
$waiting->send(q{SELECT stream_ckpt.checkpoint('waited_for', '3 min')});
wait_for('somebody to wait', sub { return column('waited_for', q{coalesce(error, '')}) =~ /waiting for a lock on relation "waited_for"/ }, 60);
my $before = time();
$dropping->query(q{SELECT stream_ckpt.drop_pipeline('waited_for'); COMMIT});
like($waiting->receive, qr/42704: pipeline "waited_for" was dropped while/, 'who waits for a pipeline that is dropped is told so');
cmp_ok(time() - $before, '<', 20, 'soon');
$_->close foreach $waiting, $dropping;

is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'stream_ckpt worker%'}) >= 1, 1, 'the worker runs');
unlike(substr(slurp_file($node->logfile), $quiet), qr/TRAP|PANIC|terminated by signal/, 'nothing has crashed');

$node->stop('fast');
done_testing();
