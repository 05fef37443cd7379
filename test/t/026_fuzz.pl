# Random queries over random rows: after every checkpoint each pipeline's result is what the same query gives over tables of the same rows.
#
# Many pipelines run at once, over three streams; rows come in random transactions, some of which do not happen; workers are ended, and
# servers crash, in between.  Queries that create_pipeline() refuses as not supported are counted; any other error, and every difference, is a failure, which is
# made as small as it goes and printed as a script.
#
# STREAM_CKPT_FUZZ=n	so many queries (2,000)
# STREAM_CKPT_SEED=n	these queries and rows instead of those of seed 1; random: others in each run
# STREAM_CKPT_FUZZ_ROUND=n	only this round of them

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Fuzz::Query qw(random_query chance);
use Fuzz::Render qw(live);
use Fuzz::Rows;
use Fuzz::Server;
use Fuzz::Shrink qw(shrink);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamCkpt;
use Test::More;
use Time::HiRes 'time';

my $queries = $ENV{STREAM_CKPT_FUZZ} || ($ENV{LONG} ? 20_000 : 2_000);
my $per_round = 40;
my $rounds = int(($queries + $per_round - 1) / $per_round);
my $refused_at_most = 0.06;		# of the queries
my $invalid_at_most = 0.02;		# which plain SQL does not run either
my $filled_at_least = 0.6;		# had rows in their result at some time
my $shrunk_at_most = 3;			# failures that are made small
my $seed = seed_random(1);
my $began = time();
my (%refused, @failures, %seen);
my ($tried, $invalid, $checks, $filled) = (0, 0, 0, 0);

my $node = new_cluster('fuzz', 'stream_ckpt.state_memory' => "'512MB'", 'stream_ckpt.restart_backoff_min' => "'10ms'", jit => 'off');
if ($node->safe_psql('postgres', q{SELECT max_val::int > 1 FROM pg_settings WHERE name = 'stream_ckpt.workers'}) eq 't')
{
	$node->append_conf('postgresql.conf', 'stream_ckpt.workers = 2');
	$node->restart;
}
my $server = Fuzz::Server->new($node);
diag('supported besides: ' . join(', ', grep { $server->{can}{$_} } sort keys %{ $server->{can} }));

foreach my $round ($ENV{STREAM_CKPT_FUZZ_ROUND} ? $ENV{STREAM_CKPT_FUZZ_ROUND} : 1 .. $rounds)
{
	srand($seed + $round * 7919);
	my $late = $round % 3 == 0;
	my $steps = Fuzz::Rows::random_steps(late => $late, crash => $round % 10 == 5);
	my @queries = map { { %{ random_query(can => $server->{can}, late => $late) }, number => $_ } } 1 .. $per_round;
	my $wrong = $server->play(\@queries, $steps);

	$tried += @queries;
	$filled += keys %{ $server->{filled} };
	$checks += grep { $_->{kind} eq 'check' } @$steps;
	foreach my $number (sort { $a <=> $b } keys %$wrong)
	{
		my $failure = $wrong->{$number};
		my ($query) = grep { $_->{number} == $number } @queries;

		if ($failure->{kind} eq 'refused')
		{
			$refused{ construct($failure->{text}) }++;
			diag("refused: $failure->{text}\n" . live($query)) if $ENV{STREAM_CKPT_FUZZ_VERBOSE};
			next;
		}
		if ($failure->{kind} eq 'invalid' || ($failure->{kind} eq 'create' && $server->plain_fails($query, $failure->{text})))
		{
			$invalid++;
			diag("invalid: $failure->{text}\n" . live($query) . "\n" . Fuzz::Render::plain($query, Fuzz::Rows::watermarks()->{text})) if $ENV{STREAM_CKPT_FUZZ_VERBOSE};
			next;
		}
		# whose worker was it?
		if ($failure->{kind} eq 'crash' && !$query)
		{
			($query) = grep { my $alone = $server->play([$_], $steps); $alone->{0} && $alone->{0}{kind} eq 'crash' } @queries;
		}
		push @failures, "round $round, query $number, check $failure->{check}, $failure->{kind}: $failure->{text}";
		diag("$failures[-1]\n" . ($query ? options($query) . live($query) : ''));
		report($query, $steps, $failure) if $query && !$seen{ construct($failure->{text}) }++ && keys(%seen) <= $shrunk_at_most;
	}
	last if @failures > 20;
}

diag(sprintf '%d queries, %d comparisons of all, %.0f s; refused: %s; %d with rows; invalid: %d', $tried, $checks, time() - $began,
	join(', ', map { "$refused{$_} $_" } sort { $refused{$b} <=> $refused{$a} } keys %refused) || 'none', $filled, $invalid);
is(join("\n", @failures), '', "results are those of plain SQL (seed $seed)");
my $refused = 0;
$refused += $_ foreach values %refused;
cmp_ok($refused, '<=', $refused_at_most * $tried + 3, 'few queries are not supported');
cmp_ok($invalid, '<=', $invalid_at_most * $tried + 3, 'few queries are invalid');
cmp_ok($filled, '>=', $filled_at_least * $tried - 3, 'most results have rows');
$node->stop('fast');
done_testing();

# What an error is about, without names and numbers.
sub construct
{
	my ($text) = @_;

	$text =~ s/^0A000 //;
	$text =~ s/ is not supported.*//s;
	$text =~ s/"[^"]*"/"…"/g;
	$text =~ s/\d+/n/g;
	return substr $text, 0, 70;
}

sub options
{
	my ($query) = @_;

	return "emit $query->{emit}, allowed_lateness $query->{lateness}, parallelism $query->{parallelism}, interval $query->{interval}\n";
}

# Print the smallest form of a failure.
sub report
{
	my ($query, $steps, $failure) = @_;
	my $play = sub {
		my ($smaller, $fewer) = @_;
		my $wrong = $server->play([$smaller], $fewer);

		return $wrong->{ $smaller->{number} } || $wrong->{0};
	};
	my ($small, $few, $same) = shrink($play, $query, $steps, $failure, $ENV{STREAM_CKPT_FUZZ_SHRINK} || 60);
	my $file = "${PostgreSQL::Test::Utils::log_path}/026_fuzz_$query->{number}_$failure->{kind}_" . scalar(@failures) . '.sql';

	PostgreSQL::Test::Utils::append_to_file($file, Fuzz::Server::script($small, $few));
	diag($same ? "the smallest form: $same->{text}\n" . options($small) . live($small) : 'not seen again with this query alone');
	diag("script: $file\n" . ($same ? Fuzz::Server::steps_text($few) : ''));
	return;
}
