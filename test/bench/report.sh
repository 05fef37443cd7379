# shellcheck shell=bash
#
# report.sh
#     Figures as rows of the Markdown table, and as lines of the results.
#
# Sourced by run.

table=()

# row TITLE MEASURED TARGET VALUES
row() { table+=("| $1 | $2 | $3 | $4 |"); note "   → $1: $2${3:+ ($3)}"; }

# compared TITLE KIND TARGET OURS PLAIN [SYSTEM KEY] ...: beside plain
# PostgreSQL. KIND says what the ratio is of, and which values it is made of:
#   speed    milliseconds; PLAIN / OURS
#   time     milliseconds; OURS / PLAIN
#   rate     transactions a second; OURS / PLAIN
# TARGET is a sign and a number, or empty.
compared()
{
    local title=$1 kind=$2 target=$3 ours=$4 plain=$5 unit=ms measured values system key speed
    shift 5
    case $kind in
        speed) measured=$(ratio "$plain" "$ours") ;;
        *) measured=$(ratio "$ours" "$plain") ;;
    esac
    [ "$kind" != rate ] || unit=tps
    values="$(median "$ours") / $(median "$plain") $unit"
    set -- stream_ckpt "$ours" "$@"
    record "$title" PostgreSQL "$(median "$plain")" $unit
    while [ $# -gt 0 ]; do
        system=$1 key=$2
        record "$title" "$system" "$(median "$key")" $unit
        if [ "$kind" = rate ]; then speed=$(ratio "$key" "$plain" 3); else speed=$(ratio "$plain" "$key" 3); fi
        record "$title" "$system" "$speed" x
        if [ "$system" != stream_ckpt ]; then
            case $kind in
                speed) values+="; $system $(ratio "$plain" "$key")" ;;
                *) values+="; $system $(ratio "$key" "$plain")" ;;
            esac
        fi
        shift 2
    done
    if [ -n "$target" ]; then
        case $kind in
            time) record "$title" target "$(calc "1 / ${target##* }" 3)" x ;;
            *) record "$title" target "${target##* }" x ;;
        esac
    fi
    row "$title, $(ratio_in_words "$kind")" "$measured" "$target" "$values"
}

ratio_in_words()
{
    case $1 in
        speed) say "speed / plain PostgreSQL" ;;
        time) say "time / plain PostgreSQL" ;;
        rate) say "rate / plain PostgreSQL" ;;
    esac
}

# single TITLE VALUE UNIT TARGET [VALUES]: a figure with nothing beside it.
single()
{
    record "$1" stream_ckpt "$2" "$3"
    [ -z "$4" ] || record "$1" target "${4##* }" "$3"
    row "$1" "$2 $3" "${4:+$4 $3}" "${5:-}"
}

print_table()
{
    say "| figure | measured | to reach | values |"
    say "|---|---|---|---|"
    printf '%s\n' "${table[@]}"
    say
    machine_description
    say "$(count_of "$ROWS") and $(count_of "$PART") rows, median of $RUNS runs; fsync = on, ${settings//, /, }."
}
