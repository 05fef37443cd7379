# shellcheck shell=bash
#
# engine.sh
#     Apache Flink for the comparison: download it, start a cluster of one job
#     manager and one task manager on this machine, run a query as a job.
#
# Sourced by run, after ../../lib/machine.sh. The packages go into $cache,
# outside the checkout, each compared with its checksum in the file packages.
# Everything listens on 127.0.0.1, at ports that were free, and ends with the script.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/stream_ckpt/flink
flink_home=       # lib/, opt/ and bin/ of the distribution
flink_pids=()     # job manager, task manager: what is measured
flink_options=()  # of the JVMs, as the distribution's own configuration has them
gateway_url='' cluster_url=''

# ---------------------------------------------------------------------------
# Installing
# ---------------------------------------------------------------------------

is_whole() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$2  -" ]; }

flink_install()
{
    local kind name sum file coordinates
    command -v java >/dev/null && command -v mvn >/dev/null && command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 ||
        die "this needs a Java runtime (17 or 21), Maven, python3 and pip; Debian: apt install openjdk-17-jre-headless maven python3-pip"
    mkdir -p "$cache/jars"
    while read -r kind name sum; do
        case $kind in
            pip)
                flink_version=${name#*==}
                flink_home=$cache/$flink_version/pyflink
                [ ! -e "$flink_home/complete" ] || continue
                note "== Downloading $name, 330 MB"
                # a wheel is an archive; Python runs nothing of it
                rm -rf "${cache:?}/wheel"
                python3 -m pip download -q --no-deps --dest "$cache/wheel" "$name" </dev/null >&2 || die "$name cannot be downloaded"
                file=$(ls "$cache"/wheel/*)
                is_whole "$file" "$sum" || die "$name is not what it was (SHA-256)"
                rm -rf "${cache:?}/$flink_version"
                python3 -m zipfile -e "$file" "$cache/$flink_version"
                rm -r "$cache/wheel"
                touch "$flink_home/complete" ;;
            jar)
                file=$cache/jars/$(basename "$name")
                is_whole "$file" "$sum" && continue
                note "== Downloading $(basename "$name")"
                # GROUP/ARTIFACT/VERSION/FILE, from wherever this Maven has its artifacts from
                coordinates=${name%/*}
                coordinates=$(tr / . <<<"${coordinates%/*/*}"):$(basename "${coordinates%/*}"):${coordinates##*/}
                mvn -q -B dependency:copy -Dartifact="$coordinates" -DoutputDirectory="$cache/jars" </dev/null >&2 || die "$name cannot be downloaded"
                is_whole "$file" "$sum" || { rm "$file"; die "$name is not what it was (SHA-256)"; } ;;
        esac
    done < <(grep -v '^#' "$here/packages")
}

# ---------------------------------------------------------------------------
# The cluster
# ---------------------------------------------------------------------------

# free_ports COUNT: below those that the kernel hands out by itself, so that
# nobody's outgoing connection takes one in the meantime.
free_ports()
{
    python3 -c 'import random, socket, sys
ports = []
while len(ports) < int(sys.argv[1]):
    port = random.randrange(20000, 32000)
    try:
        socket.create_server(("127.0.0.1", port)).close()
        ports.append(port)
    except OSError:
        pass
print(*ports)' "$1"
}

# resources GET_JM_RESOURCE_PARAMS|GET_TM_RESOURCE_PARAMS: the JVM's options,
# and on a second line the settings, that follow from the memory settings.
resources()
{
    java "${flink_options[@]}" -cp "$flink_home/bin/bash-java-utils.jar:$flink_home/lib/*" \
        org.apache.flink.runtime.util.bash.BashJavaUtils "$1" --configDir "$flink_conf" 2>/dev/null |
        sed -n 's/^BASH_JAVA_UTILS_EXEC_RESULT://p'
}

# start_jvm NAME CLASS [ARGUMENT ...]: its pid in $jvm_pid. Opens no file of ours.
start_jvm()
{
    local name=$1
    shift
    java "${flink_options[@]}" "${jvm_options[@]}" -Duser.timezone=UTC "-Dlog.file=$scratch/flink/$name.log" \
        "-Dlog4j.configurationFile=file:$flink_conf/log4j.properties" -cp "$flink_classpath" "$@" \
        </dev/null >"$scratch/flink/$name.out" 2>&1 &
    jvm_pid=$!
    jobs_pids+=("$jvm_pid")
    flink_all+=("$jvm_pid")
}

# flink_start SLOTS
flink_start()
{
    local rpc rest gateway slots=$1 jvm settings
    local jvm_options=()
    flink_conf=$scratch/flink/conf
    flink_all=() flink_pids=()
    mkdir -p "$flink_conf" "$scratch/flink/tmp" "$scratch/flink/checkpoints"
    read -r rpc rest gateway < <(free_ports 3)
    cluster_url=http://127.0.0.1:$rest gateway_url=http://127.0.0.1:$gateway
    # what Java's modules have to open is in the configuration that the distribution brings
    read -r -a flink_options < <(python3 -c 'import sys, zipfile
print(zipfile.ZipFile(sys.argv[1]).read("config.yaml").decode())' "$flink_home/lib/flink-dist-$flink_version.jar" |
        sed -n 's/^ *all: *\(--add.*\)/\1/p')
    cat >"$flink_conf/log4j.properties" <<'EOF'
rootLogger.level = WARN
rootLogger.appenderRef.file.ref = file
appender.file.name = file
appender.file.type = FILE
appender.file.fileName = ${sys:log.file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{1} %m%n
EOF
    cat >"$flink_conf/config.yaml" <<EOF
jobmanager.rpc.address: 127.0.0.1
jobmanager.bind-host: 127.0.0.1
jobmanager.rpc.port: $rpc
jobmanager.memory.process.size: 1600m
taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.memory.task.heap.size: $TASK_HEAP
taskmanager.memory.managed.size: 1g
taskmanager.numberOfTaskSlots: $slots
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: $rest
io.tmp.dirs: $scratch/flink/tmp
sql-gateway.endpoint.rest.address: 127.0.0.1
sql-gateway.endpoint.rest.bind-address: 127.0.0.1
sql-gateway.endpoint.rest.port: $gateway
sql-gateway.endpoint.rest.bind-port: $gateway
$flink_settings
EOF
    flink_classpath="$flink_home/lib/*:$cache/jars/*"
    { read -r jvm; read -r settings; } < <(resources GET_JM_RESOURCE_PARAMS)
    read -r -a jvm_options <<<"$jvm"
    # shellcheck disable=SC2086
    start_jvm jobmanager org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint --configDir "$flink_conf" $settings
    flink_pids+=("$jvm_pid")
    { read -r jvm; read -r settings; } < <(resources GET_TM_RESOURCE_PARAMS)
    read -r -a jvm_options <<<"$jvm"
    jvm_options+=(-XX:+UseG1GC)
    # shellcheck disable=SC2086
    start_jvm taskmanager org.apache.flink.runtime.taskexecutor.TaskManagerRunner --configDir "$flink_conf" $settings
    flink_pids+=("$jvm_pid")
    jvm_options=(-Xmx1g)
    FLINK_CONF_DIR=$flink_conf start_jvm gateway org.apache.flink.table.gateway.SqlGateway
    wait_for "$cluster_url/taskmanagers" '"slotsNumber":'"$slots"
    wait_for "$gateway_url/v1/info" version
}

# wait_for URL TEXT: until the answer has the text.
wait_for()
{
    local patience=600 pid
    until fetch "$1" | grep -q "$2"; do
        for pid in "${flink_all[@]}"; do
            ! gone "$pid" || { tail -n 20 "$scratch"/flink/*.out "$scratch"/flink/*.log >&2; die "Flink does not start"; }
        done
        pause 0.2
        [ $((patience -= 1)) -gt 0 ] || die "Flink does not answer at $1"
    done
}

fetch() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' "$1" 2>/dev/null || true; }

flink_stop()
{
    local pid
    for pid in "${flink_all[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${flink_all[@]}"; do wait "$pid" 2>/dev/null || true; done
    jobs_pids=() flink_all=() flink_pids=()
}

# flink_job: run the statements on standard input; prints what job.py does.
flink_job() { python3 "$here/job.py" "$gateway_url" "$cluster_url" "$TIMEOUT"; }
