# A random query as text: as the pipeline has it ("live"), and as plain SQL over tables that hold the same rows ("plain"), which is what the
# pipeline's result has to be. The plain form uses the same names, found by another search_path; it leaves out late rows, closes what is closed, and finds
# sessions by gaps and islands. Its streams have a column wm_, the pipeline's watermark before each row's transaction.

package Fuzz::Render;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT_OK = qw(live plain views streams_of levels_of);

# All levels of a query, from the top down.
sub levels_of
{
	my ($level) = @_;

	return ($level, map { levels_of($_) } map { queries_of($_) } items_of($level));
}

sub items_of
{
	my ($level) = @_;

	return ($level->{from}, map { $_->{item} || () } map { @{ $level->{$_} || [] } } qw(joins semis scalars));
}

sub queries_of
{
	my ($item) = @_;

	return $item->{parts} ? @{ $item->{parts} } : $item->{query} || ();
}

# The streams that a query reads.
sub streams_of
{
	my ($level) = @_;
	my %streams;

	foreach my $l (levels_of($level))
	{
		$streams{ $_->{name} } = 1 foreach grep { $_->{kind} eq 'stream' } items_of($l);
	}
	return sort keys %streams;
}

sub live { my ($query) = @_; return level({ live => 1, query => $query }, $query->{top}); }

# $watermarks: of each stream now, as text
sub plain
{
	my ($query, $watermarks) = @_;
	my @streams = streams_of($query->{top});
	my $r = { query => $query, lateness => $query->{lateness}, wm => 'least(' . join(', ', map { "wm_$_" } @streams) . ')' };
	my ($session) = map { $_->{alias} } grep { $_->{fn} eq 'session' } @{ $query->{top}{windows} || [] };

	# a session closes by its end, whether it is shown or not
	local $query->{top}{targets} = [ @{ $query->{top}{targets} }, { expr => "max($session.window_end)", name => 'end_' } ] if $session;
	my $sql = level($r, $query->{top});

	return $sql if $query->{emit} ne 'final';
	my @ends = $session ? 'end_' : map { later($_->{name}, @{ $_->{off} }) } grep { $_->{off} } @{ $query->{top}{outs} };
	my %there = map { $_->{name} => 1 } @{ $query->{top}{targets} };

	@ends = () if grep { /^(\w+)/ && !$there{$1} } @ends;    # what shrinking has left closes by nothing known
	return "SELECT * FROM ($sql) q WHERE least(" . join(', ', @ends) . ") <= least(" . join(', ', map { "timestamptz '$watermarks->{$_}'" } @streams) . ") - interval '$query->{lateness}'";
}

sub later
{
	my ($expr, @intervals) = @_;

	return join ' + ', $expr, map { "interval '$_'" } @intervals;
}

# Views that a query needs: [ name, live text, plain text ].
sub views
{
	my ($query) = @_;
	my $r = { lateness => $query->{lateness}, wm => 'least(' . join(', ', map { "wm_$_" } streams_of($query->{top})) . ')' };
	my @views;

	foreach my $level (reverse levels_of($query->{top}))
	{
		push @views, map { [ view_name($query, $_), level({ live => 1, query => $query }, $_->{query}), level({ %$r, hidden => 1, query => $query }, $_->{query}) ] }
		  grep { ($_->{as} || '') eq 'view' } $level->{from};
	}
	return @views;
}

sub view_name { my ($query, $item) = @_; return "view_$query->{number}_$item->{alias}"; }

# An item of FROM; in the plain form with wm_, if rows of streams are in it.
sub item
{
	my ($r, $item, $with) = @_;
	my $sql;

	if ($item->{kind} eq 'stream')
	{
		return "$item->{name} $item->{alias}" if $r->{live};
		# late for a join, whatever it would match
		my $where = $item->{bounded} ? " WHERE (isfinite(ts) AND ts < $r->{wm} - interval '$r->{lateness}') IS NOT TRUE" : '';
		return "(SELECT *, $r->{wm} AS wm_ FROM $item->{name}$where) $item->{alias}";
	}
	return view_name($r->{query}, $item) . " $item->{alias}" if ($item->{as} || '') eq 'view';
	if ($item->{parts})
	{
		my $op = $item->{op} || 'UNION ALL';

		$sql = join " $op ", map { s/^(WITH .*)/($1)/sr } map { level({ %$r, hidden => $op eq 'UNION ALL' }, $_) } @{ $item->{parts} };
	}
	else { $sql = level({ %$r, hidden => 1 }, $item->{query}); }
	if (($item->{as} || '') eq 'with' && $with)
	{
		push @$with, "q_$item->{alias} AS ($sql)";
		return "q_$item->{alias} $item->{alias}";
	}
	return "($sql) $item->{alias}";
}

sub window { my ($w) = @_; return "stream_ckpt.$w->{fn}($w->{on}, $w->{args}) $w->{alias}"; }

# One level as text.
sub level
{
	my ($r, $level) = @_;
	my (@with, @where);
	my @windows = @{ $level->{windows} || [] };
	my $from = item($r, $level->{from}, \@with);
	my ($session) = grep { $_->{fn} eq 'session' } @windows;
	my $list = join ', ', map { "$_->{expr} AS $_->{name}" } @{ $level->{targets} };

	foreach (@{ $level->{joins} || [] })
	{
		$from .= ' ' . ($_->{item} ? "$_->{type} " . item($r, $_->{item}, \@with) . " ON $_->{on}" : $_->{text});
	}
	@where = map { "($_)" } @{ $level->{where} || [] };
	foreach (@{ $level->{semis} || [] })
	{
		my $rows = 'FROM ' . item($r, $_->{item}) . (@{ $_->{where} } ? ' WHERE ' . join(' AND ', @{ $_->{where} }) : '');

		my $match = $_->{how} =~ /EXISTS/ ? "$_->{how} (SELECT $rows)" : "$_->{left} $_->{how} (SELECT $_->{right} $rows)";

		push @where, $_->{or} ? ($_->{not} || '') . "($match OR $_->{or})" : $match;
	}
	my ($having, $compared) = map { my $having = $_; [ map { "$_->{left} (SELECT $_->{expr} FROM " . item($r, $_->{item}) . ')' } grep { $_->{left} && !$_->{having} == !$having } @{ $level->{scalars} || [] } ] } 1, 0;
	$list .= ', ' . ($_->{match} || '') . ' (SELECT ' . $_->{expr} . ' FROM ' . item($r, $_->{item}) . ($_->{rest} || '') . ") AS $_->{name}" foreach grep { $_->{name} } @{ $level->{scalars} || [] };
	push @where, @$compared;
	if ($session && !$r->{live}) { ($from, @where) = (islands($r, $level, $session, $from, @where)); }
	else
	{
		$from = join ', ', $from, map { window($_) } @windows;
		push @where, map { "$_->{alias}.window_end > $level->{from}{alias}.wm_ - interval '$r->{lateness}'" } grep { $_->{event} } @windows if !$r->{live};
	}
	if ($r->{hidden} && !$level->{keys} && !$r->{live} && ($level->{stages} || 0) == 0 && !$level->{distinct})
	{
		$list .= ', ' . "$level->{from}{alias}.wm_ AS wm_";
	}

	my $sql = @with ? 'WITH ' . join(', ', @with) . ' ' : '';
	$sql .= 'SELECT ' . ($level->{distinct} || '') . "$list FROM $from";
	$sql .= ' WHERE ' . join(' AND ', @where) if @where;
	$sql .= group_by($level) if $level->{keys} && @{ $level->{keys} };
	push @$having, map { "($_)" } @{ $level->{having} || [] };
	$sql .= ' HAVING ' . join(' AND ', @$having) if @$having;
	$sql .= $level->{tail} if $level->{tail};
	return $sql;
}

sub group_by
{
	my ($level) = @_;
	my @targets = @{ $level->{targets} };
	my @list;

	foreach my $key (@{ $level->{keys} })
	{
		my ($number) = grep { $targets[ $_ - 1 ]{expr} eq $key->{expr} } 1 .. @targets;

		push @list, $level->{by_number} && $number ? $number : $key->{expr} =~ /^[-\d]/ ? "($key->{expr})" : $key->{expr};
	}
	return ' GROUP BY ' . ($level->{sets} ? "$level->{sets} (" . join(', ', @list) . ')' : join(', ', @list));
}

# Sessions of a level's other keys: rows less than the gap apart share one.
sub islands
{
	my ($r, $level, $session, $from, @where) = @_;
	my $alias = $level->{from}{alias};
	my ($gap) = $session->{args} =~ /^'(.*)'$/;
	my @keys = map { $_->{expr} } grep { !$_->{bound} } @{ $level->{keys} };
	my $columns = join ', ', "$alias.*", "$session->{on} AS at_", map { "$keys[$_] AS key_${_}_" } 0 .. $#keys;
	my $keys = join ', ', '1::int', map { "key_${_}_" } 0 .. $#keys;
	my $sql;

	push @where, "isfinite($session->{on})";
	push @where, "$session->{on} >= $alias.wm_ - interval '$r->{lateness}'" if $session->{event};
	$sql = "SELECT $columns FROM $from WHERE " . join(' AND ', @where);
	$sql = "SELECT *, coalesce(at_ - lag(at_) OVER (PARTITION BY $keys ORDER BY at_) >= interval '$gap', true)::int AS fresh_ FROM ($sql) i1";
	$sql = "SELECT *, sum(fresh_) OVER (PARTITION BY $keys ORDER BY at_) AS island_ FROM ($sql) i2";
	$sql = "SELECT *, min(at_) OVER i AS start_, max(at_) OVER i + interval '$gap' AS end_ FROM ($sql) i3 WINDOW i AS (PARTITION BY $keys, island_)";
	return "($sql) $alias, LATERAL (SELECT $alias.start_ AS window_start, $alias.end_ AS window_end) $session->{alias}";
}

1;
