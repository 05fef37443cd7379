# Nexmark: the generator's data has the shares that it should have, and every
# query that is supported gives, for three seeds, with one task and with four,
# and with SIGKILLs on the way, what the same SQL gives over tables.
# test/nexmark/run does it, with more events where it is called by itself.

use strict;
use warnings FATAL => 'all';

use FindBin;
use Test::More;

my %settings = (
	PG_CONFIG => 'pg_config',    # of the PATH, which begins with that of the server under test
	NEXMARK_BUILD => 'no',
	EVENTS => 50_000,
	TRANSACTIONS => 12,
	KILLS => 3);
my @once = qw(q0 q1 q2 q3 q4 q5 q5_changes q7 q7_changes q8 q8_changes q9 q10 q11 q11_changes q12 q13 q14 q15 q16 q17 q18 q19 q20 q21 q22 q23 q24 q26 q28);

suite(1, '1 2 3', '10000');
suite(4, '4', '');
done_testing();

# Run it, with so many tasks of each pipeline.
sub suite
{
	my ($parallelism, $seeds, $rates) = @_;
	my (%refused, %compared);

	local @ENV{ keys %settings } = values %settings;
	local @ENV{qw(PARALLELISM SEEDS RATES)} = ($parallelism, $seeds, $rates);
	open(my $report, '-|', "$FindBin::RealBin/../nexmark/run 2>&1") or die "could not run the suite: $!";
	while (my $line = <$report>)
	{
		chomp $line;
		if ($line =~ /^(not )?ok - (.*)/)
		{
			my ($wrong, $what) = ($1, $2);

			$compared{$1}++ if $what =~ /^seed \d+, (q\w+):/;
			ok(!$wrong, "parallelism $parallelism: $what");
		}
		elsif ($line =~ /^not supported yet: (\w+): (.+)/)
		{
			$refused{$1} = $2;
			note($line);
		}
		else
		{
			diag($line);
		}
	}
	ok(close($report), 'the suite came to its end');

	# Each of the 29 queries, and of the 4 that have a final form as well the other one, is either compared or refused by name.
	is(keys(%compared) + keys %refused, 33, 'no query was left out');
	is_deeply([ grep { $compared{$_} != split ' ', $seeds } keys %compared ], [], 'each was compared for each seed');
	is_deeply([ grep { !$compared{$_} } @once ], [], 'what was supported once still is');
	is(scalar(grep { !/ is not supported in a pipeline$/ } values %refused), 0, 'what is refused is refused by name');
	return;
}
