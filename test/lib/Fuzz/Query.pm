# Random queries.  A query is a tree of levels; expressions are text that names columns by the alias of their item of FROM, so that a shrinker
# can drop entries of lists without knowing what they mean.  A level:
#
#	from		{ kind => stream | sub | union | setop, alias, and name | query, as => sub|with|view | parts }
#				bounded: the conditions of a join say how far apart its event times can be from others, so its rows may be late for it
#	windows		[ { fn, args, alias, on, size, event => judged late, gap } ]
#	joins		[ { text } or { type, item, on } ]: tables, functions, other streams
#	semis		[ { how, item, where, and for IN left, right; or, not } ]: EXISTS, IN, NOT EXISTS, NOT IN, among the conditions, or in one with `or`
#	scalars		[ { left, expr, item, having } or { name, expr, item, match, rest } ]: left is compared with expr over an item; or it, or whether there is a match, is an output column
#	where		[ text ]
#	keys		[ { expr, name, bound } ], undef without GROUP BY; sets: ROLLUP or CUBE of them
#	targets		[ { expr, name, key } ]
#	having		[ text ]
#	distinct, tail (ORDER BY and LIMIT)
#
# What is known of a level's output: outs [ { name, type, vague, event, off } ] and uniq, names that make its rows different (undef: nothing does).
#	vague		values that are equal may look different (1.0 and 1.00): nothing may look at how they look. 2: of equal ones it is one that
#				came first, or any other, also for PostgreSQL: what is computed from them and rounds is inexact
#				3, inexact: it depends, for PostgreSQL, too, on the order of the rows, like sums of floats that are not multiples of some 2^-n.
#				It is compared to 1e-9, and no condition, key or order may depend on it
#	event		the event time of the streams, untouched
#	off			the column is final when the watermark has passed it by these intervals
#
# Everything compared exactly with plain SQL has to be the same whatever the order of the rows: sorted aggregates get a total order, and the streams'
# floats are multiples of 0.25, whose sums are exact.  What is inexact is named approx_.

package Fuzz::Query;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

use constant INEXACT => 3;

our @EXPORT_OK = qw(random_query chance pick some weighted @STREAMS @COLUMNS);

our @STREAMS = qw(a b c);

# what FROM can have besides, by the name of Fuzz::Later's function for it, and of what the server must support
our @CHANGING = qw(join distinct union_distinct setop ranking top_n frames);

# name, type, vague, declaration
our @COLUMNS = (
	[ id => 'int', 0, 'int' ],
	[ k => 'int', 0, 'int' ],
	[ j => 'text', 0, 'text' ],
	[ v => 'int', 0, 'int' ],
	[ w => 'bigint', 0, 'bigint' ],
	[ g => 'numeric', 1, 'numeric' ],
	[ f => 'float', 0, 'float8' ],
	[ b => 'bool', 0, 'bool' ],
	[ d => 'date', 0, 'date' ],
	[ e => 'enum', 0, 'mood' ],
	[ h => 'interval', 1, 'interval' ],
	[ r => 'ints', 0, 'int[]' ],
	[ p => 'jsonb', 1, 'jsonb' ],
	[ o => 'pair', 1, 'pair' ],
	[ n => 'nocase', 1, 'text COLLATE nocase' ],
	[ x => 'xid', 0, 'xid' ],
	[ lt => 'timestamp', 0, 'timestamp' ],
	[ ts => 'timestamptz', 0, 'timestamptz' ]);

my %literals = (
	int => [ -2 .. 9 ],
	bigint => [ -5, 0, 1, 7, 20, 1000 ],
	numeric => [ 0, 1, '1.0', '2.50', '-3' ],
	float => [ '0', '1.5', '-2.25', '10' ],
	text => [ q{'a'}, q{'b'}, q{''}, q{'cd'}, q{'A'}, q{'äö'} ],
	nocase => [ q{'a'}, q{'B'}, q{'cd'} ],
	bool => [ 'true', 'false' ],
	date => [ q{date '2024-01-01'}, q{date '2024-01-03'}, q{date '2024-02-29'} ],
	enum => [ q{'sad'}, q{'ok'}, q{'happy'} ],
	interval => [ q{interval '1 day'}, q{interval '90 min'} ],
	timestamp => [ q{timestamp '2024-01-01 12:30'}, q{timestamp '2024-01-01 14:00'} ],
	timestamptz => [ q{timestamptz '2024-01-01 12:30Z'}, q{timestamptz '2024-01-01 13:15Z'}, q{timestamptz '2024-01-01 15:00Z'} ]);

my $sortable = qr/^(int|bigint|numeric|float|text|nocase|date|enum|interval|timestamp|timestamptz|ints)$/;
my $number = qr/^(int|bigint|numeric|float)$/;

sub chance { my ($p) = @_; return rand() < $p; }
sub pick { return $_[ int rand @_ ]; }

# Up to n different ones, in random order.
sub some
{
	my ($n, @list) = @_;
	my @some;

	push @some, splice(@list, int(rand @list), 1) while @list && @some < $n;
	return @some;
}

# One of [ weight, value ] pairs.
sub weighted
{
	my (@pairs) = @_;
	my $sum = 0;

	$sum += $_->[0] foreach @pairs;
	my $at = rand $sum;
	foreach (@pairs)
	{
		return $_->[1] if ($at -= $_->[0]) < 0;
	}
	return $pairs[-1][1];
}

sub new_alias { my ($g, $letter) = @_; return $letter . ++$g->{aliases}; }

# ---- expressions ----

# What conditions, keys and orders may depend on.
sub exact { return grep { ($_->{vague} || 0) != INEXACT } @_; }

sub columns_of { my ($types, @columns) = @_; return grep { $_->{type} =~ $types } @columns; }

# A value of a type over some columns; undef where there is none.
sub value
{
	my ($columns, $type, $depth) = @_;
	my @same = grep { $_->{type} eq $type } @$columns;
	my $column = @same ? pick(@same)->{ref} : undef;
	my $sub = sub { return value($columns, shift, $depth - 1) };
	my $x;

	$depth //= 2;
	return $column // literal($type) if $depth <= 0 || (defined $column && chance(0.45));
	if ($type =~ $number)
	{
		$x = $sub->($type);
		my $how = int rand 8;

		return undef if !defined $x;
		return "($x + " . literal($type) . ')' if $how == 0;
		return "($x * 2)" if $how == 1;
		return "coalesce($x, " . literal($type) . ')' if $how == 2;
		return "abs($x)" if $how == 3;
		return "(CASE WHEN " . condition($columns, 1) . " THEN $x ELSE " . literal($type) . " END)" if $how == 4;
		return "($x % 3)" if $how == 5 && $type ne 'float';
		return "length($x)" if $how == 6 && $type eq 'int' && defined($x = $sub->('text'));
		return "nullif($x, " . literal($type) . ')' if defined $x;
		return $column // literal($type);
	}
	if ($type eq 'text')
	{
		my $how = int rand 6;

		$x = $sub->($how == 5 ? 'int' : 'text');
		return undef if !defined $x;
		return "upper($x)" if $how == 0;
		return "($x || '!')" if $how == 1;
		return "left($x, 1)" if $how == 2;
		return "coalesce($x, 'none')" if $how == 3;
		return "(CASE WHEN " . condition($columns, 1) . " THEN $x END)" if $how == 4;
		return "($x)::text";
	}
	return '(' . condition($columns, $depth - 1) . ')' if $type eq 'bool';
	return "date_trunc('" . pick('hour', 'minute', 'day') . "', $column)" if $type =~ /^timestamp/ && defined $column;
	return "($column + " . int(rand 3) . ')' if $type eq 'date' && defined $column;
	return "coalesce($column, " . literal($type) . ')' if $type eq 'enum' && defined $column;
	return $column // ($literals{$type} ? literal($type) : undef);
}

sub literal
{
	my ($type) = @_;
	my $x = $literals{$type} ? pick(@{ $literals{$type} }) : 'NULL';

	return $type eq 'bigint' ? "$x\::bigint" : $type eq 'float' ? "$x\::float8" : $type eq 'numeric' ? "$x\::numeric" : $type eq 'enum' ? "$x\::mood" : $type eq 'text' ? "$x\::text" : $x;
}

# A condition over some columns.
sub condition
{
	my ($columns, $depth) = @_;
	my @known = grep { $literals{ $_->{type} } } exact(@$columns);
	my $c = @known ? pick(@known) : undef;

	return pick('true', 'NOT false') if !$c;
	if ($depth > 0 && chance(0.3))
	{
		my ($l, $r) = (condition($columns, $depth - 1), condition($columns, $depth - 1));

		return "($l " . pick('AND', 'OR') . " $r)" if chance(0.8);
		return "NOT ($l)";
	}
	return "$c->{ref} IS " . pick('', 'NOT ', 'NOT ') . 'NULL' if chance(0.12);
	return "$c->{ref} % " . pick(2, 5, 7) . pick(' <> ', ' <> ', ' = ') . '1' if $c->{ref} =~ /\.id$/ && chance(0.9);
	return $c->{ref} if $c->{type} eq 'bool';
	return "$c->{ref} LIKE '" . pick('a%', '%b', '_', '%') . "'" if $c->{type} eq 'text' && chance(0.3);
	return "$c->{ref} " . pick('IN', 'NOT IN') . ' (' . join(', ', map { literal($c->{type}) } 1 .. 1 + int rand 3) . ')' if chance(0.12);
	return "$c->{ref} IS DISTINCT FROM " . literal($c->{type}) if chance(0.1);
	if (chance(0.15))
	{
		# event times of joined streams would bound the join
		my @other = grep { $_->{type} eq $c->{type} && $_->{ref} ne $c->{ref} && !($_->{event} && $c->{event}) } @known;

		return "$c->{ref} " . pick('<', '=', '<>') . ' ' . pick(@other)->{ref} if @other;
	}
	return "$c->{ref} % 3 " . pick('=', '<>') . ' 1' if $c->{type} =~ /^(int|bigint)$/ && chance(0.3);
	return "$c->{ref} " . pick('<', '<=', '=', '<>', '<>', '>', '>', '>=', '>=') . ' ' . literal($c->{type});
}

# ---- aggregates ----

sub order_by
{
	my ($level, $first) = @_;
	my @terms = defined $first ? ($first . pick('', '', ' DESC', ' NULLS FIRST', ' DESC NULLS LAST')) : ();

	return join ', ', @terms, @{ $level->{total} };
}

# Of equal values, one.
sub any_of { my ($column) = @_; return $column->{vague} ? ($column->{vague} == INEXACT ? INEXACT : 2) : 0; }

# A sum or mean of such values that is rounded.
sub rounded { my ($column) = @_; return $column->{type} eq 'float' || ($column->{vague} || 0) > 1 ? INEXACT : 1; }

# An aggregate call: { expr, type, vague }.
sub aggregate
{
	my ($g, $level) = @_;
	my $columns = $level->{columns};
	my $how = weighted([ 12, 'count' ], [ 4, 'count_of' ], [ 12, 'sum' ], [ 5, 'avg' ], [ 14, 'extreme' ], [ 3, 'bool' ], [ 2, 'bit' ], [ 8, 'distinct' ], [ 9, 'ordered' ],
		[ 5, 'distinct_array' ], [ 7, 'set' ], [ 3, 'deviation' ], [ 2, 'approx' ], [ $g->{can}{plain_collect} ? 4 : 0.15, 'plain' ], [ 0.1, 'unsupported' ]);
	my $filter = chance(0.2) ? ' FILTER (WHERE ' . condition($columns, 1) . ')' : '';
	my $x;

	my $argument = sub {
		my ($types, @from) = @_;
		my @fits = columns_of($types, @from ? @from : @$columns);

		return undef if !@fits;
		my $c = pick(@fits);
		my $plain = $c->{vague} || chance(0.7) || !$literals{ $c->{type} };
		my $value = $plain ? $c->{ref} : value([ grep { !$_->{vague} } @$columns ], $c->{type}, 2);

		return { %$c, ref => $value, vague => $plain ? $c->{vague} || 0 : 0 };
	};

	my $exactly = sub { my @exact = exact(@$columns); return @exact ? $argument->(shift, @exact) : undef; };

	if ($how eq 'count_of' && ($x = $argument->(qr/./)))
	{
		return { expr => "count($x->{ref})$filter", type => 'bigint' };
	}
	if ($how eq 'sum' && ($x = $argument->(qr/^(int|bigint|numeric|float|interval)$/)))
	{
		my %to = (int => 'bigint', bigint => 'numeric');
		my $type = $to{ $x->{type} } || $x->{type};

		return { expr => "sum($x->{ref})$filter", type => $type, vague => $type =~ /numeric|interval/ ? $x->{vague} || 1 : $x->{vague} };
	}
	if ($how eq 'avg' && ($x = $argument->(qr/^(int|bigint|numeric|float|interval)$/)))
	{
		my $type = $x->{type} =~ /float|interval/ ? $x->{type} : 'numeric';

		# months and days are no number that could be nearly the same
		return { expr => "avg($x->{ref})$filter", type => $type, vague => $type eq 'interval' ? 1 : rounded($x) } if $type ne 'interval' || $x->{vague} != 2;
	}
	if ($how eq 'extreme' && ($x = $argument->($sortable)))
	{
		return { expr => pick('min', 'max') . "($x->{ref})$filter", type => $x->{type}, vague => any_of($x) };
	}
	if ($how eq 'bool')
	{
		return { expr => pick('bool_and', 'bool_or', 'every') . '(' . condition([ grep { !$_->{vague} } @$columns ], 1) . ")$filter", type => 'bool' };
	}
	if ($how eq 'bit' && ($x = $argument->(qr/^(int|bigint)$/)))
	{
		return { expr => pick('bit_and', 'bit_or', 'bit_xor') . "($x->{ref})$filter", type => $x->{type} };
	}
	if ($how eq 'distinct')
	{
		if (chance(0.6) && ($x = $exactly->(qr/^(?!xid)/)))
		{
			return { expr => "count(DISTINCT $x->{ref})$filter", type => 'bigint' };
		}
		if ($x = $exactly->(qr/^(int|bigint|numeric|float)$/))
		{
			my $of_equal = { %$x, vague => any_of($x) };

			if (chance(0.4))
			{
				return { expr => "avg(DISTINCT $x->{ref})$filter", type => $x->{type} eq 'float' ? 'float' : 'numeric', vague => rounded($of_equal) };
			}
			return { expr => "sum(DISTINCT $x->{ref})$filter", type => 'float' } if $x->{type} eq 'float';
			return { expr => "sum(DISTINCT $x->{ref})$filter", type => 'numeric', vague => any_of($x) || 1 } if $x->{type} ne 'int';
			return { expr => "sum(DISTINCT $x->{ref})$filter", type => 'bigint' };
		}
	}
	if ($how eq 'ordered')
	{
		# without a total order, what is sorted has to be what is collected
		my $first = $level->{total} && ($x = $exactly->($sortable)) ? $x->{ref} : undef;
		my $type = pick(qw(int text text bool date));

		if ($x = $argument->(qr/^$type$/))
		{
			my $order = $level->{total} ? order_by($level, $first) : $x->{ref};

			return { expr => "string_agg($x->{ref}, ',' ORDER BY $order)$filter", type => 'text' } if $type eq 'text' && $order ne '';
			return { expr => "array_agg($x->{ref}" . ($order ne '' ? " ORDER BY $order" : '') . ")$filter", type => $type eq 'int' ? 'ints' : "array of $type" };
		}
	}
	if ($how eq 'distinct_array' && ($x = $exactly->(qr/^(int|text|numeric|date)$/)))
	{
		my $order = pick('', " ORDER BY $x->{ref}", " ORDER BY $x->{ref} DESC");

		return { expr => "string_agg(DISTINCT $x->{ref}, '-'" . ($order ne '' ? " ORDER BY $x->{ref}" : '') . ")$filter", type => 'text' }
		  if $x->{type} eq 'text' && $x->{ref} =~ /^\w+\.\w+$/;
		return { expr => "array_agg(DISTINCT $x->{ref}$order)$filter", type => $x->{type} eq 'int' ? 'ints' : "array of $x->{type}" };
	}
	if ($how eq 'set')
	{
		my $fraction = pick('0', '0.5', '0.25', '0.9', '1');
		my $desc = pick('', '', ' DESC');

		if (chance(0.3) && ($x = $argument->(qr/^(int|float)$/)))
		{
			return { expr => "percentile_cont($fraction) WITHIN GROUP (ORDER BY $x->{ref}$desc)$filter", type => 'float', vague => $fraction eq '0.9' ? INEXACT : $x->{vague} };
		}
		if ($x = $exactly->($sortable))
		{
			return { expr => pick("percentile_disc($fraction)", 'mode()') . " WITHIN GROUP (ORDER BY $x->{ref}$desc)$filter", type => $x->{type}, vague => any_of($x) };
		}
	}
	# of inexact values the differences may be anything
	if ($how eq 'deviation' && ($x = $exactly->(qr/^(int|bigint|numeric)$/)))
	{
		return { expr => pick('stddev', 'var_pop', 'variance', 'stddev_pop') . "($x->{ref})$filter", type => 'numeric', vague => rounded($x) };
	}
	if ($how eq 'approx' && ($x = $exactly->(qr/^float$/)))
	{
		my $y = $exactly->(qr/^(int|float)$/);

		return { expr => pick('stddev', 'var_pop') . "($x->{ref})$filter", type => 'float', vague => INEXACT } if chance(0.5);
		return { expr => pick('corr', 'covar_pop', 'regr_slope', 'regr_sxx') . "($x->{ref}, $y->{ref})$filter", type => 'float', vague => INEXACT };
	}
	if ($how eq 'plain' && $level->{top})
	{
		return { expr => "array_agg($x->{ref})$filter", type => 'ints', bag => 'bag' } if chance(0.5) && ($x = $argument->(qr/^int$/));
		return { expr => "string_agg($x->{ref}, ',')$filter", type => 'text', bag => 'bagtext' } if $x = $argument->(qr/^text$/);
	}
	if ($how eq 'unsupported' && ($x = $argument->(qr/^int$/)))
	{
		return { expr => pick("rank(3) WITHIN GROUP (ORDER BY $x->{ref})", "percentile_disc(ARRAY[0.1, 0.5]) WITHIN GROUP (ORDER BY $x->{ref})"), type => 'other' };
	}
	return { expr => "count(*)$filter", type => 'bigint' };
}

# ---- items of FROM ----

sub stream_item
{
	my ($g, $name) = @_;
	my $alias = new_alias($g, 't');
	my @columns = map { { ref => "$alias.$_->[0]", name => $_->[0], type => $_->[1], vague => $_->[2], event => $_->[0] eq 'ts' } } @COLUMNS;

	$name //= pick(@STREAMS);
	return { item => { kind => 'stream', name => $name, alias => $alias }, columns => \@columns, uniq => ["$alias.id"], stages => 0 };
}

sub query_item
{
	my ($g, $q, $as) = @_;
	my $alias = new_alias($g, 't');

	return {
		item => { kind => 'sub', query => $q, alias => $alias, as => $as || weighted([ 6, 'sub' ], [ 3, 'with' ]) },
		columns => [ map { { %$_, ref => "$alias.$_->{name}" } } @{ $q->{outs} } ],
		uniq => $q->{uniq} && [ map { "$alias.$_" } @{ $q->{uniq} } ],
		stages => $q->{stages}, closes => $q->{closes} };
}

# Several streams: each part computes the same columns.
sub union_item
{
	my ($g, %o) = @_;
	my $alias = new_alias($g, 't');
	my $count = 2 + int rand 2;
	my @streams = chance(0.7) ? some($count, @STREAMS) : map { pick(@STREAMS) } 1 .. $count;
	my @shape = ([ id => 'int' ], [ ts => 'timestamptz' ], map { [ "u$_", pick(qw(int int text numeric bool bigint float date)) ] } 1 .. 1 + int rand($o{few} ? 2 : 4));
	my (%streams, @parts, $event);

	$event = 1;
	foreach my $stream (@streams)
	{
		my $s = stream_item($g, $stream);
		my @clear = grep { !$_->{vague} } @{ $s->{columns} };
		my @targets;

		$streams{$stream}++;
		foreach (@shape)
		{
			my ($name, $type) = @$_;
			my $expr;

			if ($name eq 'ts')
			{
				$expr = chance(0.95) ? "$s->{item}{alias}.ts" : "$s->{item}{alias}.ts + interval '1 min'";
				$event = 0 if $expr =~ /interval/;
			}
			else { $expr = $name eq 'id' ? "$s->{item}{alias}.id" : chance(0.15) ? "NULL::" . ($type eq 'float' ? 'float8' : $type) : value(\@clear, $type, 2); }
			push @targets, { expr => $expr, name => $name };
		}
		push @parts, { from => $s->{item}, where => [ chance(0.4) ? condition(\@clear, 1) : () ], targets => \@targets };
	}
	return {
		item => { kind => 'union', parts => \@parts, alias => $alias, as => weighted([ 6, 'sub' ], [ 2, 'with' ]) },
		columns => [ map { { ref => "$alias.$_->[0]", name => $_->[0], type => $_->[1], vague => $_->[1] eq 'numeric', event => $event && $_->[0] eq 'ts' } } @shape ],
		uniq => (grep { $_ > 1 } values %streams) ? undef : ["$alias.id"],
		stages => 0 };
}

# ---- levels ----

my %sizes = (
	tumble => [ '10 min', '1 hour', '7 min', '25 min', '1 day' ],
	hop => [ [ '5 min', '15 min' ], [ '10 min', '30 min' ], [ '20 min', '1 hour' ], [ '12 min', '12 min' ] ],
	cumulate => [ [ '10 min', '30 min' ], [ '15 min', '1 hour' ] ],
	session => [ '1 min', '3 min', '6 min', '15 min' ]);

# Add a window over a column to a level.
sub add_window
{
	my ($g, $level, $column, $grouped, $like) = @_;
	my $fn = $like ? $like->{fn} : weighted([ 35, 'tumble' ], [ 25, 'hop' ], [ 15, 'cumulate' ], [ $grouped && !$level->{stages} && !@{ $level->{windows} } && $column->{type} eq 'timestamptz' ? 25 : 0, 'session' ]);
	my $size = pick(@{ $sizes{$fn} });
	my $alias = new_alias($g, 'w');
	my $base = $column->{off} || ($column->{event} ? [] : undef);
	my %window = (fn => $fn, alias => $alias, on => $column->{ref}, event => $column->{event});

	$window{size} = ref $size ? $size->[1] : $size;
	$window{args} = join ', ', map { "'$_'" } ref $size ? @$size : $size;
	@window{qw(size args)} = @$like{qw(size args)} if $like;
	$window{args} .= $column->{type} eq 'timestamptz' ? ", timestamptz '2000-01-01 00:03Z'" : ", timestamp '2000-01-01 00:03'" if $fn ne 'session' && !$like && chance(0.1);
	push @{ $level->{windows} }, \%window;
	$level->{session} = 1 if $fn eq 'session';
	my @bounds = (
		{ ref => "$alias.window_start", type => $column->{type}, bound => 1, off => $base && $fn ne 'session' ? [ @$base, $window{size} ] : undef },
		{ ref => "$alias.window_end", type => $column->{type}, bound => 1, off => $base });

	push @{ $level->{bounds} }, \@bounds;
	push @{ $level->{columns} }, @bounds if $fn ne 'session';
	push @{ $level->{total} }, map { $_->{ref} } @bounds if $level->{total} && $fn =~ /hop|cumulate/;
	return;
}

# The start of a level over an item of FROM.
sub level_over
{
	my ($over) = @_;

	return {
		from => $over->{item}, columns => [ @{ $over->{columns} } ], total => $over->{uniq} && [ @{ $over->{uniq} } ],
		stages => $over->{stages}, closes_below => $over->{closes},
		windows => [], bounds => [], joins => [], where => [], having => [], targets => [] };
}

# Joins with tables and functions.
sub add_join
{
	my ($g, $level) = @_;
	my $alias = new_alias($g, 'd');
	my @ints = grep { $_->{ref} !~ /\.id$/ } columns_of(qr/^int$/, @{ $level->{columns} });
	my @texts = columns_of(qr/^text$/, @{ $level->{columns} });
	my @arrays = columns_of(qr/^ints$/, @{ $level->{columns} });
	my $how = int rand 5;

	if ($how <= 1 && @ints)
	{
		my $on = "$alias.id = " . pick(@ints)->{ref} . (chance(0.3) ? " AND $alias.factor > 1" : '');

		push @{ $level->{joins} }, { text => pick('JOIN', 'LEFT JOIN', 'LEFT JOIN') . " dim $alias ON $on" };
		push @{ $level->{columns} }, { ref => "$alias.name", type => 'text' }, { ref => "$alias.factor", type => 'int' };
	}
	elsif ($how == 2 && @texts)
	{
		push @{ $level->{joins} }, { text => pick('JOIN', 'LEFT JOIN') . " tag $alias ON $alias.j = " . pick(@texts)->{ref} };
		push @{ $level->{columns} }, { ref => "$alias.m", type => 'int' };
		$level->{total} = undef;
	}
	elsif ($how == 3 && @arrays)
	{
		push @{ $level->{joins} }, { text => pick('CROSS JOIN LATERAL', 'LEFT JOIN LATERAL') . " unnest(" . pick(@arrays)->{ref} . ") $alias(u)" };
		$level->{joins}[-1]{text} .= ' ON true' if $level->{joins}[-1]{text} =~ /^LEFT/;
		push @{ $level->{columns} }, { ref => "$alias.u", type => 'int' };
		$level->{total} = undef;
	}
	elsif (@ints)
	{
		push @{ $level->{joins} }, { text => 'CROSS JOIN LATERAL generate_series(1, ' . pick(@ints)->{ref} . " % 3) $alias(u)" };
		push @{ $level->{columns} }, { ref => "$alias.u", type => 'int' };
		push @{ $level->{total} }, "$alias.u" if $level->{total};
	}
	return;
}

# Conditions on rows.
sub add_conditions
{
	my ($g, $level) = @_;
	my @ints = grep { $_->{ref} !~ /\.id$/ } columns_of(qr/^int$/, @{ $level->{columns} });

	push @{ $level->{where} }, condition($level->{columns}, 2) if chance(0.35);
	push @{ $level->{where} }, condition($level->{columns}, 1) if chance(0.1);
	if ((!$level->{stages} || $g->{can}{lookup} && !@{ $level->{windows} }) && @ints && chance(0.06))
	{
		my $int = pick(@ints)->{ref};

		push @{ $level->{where} }, pick("$int IN (SELECT id FROM dim WHERE factor > 1)", "NOT EXISTS (SELECT FROM dim WHERE id = $int)", "$int < (SELECT max(m) FROM tag)");
	}
	return;
}

# Names of a level's own output columns.
sub add_target
{
	my ($g, $level, $column, %more) = @_;
	my %used = map { $_->{name} => 1 } @{ $level->{targets} };
	my ($plain) = $column->{ref} =~ /^\w+\.(\w+)$/;
	my $name = $more{name} // (defined $plain && !$used{$plain} && chance(0.8) ? $plain : new_alias($g, 'c'));

	$name = "approx_$name" if ($column->{vague} || 0) == INEXACT && $name !~ /^approx_/;
	push @{ $level->{targets} }, { expr => $column->{ref}, name => $name, key => $more{key} };
	push @{ $level->{outs} }, { name => $name, type => $column->{type}, vague => $column->{vague}, event => $column->{event}, off => $column->{off} };
	return $name;
}

# A level without grouping. keep: hand on what identifies rows and windows.
sub linear_level
{
	my ($g, $over, %o) = @_;
	my $level = level_over($over);
	my (%names, @bounds);

	$level->{top} = $o{top};
	my @events = grep { $_->{event} } @{ $level->{columns} };

	add_window($g, $level, pick(@events)) if !$level->{stages} && !$o{no_windows} && @events && chance($o{top} ? 0.3 : 0.12);
	add_join($g, $level) if chance($level->{stages} ? ($g->{can}{lookup} ? 0.2 : 0.003) : 0.2);
	add_conditions($g, $level);
	foreach my $c (@{ $level->{columns} })
	{
		my $needed = $level->{stages} || $c->{bound} || grep { $_ eq $c->{ref} } @{ $level->{total} || [] };
		my $wanted = $c->{event} ? 0.85 : 0.4;

		next if !chance($needed ? $c->{bound} && !$level->{stages} ? 0.8 : 1 : $wanted);
		$names{ $c->{ref} } = add_target($g, $level, $c);
	}
	my @clear = grep { !$_->{vague} } @{ $level->{columns} };
	foreach (1 .. int rand 3)
	{
		my $type = pick(qw(int text bool bigint float numeric timestamptz));
		my $value = value(\@clear, $type, 2);

		# a second name of a column is that column
		my ($same) = grep { defined $value && $_->{ref} eq $value } @{ $level->{columns} };

		add_target($g, $level, $same || { ref => $value, type => $type, vague => $type eq 'numeric' }, name => new_alias($g, 'c')) if defined $value;
	}
	add_target($g, $level, { ref => '1', type => 'int' }, name => 'one') if !@{ $level->{targets} };
	if ($level->{total} && !grep { !$names{$_} } @{ $level->{total} })
	{
		$level->{uniq} = [ map { $names{$_} } @{ $level->{total} } ];
	}
	$level->{closes} = $level->{closes_below};
	$level->{closes} = 1 if !$level->{stages} && @{ $level->{windows} };
	return $level;
}

# A level that groups.
sub grouped_level
{
	my ($g, $over, %o) = @_;
	my $level = level_over($over);
	my (@keys, %have, @aggregates);

	$level->{top} = $o{top};
	if (!$level->{stages})
	{
		my @times = grep { $_->{event} } @{ $level->{columns} };
		my @others = columns_of(qr/^timestamp(tz)?$/, @{ $level->{columns} });

		if (@times && chance(0.55))
		{
			add_window($g, $level, pick(@times), 1);
			add_window($g, $level, pick(@times), 1) if !$level->{session} && chance(0.08);
		}
		elsif (@others && chance(0.06)) { add_window($g, $level, pick(@others), 1); }
	}
	else
	{
		my @known = grep { $_->{off} && $_->{type} eq 'timestamptz' } @{ $level->{columns} };

		add_window($g, $level, pick(@known), 1) if @known && chance(0.4);
	}
	add_join($g, $level) if !$level->{session} && chance($level->{stages} ? ($g->{can}{lookup} && !@{ $level->{windows} } ? 0.2 : 0.003) : 0.2);
	add_conditions($g, $level);

	# keys: bounds of windows, and some more
	foreach my $bounds (@{ $level->{bounds} })
	{
		my $which = $level->{session} ? pick(1, 2, 3, 3) : pick(0, 1, 1, 2, 2, 3, 3);

		push @keys, $bounds->[0] if $which & 1;
		push @keys, $bounds->[1] if $which & 2;
	}
	my $count = weighted([ 15, 0 ], [ 40, 1 ], [ 25, 2 ], [ 12, 3 ], [ 5, 4 ]);
	my @inherited = grep { $_->{off} } @{ $level->{columns} };

	push @keys, pick(@inherited) if @inherited && !grep({ $_->{off} } @keys) && chance(0.6);
	foreach my $c (some($count, grep { !$_->{bound} && exact($_) && $_->{type} !~ /^array of/ && ($_->{type} ne 'xid' || $o{top} && !$level->{session}) } @{ $level->{columns} }))
	{
		if (!$c->{vague} && $c->{type} =~ /^(int|text|timestamptz|bool|bigint|date)$/ && chance(0.25))
		{
			my $value = value([ grep { !$_->{vague} } @{ $level->{columns} } ], $c->{type}, 2);

			my ($same) = grep { defined $value && $_->{ref} eq $value } @{ $level->{columns} };
			$c = $same || { ref => $value, type => $c->{type} } if defined $value && $value =~ /[td]\d+\./;
		}
		elsif ($c->{name} && $c->{name} eq 'o' && chance(0.5)) { $c = { ref => "($c->{ref}).a", type => 'int' }; }
		elsif ($c->{type} eq 'jsonb' && !$level->{stages} && chance(0.5)) { $c = { ref => "($c->{ref} ->> 'a')", type => 'text' }; }
		elsif ($c->{type} eq 'ints' && chance(0.5)) { $c = { ref => "($c->{ref})[1]", type => 'int' }; }
		push @keys, $c;
	}
	@keys = grep { !$have{ $_->{ref} }++ } @keys;
	$level->{keys} = [];
	foreach my $key (@keys)
	{
		# a column that some constant expression replaced is no event time any more
		my %column = (%$key, event => 0, vague => any_of($key));
		my $hidden = $o{top} && chance(0.003);
		my $name = $hidden ? undef : add_target($g, $level, \%column, key => $key->{ref});

		push @{ $level->{keys} }, { expr => $key->{ref}, name => $name, bound => $key->{bound} };
	}
	$level->{by_number} = chance(0.3);
	$level->{uniq} = (grep { !defined $_->{name} } @{ $level->{keys} }) ? undef : [ map { $_->{name} } @{ $level->{keys} } ];

	# aggregates, as they are or in expressions
	my $aggregates = 1 + int rand 4;
	$aggregates = 0 if @keys && chance(0.05);
	my $hashed = grep { $_->{type} eq 'xid' } @keys;    # which PostgreSQL cannot sort, as it wants to for some aggregates
	foreach (1 .. $aggregates)
	{
		my $a = aggregate($g, $level);
		$a = aggregate($g, $level) while $hashed && $a->{expr} =~ /DISTINCT|ORDER BY/;
		my $prefix = $a->{bag} ? "$a->{bag}_" : '';
		my $expr = $a->{expr};
		my $type = $a->{type};

		push @aggregates, { ref => $expr, type => $type, vague => $a->{vague} } if !$prefix;
		if (!$prefix && chance(0.2))
		{
			my @seen = grep { !$_->{vague} } @aggregates, map { { %$_, type => $_->{type} } } @keys;
			my @kinds = grep { /^(int|bigint|text|bool|numeric|float)$/ } map { $_->{type} } @seen;
			my $kind = @kinds ? pick(@kinds) : undef;
			my $value = $kind ? value(\@seen, $kind, 2) : undef;

			($expr, $type) = ($value, $kind) if defined $value;
			$a = { vague => $type eq 'numeric' } if defined $value;
		}
		add_target($g, $level, { ref => $expr, type => $type, vague => $a->{vague} }, name => $prefix . new_alias($g, 'a'));
	}
	if ($g->{can}{lookup_group} && !$level->{session} && chance(0.1))
	{
		my @ints = grep { /^t\d+\.\w+$/ } map { $_->{ref} } grep { $_->{type} eq 'int' } @keys;

		add_target($g, $level, { ref => '(SELECT max(name) FROM dim WHERE id = ' . pick(@ints) . ')', type => 'text' }, name => new_alias($g, 'a')) if @ints && chance(0.7);
		push @{ $level->{having} }, 'count(*) ' . pick('>', '<=') . ' (SELECT min(m) FROM tag)' if chance(0.4);
	}
	if (chance(0.2))
	{
		push @{ $level->{having} }, condition([ @keys, @aggregates, { ref => 'count(*)', type => 'bigint' } ], 1);
	}
	add_target($g, $level, { ref => 'count(*)', type => 'bigint' }, name => new_alias($g, 'a')) if !@{ $level->{targets} };
	@{ $level->{targets} } = some(scalar @{ $level->{targets} }, @{ $level->{targets} }) if chance(0.3);
	if ($g->{can}{sets} && @keys > 1 && !$level->{session} && chance(0.1))
	{
		$level->{sets} = pick('ROLLUP', 'CUBE');
		$level->{uniq} = undef;
		$_->{off} = undef foreach @{ $level->{outs} };
	}
	$level->{closes} = !$level->{sets} && (grep { $_->{off} || $level->{session} && $_->{bound} && $o{top} } @keys) && (!$over->{stages} || ($over->{closes} || 'joined') ne 'joined');
	$level->{stages} = $over->{stages} + 1;
	return $level;
}

# Where a query's rows come from.
sub source
{
	my ($g, $depth) = @_;
	my $how = weighted([ 50, 'stream' ], [ 14, 'union' ], [ $depth > 0 ? 24 : 0, 'sub' ], [ $depth > 0 ? 6 : 0, 'view' ], map { [ $g->{can}{$_} ? $_ eq 'join' ? 60 : 8 : 0, $_ ] } @CHANGING);

	return stream_item($g) if $how eq 'stream';
	return union_item($g) if $how eq 'union';
	return query_item($g, linear_level($g, source($g, $depth - 1)), weighted([ 6, 'sub' ], [ 3, 'with' ])) if $how eq 'sub';
	if ($how eq 'view')
	{
		# windows do not look into views
		my $item = query_item($g, linear_level($g, stream_item($g), no_windows => 1), 'view');

		$_->{event} = 0 foreach @{ $item->{columns} };
		return $item;
	}
	return Fuzz::Later->can("${how}_item")->($g, $depth);
}

# A query with its options: { top, emit, lateness, parallelism, interval }.
# can: what the server supports.  late: rows may be late.
sub random_query
{
	my (%o) = @_;
	my $g = { aliases => 0, can => $o{can} || {}, late => $o{late} };
	my $levels = weighted([ 16, 0 ], [ 58, 1 ], [ 20, 2 ], [ 6, 3 ]);
	my $item = source($g, 2);
	my $level;

	if ($levels == 0) { $level = $item->{item}{kind} eq 'stream' || chance(0.5) ? linear_level($g, $item, top => 1) : linear_level($g, $item, top => 1, no_windows => 1); }
	foreach my $n (1 .. $levels)
	{
		my $top = $n == $levels;

		my $folded = chance($top ? 0.08 : 0.12);

		$level = grouped_level($g, $item, top => $top && !$folded);
		if ($level->{uniq} && $folded)
		{
			$level = linear_level($g, query_item($g, $level), top => $top);
		}
		$level = Fuzz::Later::finish($g, $level) if $top || chance(0.4);
		$item = query_item($g, $level) if !$top;
	}
	if ($g->{can}{scalar} && !$level->{tail} && !$level->{distinct} && chance(0.08))
	{
		Fuzz::Later::scalar_condition($g, $level);
		$level->{closes} = 0;
	}
	my %query = (top => $level, emit => 'changes', lateness => '0', parallelism => 1, interval => chance(0.15) ? '20 ms' : '1 hour');

	$query{emit} = 'final' if $level->{closes} && $level->{stages} ? chance(0.4) : chance(0.003);
	$query{lateness} = pick('1 min', '4 min', '20 min') if chance(0.15);
	$query{parallelism} = pick(2, 4, 4) if $g->{can}{parallel} && chance(0.35);
	return \%query;
}

require Fuzz::Later;    # which needs what is here

1;
