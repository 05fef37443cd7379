# Parts of random queries that work on changes of other rows: joins of streams, DISTINCT, set operations, ranks and first rows, frames of rows, scalar
# sub-selects.  Each is only asked for where the server supports a plain example of it (Fuzz::Server).

package Fuzz::Later;

use strict;
use warnings FATAL => 'all';

use Fuzz::Query qw(chance pick some weighted @STREAMS);

# A level whose output is not insert-only, or has no event time any more, as an item of FROM.
sub changing
{
	my ($g, $level) = @_;

	$level->{stages} ||= 1;
	$level->{closes} = 0;
	foreach (@{ $level->{outs} })
	{
		$_->{event} = 0;
		$_->{off} = undef;
	}
	return Fuzz::Query::query_item($g, $level);
}

sub clear { return grep { !$_->{vague} && $_->{type} ne 'xid' } @_; }

# Add all of a level's columns to its output, except some.
sub pass
{
	my ($g, $level, %without) = @_;
	my %names;

	$names{ $_->{ref} } = Fuzz::Query::add_target($g, $level, $_) foreach grep { !$without{ $_->{name} } } @{ $level->{columns} };
	$level->{uniq} = $level->{total} && (grep { !defined $names{$_} } @{ $level->{total} }) ? undef : $level->{total} && [ map { $names{$_} } @{ $level->{total} } ];
	return;
}

# Some of a level's columns as its output, among them those that tell its rows apart.
sub output
{
	my ($g, $level, $count) = @_;
	my %need = map { $_ => 1 } @{ $level->{total} || [] };
	my %names;

	foreach ((grep { $need{ $_->{ref} } } @{ $level->{columns} }), some(1 + int rand $count, grep { !$need{ $_->{ref} } && $_->{type} ne 'xid' } @{ $level->{columns} }))
	{
		$names{ $_->{ref} } = Fuzz::Query::add_target($g, $level, $_);
	}
	$level->{uniq} = [ map { $names{$_} } @{ $level->{total} } ] if $level->{total};
	return;
}

# What any of these can work on.
sub input
{
	my ($g, $depth) = @_;
	my $deeper = $depth > 0 ? 1 : 0;
	my $how = weighted([ 60, 'stream' ], [ 14, 'sub' ], [ 8, 'union' ], [ 14 * $deeper, 'grouped' ], map { [ $g->{can}{$_} ? 5 * $deeper : 0, $_ ] } @Fuzz::Query::CHANGING);

	return Fuzz::Query::stream_item($g) if $how eq 'stream';
	return Fuzz::Query::union_item($g) if $how eq 'union';
	return Fuzz::Query::query_item($g, Fuzz::Query::linear_level($g, Fuzz::Query::stream_item($g), no_windows => 1)) if $how eq 'sub';
	return changing($g, Fuzz::Query::grouped_level($g, Fuzz::Query::source($g, 0))) if $how eq 'grouped';
	return Fuzz::Later->can("${how}_item")->($g, $depth - 1);
}

# ---- joins of streams ----

sub id_of { my ($id) = map { $_->{ref} } grep { $_->{ref} =~ /\.id$/ } @_; return $id; }

# What rows of two items have in common, for ON and WHERE: at least one equality.  Says also whether it bounds how far apart event times are.
sub common
{
	my ($g, $left, $right, %o) = @_;
	my ($id, $other) = (id_of(@$left), id_of(@$right));
	my ($bounded, @on) = (0);

	foreach my $l (some(4, clear(@$left)))
	{
		my $types = $l->{type} =~ /^(int|bigint)$/ && chance(0.3) ? qr/^(int|bigint)$/ : qr/^\Q$l->{type}\E$/;
		my @same = grep { $_->{type} =~ $types && $_->{ref} !~ /\.id$/ } clear(@$right);

		next if $l->{ref} =~ /\.id$/ || !@same || $l->{type} =~ /^(bool|timestamptz)$/;
		push @on, "$l->{ref} = " . pick(@same)->{ref};
		last if @on == 2;
	}

	# one column of two streams would give too many rows
	push @on, chance(0.15) ? "$id = $other" : "$id % 20 = $other % 20" if @on < 2 && defined $id && defined $other;
	if (!@on)
	{
		my ($l) = some(1, grep { $_->{type} !~ /^array/ } clear(@$left));
		my ($r) = some(1, grep { $_->{type} !~ /^array/ } clear(@$right));

		push @on, $l && $r ? "$l->{ref}::text = $r->{ref}::text" : 'true';
	}
	if (!$o{equality})
	{
		push @on, "$id " . pick('<', '<>') . " $other" if defined $id && defined $other && chance(0.2);
		my ($time) = map { $_->{ref} } grep { $_->{event} } @$left;
		my ($then) = map { $_->{ref} } grep { $_->{event} } @$right;

		if (defined $time && defined $then && chance(0.25))
		{
			push @on, chance(0.1) ? "$time = $then" : "$time BETWEEN $then - interval '10 min' AND $then + interval '5 min'";
			$bounded = 1;
		}
	}
	return (join(' AND ', @on), $bounded);
}

# A join of two or three, or a semi join.
sub join_item
{
	my ($g, $depth) = @_;

	return window_join_item($g) if chance(0.2);
	my $left = input($g, $depth);
	my $level = Fuzz::Query::level_over($left);

	if (chance(0.3))
	{
		semi_join($g, $level, $depth);
	}
	else
	{
		foreach (1 .. (chance(0.3) ? 2 : 1))
		{
			my $right = input($g, $depth);
			my $type = pick('JOIN', 'JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN');

			# PostgreSQL's own full joins have only conditions that can be hashed or merged
			my ($on, $bounded) = common($g, $level->{columns}, $right->{columns}, equality => $type eq 'FULL JOIN');

			judged($level, $right) if $bounded;
			push @{ $level->{joins} }, { type => $type, item => $right->{item}, on => $on };
			$level->{total} = $level->{total} && $right->{uniq} && [ @{ $level->{total} }, @{ $right->{uniq} } ];
			push @{ $level->{columns} }, @{ $right->{columns} };
		}
	}
	Fuzz::Query::add_conditions($g, $level) if chance(0.5);
	$level->{stages} = 1;

	# in the same level
	if ($g->{can}{distinct} && chance(0.1)) { distinct($g, $level); }
	elsif ($g->{can}{ranking} && $level->{total} && chance(0.1)) { return changing($g, ranked($g, $level)); }
	else
	{
		output($g, $level, 6);
		limit($g, $level) if $g->{can}{top_n} && $level->{total} && chance(0.1);
	}
	return changing($g, $level);
}

# Two streams themselves, joined with a condition on their event times, can have rows that are late for it.
sub judged
{
	my ($level, $right) = @_;
	my @items = ($level->{from}, $right->{item});

	return if @{ $level->{joins} } || grep { $_->{kind} ne 'stream' } @items;
	$_->{bounded} = 1 foreach @items;
	return;
}

sub semi_join
{
	my ($g, $level, $depth) = @_;
	my $other = chance(0.7) ? Fuzz::Query::stream_item($g) : input($g, $depth);
	my @ints = grep { $_->{type} eq 'int' && $_->{ref} !~ /\.id$/ } @{ $level->{columns} };
	my @theirs = grep { $_->{type} eq 'int' && $_->{ref} !~ /\.id$/ } @{ $other->{columns} };

	if (@ints && @theirs && chance(0.5))
	{
		my @how = ('IN', $g->{can}{not_in} ? 'NOT IN' : ());
		my ($left, $right) = (pick(@ints)->{ref}, pick(@theirs)->{ref});
		my @where = chance(0.6) ? Fuzz::Query::condition($other->{columns}, 1) : ();

		($left, $right) = ("($left, " . pick(@ints)->{ref} . ')', "$right, " . pick(@theirs)->{ref}) if $g->{can}{not_in_rows} && chance(0.3);
		push @where, pick(@ints)->{ref} . ' = ' . pick(@theirs)->{ref} if $g->{can}{not_in_rows} && chance(0.3);
		push @{ $level->{semis} }, { how => pick(@how), item => $other->{item}, left => $left, right => $right, where => \@where };
	}
	else
	{
		my ($on, $bounded) = common($g, $level->{columns}, $other->{columns});

		judged($level, $other) if $bounded;
		push @{ $level->{semis} }, { how => pick('', 'NOT ') . 'EXISTS', item => $other->{item}, where => [$on] };
	}
	if ($g->{can}{mark} && chance(0.3))
	{
		$level->{semis}[-1]{or} = Fuzz::Query::condition($level->{columns}, 1);
		$level->{semis}[-1]{not} = 'NOT ' if chance(0.2);
	}
	return;
}

# Two sides with windows, of which one is grouped, joined by them.
sub window_join_item
{
	my ($g) = @_;
	my $window;
	my $side = sub {
		my ($grouped) = @_;
		my $over = Fuzz::Query::stream_item($g);
		my $level = Fuzz::Query::level_over($over);
		my ($time) = grep { $_->{event} } @{ $level->{columns} };

		Fuzz::Query::add_window($g, $level, $time, 0, $window);
		$window //= $level->{windows}[0];
		push @{ $level->{where} }, Fuzz::Query::condition($level->{columns}, 1) if chance(0.3);
		my @bounds = @{ $level->{bounds}[0] };
		my @names = map { Fuzz::Query::add_target($g, $level, $_) } @bounds;
		my $key = pick(grep { !$_->{vague} && $_->{type} =~ /^(int|text|date|enum)$/ && $_->{name} ne 'id' } @{ $over->{columns} });

		Fuzz::Query::add_target($g, $level, $key, name => 'key');
		if ($grouped)
		{
			my %column = %$key;

			$level->{keys} = [ map { { expr => $_->{ref}, bound => $_->{bound} } } @bounds, $key ];
			Fuzz::Query::add_target($g, $level, { ref => 'count(*)', type => 'bigint' }, name => 'n');
			foreach (1 .. int rand 3)
			{
				my $a = Fuzz::Query::aggregate($g, $level);

				Fuzz::Query::add_target($g, $level, { ref => $a->{expr}, %$a }, name => Fuzz::Query::new_alias($g, 'a')) if !$a->{bag};
			}
			$level->{uniq} = [ @names, 'key' ];
			$level->{stages} = 1;
		}
		else
		{
			Fuzz::Query::add_target($g, $level, $over->{columns}[0], name => 'id');
			Fuzz::Query::add_target($g, $level, $_) foreach some(2, @{ $over->{columns} }[ 1 .. 9 ]);
			$level->{uniq} = [ @names, 'id' ];
		}
		$level->{closes} = 1;
		my $item = Fuzz::Query::query_item($g, $level);

		return ($item, map { "$item->{item}{alias}.$_" } @names, 'key');
	};
	my @grouped = some(2, pick([ 1, 1 ], [ 1, 0 ], [ 0, 1 ])->@*);
	my ($left, @left) = $side->($grouped[0]);
	my ($right, @right) = $side->($grouped[1]);
	my $level = Fuzz::Query::level_over($left);
	my $type = chance(0.7) ? 'JOIN' : pick('LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN');
	my @on = map { "$left[$_] = $right[$_]" } 1, chance(0.8) ? 0 : ();
	my ($l) = grep { $_->{name} eq 'key' } @{ $left->{columns} };
	my ($r) = grep { $_->{name} eq 'key' } @{ $right->{columns} };

	push @on, $l->{type} eq $r->{type} ? "$l->{ref} = $r->{ref}" : "$l->{ref}::text = $r->{ref}::text" if chance(0.8);
	push @{ $level->{joins} }, { type => $type, item => $right->{item}, on => join(' AND ', @on) };
	push @{ $level->{columns} }, @{ $right->{columns} };
	push @{ $level->{total} }, @{ $right->{uniq} };
	$level->{stages} = 1;
	output($g, $level, 5);
	return changing($g, $level) if $type ne 'JOIN';
	$_->{event} = 0 foreach @{ $level->{outs} };
	$level->{closes} = 'joined';    # what groups it does not close
	return Fuzz::Query::query_item($g, $level);
}

# ---- DISTINCT and set operations ----

sub distinct_item
{
	my ($g, $depth) = @_;
	my $level = Fuzz::Query::level_over(input($g, $depth));

	distinct($g, $level);
	return changing($g, $level);
}

sub distinct
{
	my ($g, $level) = @_;
	my $total = $level->{total};
	my @columns = some(1 + int rand 3, grep { $_->{type} !~ /^(xid$|array)/ && ($_->{name} || '') !~ /^(id|ts)$/ } Fuzz::Query::exact(@{ $level->{columns} }));

	Fuzz::Query::add_conditions($g, $level) if chance(0.5);
	$level->{total} = undef;
	@columns = ({ ref => '1', type => 'int' }) if !@columns;
	if ($total && @$total && chance(0.35))
	{
		my @by = map { $_->{ref} =~ /^\d/ ? "($_->{ref} + 0)" : $_->{ref} } @columns;

		$level->{distinct} = 'DISTINCT ON (' . join(', ', @by) . ') ';
		$level->{tail} = ' ORDER BY ' . join(', ', @by, Fuzz::Query::order_by({ total => $total }, first_of($level->{columns})));
		$level->{uniq} = [ map { Fuzz::Query::add_target($g, $level, { %$_, vague => Fuzz::Query::any_of($_) }) } @columns ];
		Fuzz::Query::add_target($g, $level, $_) foreach some(2, grep { $_->{type} ne 'xid' } @{ $level->{columns} });
		return;
	}
	$level->{distinct} = 'DISTINCT ';
	$level->{uniq} = [ map { Fuzz::Query::add_target($g, $level, { %$_, vague => Fuzz::Query::any_of($_) }) } @columns ];
	return;
}

# Something to order by before what makes an order total.
sub first_of
{
	my ($columns) = @_;
	my ($first) = some(1, map { $_->{ref} } grep { $_->{type} !~ /^array/ } clear(@$columns));

	return $first;
}

sub union_distinct_item
{
	my ($g) = @_;

	return set_operation($g, 'UNION');
}

sub setop_item
{
	my ($g, $depth) = @_;

	return set_operation($g, pick('INTERSECT', 'EXCEPT', 'INTERSECT ALL', 'EXCEPT ALL')) if chance(0.6);
	return set_of_state($g, $depth, pick('UNION ALL', 'UNION', 'INTERSECT', 'EXCEPT', 'INTERSECT ALL', 'EXCEPT ALL'));
}

# Of parts that change.
sub set_of_state
{
	my ($g, $depth, $op) = @_;
	my @types = map { pick(qw(int int text bigint date)) } 1 .. 1 + int rand 2;
	my $alias = Fuzz::Query::new_alias($g, 't');
	my @parts;

	foreach (1 .. 2)
	{
		my $level = Fuzz::Query::level_over(input($g, $depth));

		Fuzz::Query::add_conditions($g, $level) if chance(0.3);
		foreach my $n (0 .. $#types)
		{
			my $value = Fuzz::Query::value([ clear(@{ $level->{columns} }) ], $types[$n], 1) // "NULL::$types[$n]";

			push @{ $level->{targets} }, { expr => $value, name => "u$n" };
		}

		# rows of UNION ALL have no times here
		$level->{stages} ||= 1;
		push @parts, $level;
	}
	my @columns = map { { ref => "$alias.u$_", name => "u$_", type => $types[$_], vague => 0 } } 0 .. $#types;

	return { item => { kind => 'setop', parts => \@parts, op => $op, alias => $alias, as => weighted([ 6, 'sub' ], [ 2, 'with' ]) },
		columns => \@columns, uniq => $op =~ /ALL/ ? undef : [ map { $_->{ref} } @columns ], stages => 1 };
}

sub set_operation
{
	my ($g, $op) = @_;
	my $over = Fuzz::Query::union_item($g, few => 1);

	foreach (@{ $over->{item}{parts} })
	{
		@{ $_->{targets} } = grep { $_->{name} =~ /^u/ } @{ $_->{targets} };
	}
	$over->{item}{op} = $op;
	$over->{columns} = [ map { { %$_, vague => Fuzz::Query::any_of($_) } } grep { $_->{name} =~ /^u/ } @{ $over->{columns} } ];
	$over->{uniq} = $op =~ /ALL/ ? undef : [ map { $_->{ref} } @{ $over->{columns} } ];
	$over->{stages} = 1;
	return $over;
}

# ---- orders ----

sub ranking_item { my ($g, $depth) = @_; return ordered_item($g, $depth, sub { ranked(shift, Fuzz::Query::level_over(shift)) }); }
sub top_n_item { my ($g, $depth) = @_; return ordered_item($g, $depth, \&first_rows); }
sub frames_item { my ($g, $depth) = @_; return ordered_item($g, $depth, \&framed); }

sub ordered_item
{
	my ($g, $depth, $how) = @_;
	my $over;

	foreach (1 .. 5)
	{
		$over = input($g, $depth);
		last if $over->{uniq} && @{ $over->{uniq} };
		$over = undef;
	}
	return changing($g, $how->($g, $over || Fuzz::Query::stream_item($g)));
}

# The first rows of each partition; `ranks`: a level without an output so far.
sub ranked
{
	my ($g, $ranks) = @_;
	my $rank = pick('row_number()', 'row_number()', 'rank()', 'dense_rank()');
	my @by = map { $_->{ref} } some(int rand 3, clear(@{ $ranks->{columns} }));
	my $first = first_of($ranks->{columns});
	my $order = $rank =~ /row/ ? Fuzz::Query::order_by($ranks, $first) : defined $first ? $first : '1';

	my $name = Fuzz::Query::new_alias($g, 'rank');
	pass($g, $ranks);
	Fuzz::Query::add_target($g, $ranks, { ref => "$rank OVER (" . (@by ? 'PARTITION BY ' . join(', ', @by) . ' ' : '') . "ORDER BY $order)", type => 'bigint' }, name => $name);
	$ranks->{stages} = 1;
	my $outer = changing($g, $ranks);
	my $top = Fuzz::Query::level_over($outer);

	push @{ $top->{where} }, "$outer->{item}{alias}.$name " . pick('<= 1', '= 1', '<= 2', '<= 5', '< 3', 'BETWEEN 2 AND 4');
	pass($g, $top, chance(0.5) ? ($name => 1) : ());
	$top->{stages} = 1;
	return $top;
}

sub first_rows
{
	my ($g, $inner) = @_;
	my $top = Fuzz::Query::level_over($inner);

	pass($g, $top);
	limit($g, $top);
	$top->{stages} = 1;
	return $top;
}

sub limit
{
	my ($g, $level) = @_;

	$level->{tail} = ' ORDER BY ' . Fuzz::Query::order_by($level, first_of($level->{columns})) . ' LIMIT ' . pick(1, 3, 10) . pick('', '', ' OFFSET 2');
	return;
}

# Each row with something of those around it.
sub framed
{
	my ($g, $inner) = @_;
	my $top = Fuzz::Query::level_over($inner);
	my @by = map { $_->{ref} } some(1, clear(@{ $inner->{columns} }));
	my $order = Fuzz::Query::order_by({ total => $inner->{uniq} }, first_of($inner->{columns}));
	my $over = 'OVER (' . (@by ? 'PARTITION BY ' . join(', ', @by) . ' ' : '') . "ORDER BY $order";

	pass($g, $top);
	foreach my $c (some(1 + int rand 2, grep { $_->{type} =~ /^(int|bigint|float|text|date)$/ } clear(@{ $inner->{columns} })))
	{
		if (chance(0.4))
		{
			my $call = pick("lag($c->{ref})", "lead($c->{ref})", "lag($c->{ref}, 2)");

			Fuzz::Query::add_target($g, $top, { ref => "$call $over)", type => $c->{type} }, name => Fuzz::Query::new_alias($g, 'f'));
			next;
		}
		my %to = (int => 'bigint', bigint => 'numeric', float => 'float');
		my $call = $to{ $c->{type} } ? pick('sum', 'min', 'max', 'count') : pick('min', 'max', 'count');
		my $type = $call eq 'count' ? 'bigint' : $call eq 'sum' ? $to{ $c->{type} } : $c->{type};
		my $frame = pick('ROWS 2 PRECEDING', 'ROWS BETWEEN 9 PRECEDING AND CURRENT ROW', 'ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING');

		Fuzz::Query::add_target($g, $top, { ref => "$call($c->{ref}) $over $frame)", type => $type, vague => $type eq 'numeric' }, name => Fuzz::Query::new_alias($g, 'f'));
	}
	$top->{stages} = 1;
	return $top;
}

# ---- over a whole query ----

# A value over all of a stream, in a condition.
sub scalar_condition
{
	my ($g, $level) = @_;
	my $other = Fuzz::Query::stream_item($g);
	my $of = sub { return "$other->{item}{alias}." . shift; };

	if (chance(0.3) && !(grep { $_->{name} =~ /^approx_/ } @{ $level->{outs} }))
	{
		push @{ $level->{scalars} }, { name => Fuzz::Query::new_alias($g, 'v'), expr => pick('max(' . $of->('v') . ')', 'count(*)', 'min(' . $of->('d') . ')'), item => $other->{item} };
	}
	elsif ($g->{can}{rows_as_value} && chance(0.4) && !(grep { $_->{name} =~ /^approx_/ } @{ $level->{outs} }))
	{
		my ($int) = some(1, $level->{keys} ? () : map { $_->{ref} } grep { $_->{type} eq 'int' } @{ $level->{columns} });
		my $how = pick('array', $int ? qw(array only first) : 'top');
		my $value = $of->(pick(qw(id v k d)));
		my $equal = $int ? ' WHERE ' . $of->($how eq 'only' ? 'id' : pick(qw(k v))) . " = $int" : '';
		my %how = (
			array => { match => 'ARRAY', rest => "$equal ORDER BY " . $of->('id') },
			top => { match => 'ARRAY', rest => ' ORDER BY ' . $of->('id') . ' LIMIT ' . pick(1, 3) },
			only => { rest => $equal },
			first => { rest => "$equal ORDER BY " . $of->('id') . pick('', ' DESC') . ' LIMIT 1' });

		push @{ $level->{scalars} }, { name => Fuzz::Query::new_alias($g, 'v'), item => $other->{item}, expr => $value, %{ $how{$how} } };
	}
	elsif ($g->{can}{mark} && chance(0.4) && !(grep { $_->{name} =~ /^approx_/ } @{ $level->{outs} }))
	{
		my ($int) = some(1, grep { $_ && $_ =~ /^\w+\.(?!id\b)\w+$/ } $level->{keys} ? () : map { $_->{ref} } grep { $_->{type} eq 'int' } @{ $level->{columns} });

		push @{ $level->{scalars} },
		  { name => Fuzz::Query::new_alias($g, 'v'), item => $other->{item}, $int && chance(0.7) ? (match => "$int " . pick('IN', 'NOT IN', '<= ANY', '> ALL'), expr => $of->('v')) : (match => 'EXISTS', expr => '') };
	}
	elsif ($level->{keys})
	{
		push @{ $level->{scalars} },
		  { left => 'count(*) ' . pick('>', '<='), expr => pick('count(*) / 20', 'count(DISTINCT ' . $of->('k') . ')', 'max(' . $of->('v') . ')'), item => $other->{item}, having => 1 };
	}
	elsif (my ($int) = some(1, grep { $_->{type} eq 'int' && $_->{ref} !~ /\.id$/ } @{ $level->{columns} }))
	{
		push @{ $level->{scalars} }, { left => "$int->{ref} " . pick('>', '<='), expr => 'avg(' . $of->('v') . ')', item => $other->{item} };
	}
	return;
}

# A query's new top, or its next level's input: what the server supports over it.
sub finish
{
	my ($g, $level) = @_;
	my @how = grep { $g->{can}{$_} } qw(ranking ranking top_n frames distinct);

	return $level if grep { $_->{distinct} || $_->{tail} } $level;
	return $level if !@how || !chance(0.2) || grep { $_->{name} =~ /^(bag|bagtext)_/ || $_->{type} eq 'xid' } @{ $level->{outs} };
	my $how = pick(@how);
	my $inner = Fuzz::Query::query_item($g, $level);

	if ($how eq 'distinct')
	{
		my $top = Fuzz::Query::level_over($inner);

		distinct($g, $top);
		$top->{stages} = 1;
		$top->{closes} = 0;
		return $top;
	}
	return $level if !$level->{uniq} || !@{ $level->{uniq} };
	return ranked($g, Fuzz::Query::level_over($inner)) if $how eq 'ranking';
	return $how eq 'top_n' ? first_rows($g, $inner) : framed($g, $inner);
}

1;
