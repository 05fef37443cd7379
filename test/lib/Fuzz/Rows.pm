# Random rows in random transactions. A list of steps, each of
#
#	{ kind => rows, fate => commit|rollback|prepared, ops => [ { stream, rows => [ [ literal ] ] , undone => rolled back to a savepoint } ] }
#	{ kind => advance, stream, to }
#	{ kind => check }		a checkpoint, and a comparison
#	{ kind => restart, how => end|pause|crash }		the worker is ended, the pipelines are paused and resumed, or the server crashes
#
# Watermarks are not kept with them, but reckoned again where they are needed, so that a shrinker can drop steps and rows.

package Fuzz::Rows;

use strict;
use warnings FATAL => 'all';

use Fuzz::Query qw(chance pick @STREAMS @COLUMNS);
use POSIX ();

our $DELAY = 180;    # seconds, of all streams

my $base = 1704110400;    # 2024-01-01 12:00 UTC

# To the nearest thousandth, which a double has only nearly.
sub stamp
{
	my ($seconds) = @_;
	my $thousandths = POSIX::floor($seconds * 1000 + 0.5);
	my $whole = POSIX::floor($thousandths / 1000);

	return POSIX::strftime('%Y-%m-%d %H:%M:%S', gmtime($whole)) . sprintf('.%03d', $thousandths - $whole * 1000);
}

sub quoted
{
	my ($text) = @_;

	$text =~ s/'/''/g;
	return "'$text'";
}

# A value of each column, as an SQL literal. $r: how this round's values are spread.
sub row
{
	my ($r, $id, $time) = @_;
	my %make = (
		id => sub { return $id; },
		k => sub { return chance(0.5) ? int rand 2 : int rand 6; },
		j => sub { return quoted(pick('a', 'b', 'a', '', 'cd', 'A', 'äö', 'x' x 70)); },
		v => sub { return int(rand 12) - 3; },
		w => sub { return chance(0.1) ? pick('1000000000000', '-999999999999') : int(rand 40) - 5; },
		g => sub { return quoted(chance(0.02) ? 'NaN' : pick('1', '1.0', '1.00', '2.5', '2.50', '-3', '0', '0.000', '12345678901234567890.5')); },
		f => sub { return quoted(chance(0.01) ? pick('NaN', 'Infinity', '-Infinity') : (int(rand 80) - 30) * 0.25); },
		b => sub { return pick('true', 'false'); },
		d => sub { return quoted('2024-0' . (1 + int rand 2) . '-0' . (1 + int rand 3)); },
		e => sub { return quoted(pick('sad', 'ok', 'happy')); },
		h => sub { return quoted(pick('1 day', '24:00:00', '90 min', '1:30:00', '-2 days', '1 mon', '30 days')); },
		r => sub { return quoted(pick('{}', '{1,2}', '{1,NULL}', '{3}', '[0:1]={1,2}')); },
		p => sub { return quoted(pick('{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}', '[1, 2]', '"x"', 'null', '1.0', '1')); },
		o => sub { return quoted(pick('(1,2.0)', '(1,2)', '(1,)', '(,)', '(3,0)')); },
		n => sub { return quoted(pick('a', 'A', 'b', 'B', 'cd', 'Cd')); },
		x => sub { return quoted(int rand 4); },
		lt => sub { return quoted(stamp($base + int(rand 6) * 1200)); },
		ts => sub { return defined $time ? quoted(stamp($time) . 'Z') : "'" . pick('infinity', '-infinity') . "'"; });

	return [ map { my $name = $_->[0]; $name ne 'id' && chance($name eq 'ts' ? 0.02 : $r->{nulls}) ? 'NULL' : $make{$name}->() } @COLUMNS ];
}

# Steps of one round. late: some rows may be.  crash: the server crashes once.
sub random_steps
{
	my (%o) = @_;
	my %r = (nulls => pick(0, 0.05, 0.1, 0.3), step => pick(10, 30, 60, 120));
	my $checks = $o{checks} || 4;
	my $clock = $base;
	my $id = 0;
	my @steps = ({ kind => 'check' });
	my $marks = watermarks();

	foreach my $check (1 .. $checks)
	{
		foreach (1 .. 2 + int rand($check == 2 ? 14 : 6))
		{
			if (chance(0.03))
			{
				my $to = stamp($clock - 30 + int rand 120) . 'Z';

				push @steps, { kind => 'advance', stream => pick(@STREAMS), to => $to };
				follow($marks, $steps[-1]);
			}
			my @ops;
			foreach my $stream (grep { chance(0.55) } @STREAMS)
			{
				my $count = chance(0.3) ? 1 : 1 + int rand 16;
				my @rows;

				foreach (1 .. $count)
				{
					my $time = $clock - rand($o{late} && chance(0.2) ? 3600 : $DELAY);

					# never before the watermark, and so never late
					$time = $marks->{seconds}{$stream} if !$o{late} && $time < $marks->{seconds}{$stream};
					$time = POSIX::floor($time / 60) * 60 + 60 if chance(0.2);
					push @rows, row(\%r, ++$id, chance(0.01) ? undef : $time);
					$clock += rand($r{step}) if chance(0.5);
				}
				# the same rows once more
				push @rows, map { my @copy = @$_; $copy[0] = ++$id; \@copy } @rows[ 0 .. ($#rows > 4 ? 4 : $#rows) ] if chance(0.1);
				push @ops, { stream => $stream, rows => \@rows, undone => chance(0.08) };
			}
			next if !@ops;
			push @steps, { kind => 'rows', ops => \@ops, fate => chance(0.12) ? 'rollback' : chance(0.06) ? 'prepared' : 'commit' };
			follow($marks, $steps[-1]);
		}
		$clock += pick(0, 900, 2000, 4000);
		push @steps, { kind => 'restart', how => pick('end', 'pause') } if chance(0.25);
		push @steps, { kind => 'restart', how => 'crash' } if $o{crash} && $check == 2;
		push @steps, { kind => 'check' };
	}
	return \@steps;
}

# Watermarks of the streams, before anything was inserted.
sub watermarks
{
	return { seconds => { map { $_ => -9e15 } @STREAMS }, text => { map { $_ => '-infinity' } @STREAMS } };
}

# What a step does to them.
sub follow
{
	my ($marks, $step) = @_;
	my %new;

	if ($step->{kind} eq 'advance')
	{
		$new{ $step->{stream} } = seconds($step->{to});
	}
	elsif ($step->{kind} eq 'rows' && $step->{fate} ne 'rollback')
	{
		foreach my $op (grep { !$_->{undone} } @{ $step->{ops} })
		{
			foreach (@{ $op->{rows} })
			{
				my $seconds = seconds($_->[-1]);

				next if !defined $seconds;
				$seconds -= $DELAY;
				$new{ $op->{stream} } = $seconds if !defined $new{ $op->{stream} } || $new{ $op->{stream} } < $seconds;
			}
		}
	}
	foreach (keys %new)
	{
		next if $new{$_} <= $marks->{seconds}{$_};
		$marks->{seconds}{$_} = $new{$_};
		$marks->{text}{$_} = stamp($new{$_}) . 'Z';
	}
	return;
}

sub seconds
{
	my ($literal) = @_;
	my ($y, $m, $d, $h, $i, $s, $ms) = $literal =~ /(\d+)-(\d+)-(\d+) (\d+):(\d+):(\d+)\.(\d+)Z/ or return undef;

	# days since 1970 by the calendar
	my ($yy, $mm) = $m > 2 ? ($y, $m - 3) : ($y - 1, $m + 9);
	my $days = 365 * $yy + int($yy / 4) - int($yy / 100) + int($yy / 400) + int((153 * $mm + 2) / 5) + $d - 1 - 719468;

	return $days * 86400 + $h * 3600 + $i * 60 + $s + $ms / 1000;
}

# The statements of a step: rows into streams, and into the tables of the same names.
sub statements
{
	my ($marks, $step, $number) = @_;
	my $names = join ', ', map { $_->[0] } @COLUMNS;
	my $sql = '';

	return "SELECT stream_ckpt.advance_watermark('live.$step->{stream}', '$step->{to}');\n" if $step->{kind} eq 'advance';
	foreach my $op (@{ $step->{ops} })
	{
		next if !@{ $op->{rows} };
		my $marks = join ', ', map { "'$marks->{text}{$_}'" } @STREAMS;
		my ($live, $plain) = map { my $more = $_; join ",\n  ", map { '(' . join(', ', @$_) . "$more)" } @{ $op->{rows} } } '', ", $marks";

		$sql .= "SAVEPOINT s;\n" if $op->{undone};
		$sql .= "INSERT INTO live.$op->{stream} ($names) VALUES\n  $live;\n";
		$sql .= "INSERT INTO plain.$op->{stream} ($names, " . join(', ', map { "wm_$_" } @STREAMS) . ") VALUES\n  $plain;\n"
		  if $step->{fate} ne 'rollback' && !$op->{undone};
		$sql .= "ROLLBACK TO s;\n" if $op->{undone};
	}
	return "BEGIN;\n$sql" . ($step->{fate} eq 'commit' ? "COMMIT;\n" : $step->{fate} eq 'rollback' ? "ROLLBACK;\n" : "PREPARE TRANSACTION 'p$number';\nCOMMIT PREPARED 'p$number';\n");
}

1;
