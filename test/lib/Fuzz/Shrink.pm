# Make a failure small: drop parts of the query, steps and rows as long as it fails in the same way.

package Fuzz::Shrink;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use Fuzz::Render qw(levels_of);
use Storable 'dclone';
use Time::HiRes 'time';

our @EXPORT_OK = qw(shrink);

# $play: of a query and steps, what goes wrong: { kind, text, check }, or undef.
# Returns the smallest query and steps found, and their failure (undef, if it did not happen again).
sub shrink
{
	my ($play, $query, $steps, $failure, $seconds) = @_;
	my $s = { play => $play, end => time() + ($seconds || 60), tries => 0, failure => $failure, query => dclone($query), steps => dclone($steps) };

	return ($query, $steps, undef) if !try($s, $s->{query}, $s->{steps});
	cut_tail($s);
	list($s, sub { return $s->{steps} }, 1);
	foreach (1 .. 3)
	{
		my $before = $s->{tries_kept} || 0;

		query($s);
		rows($s);
		list($s, sub { return $s->{steps} }, 1);
		last if ($s->{tries_kept} || 0) == $before;
	}
	return ($s->{query}, $s->{steps}, $s->{failure});
}

# Does this fail in the same way? Then keep it.
sub try
{
	my ($s, $query, $steps) = @_;
	my $failure;

	return 0 if time() > $s->{end};
	$s->{tries}++;
	$failure = eval { $s->{play}->($query, $steps) };
	return 0 if !$failure || $failure->{kind} ne $s->{failure}{kind};
	return 0 if $failure->{kind} =~ /status|create/ && sign($failure->{text}) ne sign($s->{failure}{text});
	@$s{qw(query steps failure)} = ($query, $steps, $failure);
	$s->{tries_kept}++;
	return 1;
}

# What of an error stays while a query changes.
sub sign
{
	my ($text) = @_;

	$text =~ s/[\d"].*//s;
	return substr $text, 0, 60;
}

# Steps after the check that fails say nothing.
sub cut_tail
{
	my ($s) = @_;
	my ($check, @kept) = (0);

	foreach (@{ $s->{steps} })
	{
		push @kept, $_;
		last if $_->{kind} eq 'check' && ++$check == $s->{failure}{check};
	}
	try($s, $s->{query}, dclone(\@kept));
	return;
}

# Drop halves, quarters, …, single ones of a list; $keep ones at its end stay.
sub list
{
	my ($s, $list, $keep) = @_;
	my $size = int((@{ $list->() } - $keep + 1) / 2) || 1;

	while ($size >= 1)
	{
		my $at = 0;

		while ($at < @{ $list->() } - $keep)
		{
			my ($query, $steps) = (dclone($s->{query}), dclone($s->{steps}));
			my ($old_query, $old_steps) = @$s{qw(query steps)};

			# the list of the copies
			@$s{qw(query steps)} = ($query, $steps);
			my $copy = $list->();
			my $count = $at + $size > @$copy - $keep ? @$copy - $keep - $at : $size;
			splice @$copy, $at, $count;
			@$s{qw(query steps)} = ($old_query, $old_steps);
			$at += $size if !try($s, $query, $steps);
			return if time() > $s->{end};
		}
		last if $size == 1;
		$size = int(($size + 1) / 2);
	}
	return;
}

sub rows
{
	my ($s) = @_;

	for (my $i = 0; $i < @{ $s->{steps} }; $i++)
	{
		next if $s->{steps}[$i]{kind} ne 'rows';
		list($s, sub { return $s->{steps}[$i]{ops} }, 0);
		foreach my $j (0 .. $#{ $s->{steps}[$i]{ops} })
		{
			list($s, sub { return $s->{steps}[$i]{ops}[$j]{rows} }, 0);
		}
	}
	return;
}

# One change of a query, on a copy.
sub change
{
	my ($s, $change) = @_;
	my $query = dclone($s->{query});

	return 0 if !$change->($query);
	return try($s, $query, $s->{steps});
}

sub query
{
	my ($s) = @_;

	foreach ([ emit => 'changes' ], [ lateness => '0' ], [ parallelism => 1 ], [ interval => '1 hour' ])
	{
		my ($name, $value) = @$_;

		change($s, sub { my ($q) = @_; return 0 if $q->{$name} eq $value; $q->{$name} = $value; return 1; });
	}
	my $levels = levels_of($s->{query}{top});
	for (my $n = 0; $n < (my @now = levels_of($s->{query}{top})); $n++)
	{
		my $level = sub { my ($q) = @_; return (levels_of($q->{top}))[$n]; };

		foreach my $list (qw(where having semis scalars joins windows))
		{
			for (my $i = 0; $i < @{ $level->($s->{query})->{$list} || [] };)
			{
				$i++ if !change($s, sub { splice @{ $level->($_[0])->{$list} }, $i, 1; return 1; });
			}
		}
		for (my $i = 0; $i < @{ $level->($s->{query})->{keys} || [] };)
		{
			$i++ if !change($s, sub {
				my $l = $level->($_[0]);
				my ($key) = splice @{ $l->{keys} }, $i, 1;

				@{ $l->{targets} } = grep { $_->{expr} ne $key->{expr} } @{ $l->{targets} };
				return @{ $l->{targets} } > 0;
			});
		}
		for (my $i = 0; $i < @{ $level->($s->{query})->{targets} };)
		{
			$i++ if @{ $level->($s->{query})->{targets} } == 1 || !change($s, sub { splice @{ $level->($_[0])->{targets} }, $i, 1; return 1; });
		}
		for (my $i = 0; $i < @{ $level->($s->{query})->{from}{parts} || [] };)
		{
			$i++ if @{ $level->($s->{query})->{from}{parts} } == 1 || !change($s, sub { splice @{ $level->($_[0])->{from}{parts} }, $i, 1; return 1; });
		}
		change($s, sub { my $f = $level->($_[0])->{from}; return 0 if ($f->{as} || '') !~ /with|view/; $f->{as} = 'sub'; return 1; });
		change($s, sub { my $l = $level->($_[0]); return 0 if !$l->{by_number}; $l->{by_number} = 0; return 1; });
	}
	return;
}

1;
