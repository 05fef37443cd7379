# Parts of random queries that work on changes of other rows: joins of streams, DISTINCT, set operations, ranks and first rows, scalar sub-selects.
# Each is only asked for where the server supports a plain example of it (Fuzz::Server).

package Fuzz::Later;

use strict;
use warnings FATAL => 'all';

use Fuzz::Query qw(chance pick some @STREAMS);

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

# ---- joins of streams ----

# What rows of two items have in common, for ON and WHERE.
sub common
{
	my ($g, $left, $right) = @_;
	my @on;

	foreach my $l (some(3, clear(@$left)))
	{
		my @same = grep { $_->{type} eq $l->{type} && $_->{ref} !~ /\.id$/ } clear(@$right);

		next if $l->{ref} =~ /\.id$/ || !@same || $l->{type} =~ /^(bool|float|timestamptz)$/;
		push @on, "$l->{ref} = " . pick(@same)->{ref};
		last if @on == 2;
	}
	my ($id) = map { $_->{ref} } grep { $_->{ref} =~ /\.id$/ } @$left;
	my ($other) = map { $_->{ref} } grep { $_->{ref} =~ /\.id$/ } @$right;

	# one column would give too many rows
	push @on, defined $id && defined $other ? "$id % 20 = $other % 20" : 'true' if @on < 2;
	push @on, "$id " . pick('<', '<>') . " $other" if defined $id && defined $other && chance(0.2);
	my ($time) = map { $_->{ref} } grep { $_->{type} eq 'timestamptz' } @$left;
	my ($then) = map { $_->{ref} } grep { $_->{type} eq 'timestamptz' } @$right;

	push @on, "$time BETWEEN $then - interval '10 min' AND $then + interval '5 min'" if !$g->{late} && defined $time && defined $then && chance(0.25);
	return join ' AND ', @on;
}

sub side
{
	my ($g) = @_;
	my $item = Fuzz::Query::stream_item($g);

	return $item if chance(0.7);
	return Fuzz::Query::query_item($g, Fuzz::Query::linear_level($g, $item, no_windows => 1), 'sub');
}

sub join_item
{
	my ($g, $depth) = @_;
	my $left = side($g);
	my $level = Fuzz::Query::level_over($left);

	if (chance(0.3))
	{
		semi_join($g, $level);
	}
	else
	{
		foreach (1 .. (chance(0.15) ? 2 : 1))
		{
			my $right = side($g);

			push @{ $level->{joins} }, { type => pick('JOIN', 'JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN'), item => $right->{item}, on => common($g, $level->{columns}, $right->{columns}) };
			$level->{total} = $level->{total} && $right->{uniq} && [ @{ $level->{total} }, @{ $right->{uniq} } ];
			push @{ $level->{columns} }, @{ $right->{columns} };
		}

		# FULL JOIN takes only conditions that can be merged or hashed
		foreach (grep { $_->{type} eq 'FULL JOIN' } @{ $level->{joins} })
		{
			$_->{on} = join ' AND ', grep { /^\w+\.\w+(?: % 20)? = / } split / AND /, $_->{on} =~ s/ BETWEEN .*//r;
			$_->{type} = 'LEFT JOIN' if $_->{on} eq '';
			$_->{on} = 'true' if $_->{on} eq '';
		}
	}
	Fuzz::Query::add_conditions($g, $level) if chance(0.5);
	output($g, $level, 6);
	return changing($g, $level);
}

sub semi_join
{
	my ($g, $level) = @_;
	my $stream = pick(@STREAMS);
	my $alias = Fuzz::Query::new_alias($g, 's');
	my @other = map { { ref => "$alias.$_->[0]", type => $_->[1], vague => $_->[2] } } @Fuzz::Query::COLUMNS;
	my ($int) = map { $_->{ref} } some(1, grep { $_->{type} eq 'int' && $_->{ref} !~ /\.id$/ } @{ $level->{columns} });

	if (defined $int && chance(0.5))
	{
		my $where = pick('', " WHERE $alias.k > 1", " WHERE $alias.v IS NOT NULL", " WHERE $alias.v IS NOT NULL AND $alias.b");

		push @{ $level->{where} }, "$int " . pick('', 'NOT ') . "IN (SELECT $alias." . pick('k', 'v') . " FROM $stream $alias$where)";
	}
	else
	{
		push @{ $level->{where} }, pick('', 'NOT ') . "EXISTS (SELECT FROM $stream $alias WHERE " . common($g, $level->{columns}, \@other) . ')';
	}
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

# ---- DISTINCT and set operations ----

sub distinct_item
{
	my ($g, $depth) = @_;
	my $over = chance(0.7) ? Fuzz::Query::stream_item($g) : Fuzz::Query::union_item($g);
	my $level = Fuzz::Query::level_over($over);

	distinct($g, $level);
	return changing($g, $level);
}

sub distinct
{
	my ($g, $level) = @_;
	my $total = $level->{total};
	my @columns = some(1 + int rand 3, grep { $_->{type} ne 'xid' && ($_->{name} || '') !~ /^(id|ts)$/ } Fuzz::Query::exact(@{ $level->{columns} }));

	Fuzz::Query::add_conditions($g, $level) if chance(0.5);
	$level->{total} = undef;
	if ($total && chance(0.35))
	{
		my @by = map { $_->{ref} } @columns;

		$level->{distinct} = 'DISTINCT ON (' . join(', ', @by) . ') ';
		$level->{tail} = ' ORDER BY ' . join(', ', @by, Fuzz::Query::order_by({ total => $total }, pick(map { $_->{ref} } clear(@{ $level->{columns} }))));
		$level->{uniq} = [ map { Fuzz::Query::add_target($g, $level, { %$_, vague => Fuzz::Query::any_of($_) }) } @columns ];
		Fuzz::Query::add_target($g, $level, $_) foreach some(2, grep { $_->{type} ne 'xid' } @{ $level->{columns} });
		return;
	}
	$level->{distinct} = 'DISTINCT ';
	$level->{uniq} = [ map { Fuzz::Query::add_target($g, $level, { %$_, vague => Fuzz::Query::any_of($_) }) } @columns ];
	return;
}

sub setop_item
{
	my ($g, $depth) = @_;
	my $over = Fuzz::Query::union_item($g);
	my $op = pick('UNION', 'INTERSECT', 'EXCEPT', 'INTERSECT ALL', 'EXCEPT ALL');
	my $kept = qr/^u/;

	foreach (@{ $over->{item}{parts} })
	{
		@{ $_->{targets} } = grep { $_->{name} =~ $kept } @{ $_->{targets} };
	}
	$over->{item}{op} = $op;
	$over->{columns} = [ grep { $_->{name} =~ $kept } @{ $over->{columns} } ];
	$over->{uniq} = $op =~ /ALL/ ? undef : [ map { $_->{ref} } @{ $over->{columns} } ];
	$over->{stages} = 1;
	return $over;
}

# ---- over a whole query ----

sub ranked
{
	my ($g, $level) = @_;
	my $inner = Fuzz::Query::query_item($g, $level);
	my $ranks = Fuzz::Query::level_over($inner);
	my $rank = pick('row_number()', 'row_number()', 'rank()', 'dense_rank()');
	my @by = map { $_->{ref} } some(int rand 3, clear(@{ $inner->{columns} }));
	my ($first) = map { $_->{ref} } some(1, grep { $_->{type} !~ /^array/ } clear(@{ $inner->{columns} }));
	my $order = $rank =~ /row/ ? Fuzz::Query::order_by({ total => $inner->{uniq} }, $first) : defined $first ? $first : '1';

	Fuzz::Query::add_target($g, $ranks, $_) foreach @{ $inner->{columns} };
	Fuzz::Query::add_target($g, $ranks, { ref => "$rank OVER (" . (@by ? 'PARTITION BY ' . join(', ', @by) . ' ' : '') . "ORDER BY $order)", type => 'bigint' }, name => 'rank_');
	$ranks->{stages} = 1;
	my $outer = changing($g, $ranks);
	my $top = Fuzz::Query::level_over($outer);

	push @{ $top->{where} }, "$outer->{item}{alias}.rank_ <= " . pick(1, 1, 2, 5);
	Fuzz::Query::add_target($g, $top, $_) foreach grep { $_->{name} ne 'rank_' || chance(0.5) } @{ $outer->{columns} };
	return $top;
}

sub first_rows
{
	my ($g, $level) = @_;
	my $inner = Fuzz::Query::query_item($g, $level);
	my $top = Fuzz::Query::level_over($inner);
	my ($first) = map { $_->{ref} } some(1, grep { $_->{type} !~ /^array/ } clear(@{ $inner->{columns} }));

	Fuzz::Query::add_target($g, $top, $_) foreach @{ $inner->{columns} };
	$top->{tail} = ' ORDER BY ' . Fuzz::Query::order_by({ total => $inner->{uniq} }, $first) . ' LIMIT ' . pick(1, 3, 10) . pick('', '', ' OFFSET 2');
	return $top;
}

# A value over all of a stream, in a condition.
sub scalar_condition
{
	my ($g, $level) = @_;
	my $stream = pick(@STREAMS);
	my $alias = Fuzz::Query::new_alias($g, 's');

	if ($level->{keys})
	{
		push @{ $level->{having} }, 'count(*) ' . pick('>', '<=') . ' (SELECT ' . pick("count(*) / 20", "count(DISTINCT $alias.k)", "max($alias.v)") . " FROM $stream $alias)";
	}
	elsif (my ($int) = some(1, grep { $_->{type} eq 'int' && $_->{ref} !~ /\.id$/ } @{ $level->{columns} }))
	{
		push @{ $level->{where} }, "$int->{ref} " . pick('>', '<=') . " (SELECT avg($alias.v) FROM $stream $alias)";
	}
	return;
}

# Add to a query what the server supports; returns its new top.
sub finish
{
	my ($g, $level) = @_;
	my $clear = !grep { $_->{name} =~ /^(bag|bagtext)_/ || $_->{type} eq 'xid' } @{ $level->{outs} };

	return $level if grep { $_->{distinct} || $_->{tail} } $level;
	if ($g->{can}{scalar} && chance(0.08))
	{
		scalar_condition($g, $level);
		$level->{closes} = 0;
	}
	if ($level->{uniq} && @{ $level->{uniq} } && $clear && chance(0.2))
	{
		return ranked($g, $level) if $g->{can}{ranking} && chance(0.6);
		return first_rows($g, $level) if $g->{can}{top_n};
	}
	return $level;
}

1;
