# Random queries as pipelines of a server: create them, feed them, compare them with plain SQL.

package Fuzz::Server;

use strict;
use warnings FATAL => 'all';

use Fuzz::Query qw(@STREAMS @COLUMNS);
use Fuzz::Render qw(live plain views);
use Fuzz::Rows;
use StreamCkpt;

# What does a server support? Each by a plain example.
my %examples = (
	distinct => 'SELECT DISTINCT k FROM a',
	top_n => 'SELECT id, k FROM a ORDER BY k, id LIMIT 3',
	ranking => 'SELECT id, k FROM (SELECT id, k, row_number() OVER (PARTITION BY k ORDER BY v, id) AS n FROM a) x WHERE n <= 2',
	union_distinct => 'SELECT k FROM a UNION SELECT k FROM b',
	frames => 'SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id ROWS 2 PRECEDING) AS s, lag(v) OVER (PARTITION BY k ORDER BY id) AS l FROM a',
	not_in => 'SELECT id FROM a WHERE k NOT IN (SELECT v FROM b)',
	not_in_rows => 'SELECT id FROM a WHERE (k, v) NOT IN (SELECT v, k FROM b WHERE b.k = a.k)',
	mark => 'SELECT id, EXISTS (SELECT FROM b WHERE b.k = a.k) AS m FROM a WHERE k IN (SELECT v FROM c) OR v = 1',
	rows_as_value => 'SELECT id, ARRAY(SELECT b.id FROM b WHERE b.k = a.k ORDER BY b.id) AS r, (SELECT c.v FROM c WHERE c.id = a.k) AS o FROM a',
	setop => 'SELECT k FROM a EXCEPT SELECT k FROM b',
	join => 'SELECT a.id, b.id AS other FROM a JOIN b ON a.k = b.k',
	scalar => 'SELECT k, count(*) AS n FROM a GROUP BY k HAVING count(*) > (SELECT count(*) / 10 FROM b)',
	lookup => 'SELECT g.k, g.n, d.name FROM (SELECT k, count(*) AS n FROM a GROUP BY k) g JOIN dim d ON d.id = g.k',
	lookup_group => 'SELECT k, count(*) AS n, (SELECT max(name) FROM dim WHERE id = a.k) AS d FROM a GROUP BY k HAVING count(*) > (SELECT min(m) FROM tag)',
	sets => 'SELECT k, j, count(*) AS n FROM a GROUP BY ROLLUP (k, j)',
	plain_collect => 'SELECT k, array_agg(v) AS v FROM a GROUP BY k');

my $functions = <<'SQL';
CREATE FUNCTION try_create(name text, query text, emit text, lateness interval, parallel int, period interval) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM stream_ckpt.create_pipeline('live.' || name, query, emit => emit, allowed_lateness => lateness, parallelism => parallel, checkpoint_interval => period);
	RETURN 'created';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END $$;

-- Does PostgreSQL take a query over tables? Its SQLSTATE, if not.
CREATE FUNCTION refusal(query text) RETURNS text LANGUAGE plpgsql SET search_path = plain, public AS $$
BEGIN
	EXECUTE 'EXPLAIN ' || query;
	RETURN '';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate;
END $$;

-- What plain SQL gives must be in the table, and the other way round: as multisets by the types' =, columns approx_… to 1e-9, arrays bag_… and lists bagtext_… in any order.
CREATE FUNCTION difference(name text, query text) RETURNS text LANGUAGE plpgsql SET search_path = plain, public AS $$
DECLARE
	columns text;
	exact text;
	approx text;
	close text;
	missing text;
	extra text;
	same text;
	filled bool;
BEGIN
	SELECT string_agg(CASE WHEN attname LIKE 'bag\_%' THEN format('(SELECT array_agg(x ORDER BY x) FROM unnest(%I) x) AS %1$I', attname)
			WHEN attname LIKE 'bagtext\_%' THEN format('(SELECT array_agg(x ORDER BY x) FROM unnest(string_to_array(%I, '','')) x) AS %1$I', attname)
			ELSE format('%I', attname) END, ', ' ORDER BY attnum),
		concat_ws(', ', '1 AS one_', string_agg(format('%I', attname), ', ' ORDER BY attnum) FILTER (WHERE attname NOT LIKE 'approx\_%')),
		string_agg(format('(r.%I IS NOT DISTINCT FROM o.%1$I OR abs(r.%1$I - o.%1$I) <= 1e-9 * greatest(1, abs(r.%1$I), abs(o.%1$I)))', attname), ' AND ') FILTER (WHERE attname LIKE 'approx\_%'),
		string_agg(format('r.%I IS NOT DISTINCT FROM o.%1$I', attname), ' AND ') FILTER (WHERE attname NOT LIKE 'approx\_%')
	FROM pg_attribute WHERE attrelid = ('live.' || name)::regclass AND attnum > 0 AND NOT attisdropped INTO columns, exact, approx, same;
	query := format('WITH o AS MATERIALIZED (SELECT %s FROM (%s) q), r AS MATERIALIZED (SELECT %1$s FROM live.%3$I) ', columns, query, name);
	EXECUTE query || format('SELECT (SELECT left(string_agg(x::text, '' ''), 300) FROM (SELECT %s FROM o EXCEPT ALL SELECT %1$s FROM r) x),
		(SELECT left(string_agg(x::text, '' ''), 300) FROM (SELECT %1$s FROM r EXCEPT ALL SELECT %1$s FROM o) x)', exact)
	INTO missing, extra;
	IF approx IS NOT NULL AND missing IS NULL AND extra IS NULL THEN
		close := concat_ws(' AND ', same, approx);
		EXECUTE query || format('SELECT (SELECT left(string_agg(o::text, '' ''), 300) FROM o WHERE NOT EXISTS (SELECT FROM r WHERE %s)),
			(SELECT left(string_agg(r::text, '' ''), 300) FROM r WHERE NOT EXISTS (SELECT FROM o WHERE %1$s))', close)
		INTO missing, extra;
	END IF;
	EXECUTE format('SELECT EXISTS (SELECT FROM live.%I)', name) INTO filled;
	RETURN coalesce(nullif(concat_ws('; ', 'missing: ' || missing, 'extra: ' || extra), ''), CASE WHEN filled THEN 'equal' ELSE 'empty' END);
EXCEPTION WHEN OTHERS THEN
	RETURN 'invalid: ' || sqlstate || ' ' || sqlerrm;
END $$;
SQL

# Streams, tables of the same names, and what queries join with.
sub schema
{
	my $columns = join ', ', map { "$_->[0] $_->[3]" } @COLUMNS;
	my $sql = <<'SQL';
CREATE SCHEMA live;
CREATE SCHEMA plain;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b numeric);
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE dim (id int PRIMARY KEY, name text, factor int);
INSERT INTO dim SELECT i, 'name ' || i % 3, i % 3 + 1 FROM generate_series(0, 4) i;
CREATE TABLE tag (j text, m int);
INSERT INTO tag VALUES ('a', 1), ('a', 2), ('b', 3), ('', NULL), (NULL, 5);
SQL

	foreach my $stream (@STREAMS)
	{
		my $marks = join ', ', map { "wm_$_ timestamptz" } @STREAMS;

		$sql .= "CREATE FOREIGN TABLE live.$stream ($columns) SERVER stream_ckpt OPTIONS (event_time 'ts', watermark_delay '$Fuzz::Rows::DELAY s');\n";
		$sql .= "CREATE TABLE plain.$stream ($columns, $marks);\n";
	}
	return $sql;
}

sub new
{
	my ($class, $node, $database) = @_;
	my $self = bless { node => $node, database => $database || 'postgres', prepared => 0 }, $class;

	$node->safe_psql($self->{database}, schema() . $functions);
	$self->{can}{$_} = $self->supports($examples{$_}) foreach sort keys %examples;
	$self->{can}{parallel} = $self->supports('SELECT k, count(*) AS n FROM a GROUP BY k', 4);
	return $self;
}

sub supports
{
	my ($self, $query, $parallelism) = @_;
	my $answer = $self->{node}->safe_psql($self->{database},
		"SET search_path = live, public; SELECT try_create('probe', \$q\$$query\$q\$, 'changes', '0', " . ($parallelism || 1) . ", '1 hour'); SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines");

	return $answer =~ /^created/;
}

# Run statements; returns output and errors. Dies when the server is gone.
sub run
{
	my ($self, $sql) = @_;
	my ($rc, $out, $err) = try_psql($self->{node}, $self->{database}, $sql, on_error_stop => 0, timeout => 120);

	die "crash: $err\n" if $rc == -1 || $rc == 2 || $err =~ /server closed the connection|terminating connection|could not connect|recovery mode/;
	return ($out, $err);
}

# The statements that make a query's pipeline, and its views.
sub creation
{
	my ($query) = @_;
	my $sql = join '', map { "CREATE VIEW live.$_->[0] AS $_->[1];\nSET search_path = plain, public;\nCREATE VIEW plain.$_->[0] AS $_->[2];\nSET search_path = live, public;\n" } views($query);

	return ("SET search_path = live, public;\n$sql", sprintf q{try_create('q%d', $fuzz$%s$fuzz$, '%s', '%s', %d, '%s')}, $query->{number}, live($query), @$query{qw(emit lateness parallelism interval)});
}

# All of one: queries, steps. Returns what went wrong, by number of the query: { kind => refused|create|status|difference|invalid|crash, text, check }.
sub play
{
	my ($self, $queries, $steps) = @_;
	my (%wrong, $sql);
	my $check = 0;

	$self->{filled} = {};    # numbers of the queries that had a result with rows in it

	my $done = eval {
		$sql = "TRUNCATE plain.a, plain.b, plain.c;\n";
		foreach my $query (@$queries)
		{
			my ($before, $create) = creation($query);

			$sql .= "${before}SELECT '=$query->{number}=' || $create;\n";
		}
		my ($out, $err) = $self->run($sql);
		my %made = $out =~ /^=(\d+)=(.*)$/mg;

		foreach (@$queries)
		{
			my $answer = $made{ $_->{number} } // "?     no answer: $err";

			next if $answer eq 'created';
			my ($state, $text) = $answer =~ /^(\S+)\s+(.*)/s;
			$wrong{ $_->{number} } = { kind => $state eq '0A000' ? 'refused' : 'create', text => "$state $text", check => 0 };
		}

		my $marks = Fuzz::Rows::watermarks();
		$sql = '';
		foreach my $step (@$steps)
		{
			if ($step->{kind} eq 'check')
			{
				$self->check($queries, $marks, $sql, ++$check, \%wrong);
				$sql = '';
			}
			elsif ($step->{kind} eq 'restart' && $step->{how} eq 'crash')
			{
				$self->run("\\o /dev/null\n$sql");
				$sql = '';
				$self->{node}->stop('immediate');
				$self->{node}->start;
			}
			elsif ($step->{kind} eq 'restart')
			{
				$sql .= $step->{how} eq 'end'
				  ? "SELECT pg_terminate_backend(pid) AND false FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'stream_ckpt worker%';\n"
				  : "SELECT pause_pipeline(pipeline) FROM stream_ckpt.pipelines;\nSELECT resume_pipeline(pipeline) FROM stream_ckpt.pipelines;\n" =~ s/(\w+_pipeline\()/stream_ckpt.$1/gr;
			}
			else
			{
				$sql .= Fuzz::Rows::statements($marks, $step, ++$self->{prepared});
				Fuzz::Rows::follow($marks, $step);
			}
		}
		1;
	};
	my $problem = $@;

	if (!$done)
	{
		die $problem if $problem !~ /^crash|timed out/;
		$self->without_workers(1);
		$wrong{0} = { kind => 'crash', text => $problem, check => $check };
	}
	$self->run("SELECT stream_ckpt.drop_pipeline(pipeline) FROM stream_ckpt.pipelines;\n"
		. join('', map { "DROP VIEW IF EXISTS live.$_->[0], plain.$_->[0];\n" } map { views($_) } @$queries));
	$self->without_workers(0) if !$done;
	return \%wrong;
}

# A pipeline that has ended its worker would do it again before it can be dropped.
sub without_workers
{
	my ($self, $without) = @_;

	$self->{node}->stop('immediate', fail_ok => 1);
	$self->{node}->adjust_conf('postgresql.conf', 'max_worker_processes', $without ? 0 : 16);
	$self->{node}->start;
	return;
}

# Statements, a checkpoint, and the comparison of every pipeline that is still right.
sub check
{
	my ($self, $queries, $marks, $sql, $check, $wrong) = @_;
	my @left = grep { !$wrong->{ $_->{number} } } @$queries;
	my ($out, $err) = $self->run("\\o /dev/null\n${sql}SELECT stream_ckpt.checkpoint('1 min'::interval);\n");
	my %difference;

	die "rows were refused: $err\n" if $err =~ /ERROR/ && $err !~ /checkpoint|pipeline/;
	($out) = $self->run(
		"SELECT '=' || substr(pipeline, 2) || '=' || status || ': ' || coalesce(error, '') FROM stream_ckpt.pipelines WHERE status <> 'running';\n"
		  . join('', map { "SELECT '=$_->{number}=' || difference('q$_->{number}', \$fuzz\$" . plain($_, $marks->{text}) . "\$fuzz\$);\n" } @left));
	while ($out =~ /^=(\d+)=(.*)$/mg)
	{
		my ($number, $text) = ($1, $2);
		my $kind = $text =~ /^invalid: / ? 'invalid' : $text =~ /^(failed|restarting|starting|paused): / ? 'status' : 'difference';

		$difference{$number} = 1 if $kind ne 'status';
		$self->{filled}{$number} = 1 if $text eq 'equal';
		next if $text =~ /^(equal|empty)$/;
		# a query that plain SQL cannot run either is the generator's mistake
		next if $wrong->{$number} && $wrong->{$number}{check} != $check;
		next if $wrong->{$number} && $kind ne 'invalid';
		$text = "$text (the pipeline: $wrong->{$number}{text})" if $wrong->{$number};
		$wrong->{$number} = { kind => $kind, text => $text, check => $check };
	}
	foreach (@left)
	{
		my $number = $_->{number};

		$wrong->{$number} //= { kind => 'status', text => "no comparison: $err", check => $check } if !$difference{$number};
	}
	if ($err =~ /ERROR:\s*(.*)/ && !grep { $_->{kind} eq 'status' } values %$wrong)
	{
		$wrong->{0} //= { kind => 'status', text => "checkpoint(): $1", check => $check };
	}
	return;
}

# Does PostgreSQL itself refuse a query over tables, be it for another reason, as it is or in its plain form? Errors of the kind that can't happen do not count.
sub plain_fails
{
	my ($self, $query, $text) = @_;
	return 0 if $text =~ /^XX/;
	my ($out) = $self->run(join '', map { "SELECT refusal(\$fuzz\$$_\$fuzz\$);\n" } live($query), plain($query, Fuzz::Rows::watermarks()->{text}));

	return $out =~ /^\w{5}$/m;
}

# Only what the steps insert.
sub steps_text
{
	my ($steps) = @_;
	my $marks = Fuzz::Rows::watermarks();
	my $text = '';
	my $number = 0;

	foreach my $step (@$steps)
	{
		if ($step->{kind} =~ /check|restart/) { $text .= "-- $step->{kind}\n"; }
		else
		{
			$text .= join '', map { "$_;\n" } grep { !/plain\./ } split /;\n/, Fuzz::Rows::statements($marks, $step, ++$number);
			Fuzz::Rows::follow($marks, $step);
		}
	}
	return $text;
}

# A script that shows one query's difference on an empty database.
sub script
{
	my ($query, $steps) = @_;
	my ($before, $create) = creation($query);
	my $marks = Fuzz::Rows::watermarks();
	my $number = 0;
	my $sql = "-- psql -X, into a database with the extension\n" . schema() . $functions . "${before}SELECT $create;\n";

	foreach my $step (@$steps)
	{
		if ($step->{kind} eq 'check')
		{
			$sql .= "SELECT stream_ckpt.checkpoint('1 min'::interval);\n\\echo -- equal or empty, if it is right:\nSELECT difference('q$query->{number}', \$fuzz\$" . plain($query, $marks->{text}) . "\$fuzz\$);\n";
		}
		elsif ($step->{kind} eq 'restart')
		{
			$sql .= "SELECT stream_ckpt.pause_pipeline('q$query->{number}');\nSELECT stream_ckpt.resume_pipeline('q$query->{number}');\n";
		}
		else
		{
			$sql .= Fuzz::Rows::statements($marks, $step, ++$number);
			Fuzz::Rows::follow($marks, $step);
		}
	}
	return $sql;
}

1;
