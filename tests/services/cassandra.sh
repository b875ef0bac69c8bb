#!/usr/bin/env bash
# Apache Cassandra from Maven Central, without Docker: one node, or a further node of its cluster.
#   cassandra.sh start | stop | kill | pause | resume | status | cql FILE | query 'CQL'
# Env: DATA_DIR (./.services)  CQL_PORT (9042)  CASSANDRA_STORAGE_PORT (CQL_PORT+1000)  CASSANDRA_HEAP (-Xms512m -Xmx1g)
#      CASSANDRA_ADDRESS (127.0.0.1)  CASSANDRA_TOKEN (0)  CASSANDRA_SEED (itself; to join a cluster, ADDRESS:STORAGE_PORT of its first node)
#      CASSANDRA_SYNC (periodic; batch: an acknowledged write outlives a kill -9, of which periodic loses the last moment)
#      CASSANDRA_SECURE (folder with server.pem and ca.pem: clients may use TLS)
#      SERVICES_LIB (jar cache, default target/services-lib of the repository)  CQL_PYTHON (python3 with cassandra-driver or scylla-driver)  START_TIMEOUT_S (120)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DATA_DIR=${DATA_DIR:-./.services}
mkdir -p "$DATA_DIR"; DATA_DIR=$(cd "$DATA_DIR" && pwd)
CQL_PORT=${CQL_PORT:-9042}
STORAGE_PORT=${CASSANDRA_STORAGE_PORT:-$((CQL_PORT + 1000))}
ADDRESS=${CASSANDRA_ADDRESS:-127.0.0.1}
SEED=${CASSANDRA_SEED:-$ADDRESS:$STORAGE_PORT}
CASSANDRA_HEAP=${CASSANDRA_HEAP:--Xms512m -Xmx1g}
START_TIMEOUT_S=${START_TIMEOUT_S:-120}
LIB=${SERVICES_LIB:-$HERE/../../target/services-lib}/cassandra
POM=$HERE/pom-cassandra.xml
RUN=$DATA_DIR/cassandra
PIDFILE=$RUN/pid
LOG=$RUN/server.log

die() { echo "cassandra.sh: $*" >&2; exit 1; }
ensure_jars() {
  local want; want=$(sha256sum "$POM" | cut -d' ' -f1)
  [[ -f $LIB/.complete && $(cat "$LIB/.complete") == "$want" ]] && return
  command -v mvn >/dev/null || die "mvn not found and no jar cache in $LIB"
  echo "cassandra.sh: fetching jars into $LIB" >&2
  # Fetches into a new folder and renames it, so that two test runs can fetch at the same time.
  local new=$LIB.$$; rm -rf "$new"; mkdir -p "$new"
  mvn -q -B -f "$POM" dependency:copy-dependencies -DoutputDirectory="$new" -DincludeScope=runtime >&2 || die "mvn failed"
  echo "$want" > "$new/.complete"
  [[ -f $LIB/.complete && $(cat "$LIB/.complete") == "$want" ]] || { rm -rf "$LIB"; mv -T "$new" "$LIB" || true; }
  rm -rf "$new"
}
running() {
  [[ -f $PIDFILE ]] || return 1
  local p; p=$(cat "$PIDFILE")
  [[ -n $p && -r /proc/$p/cmdline ]] && tr '\0' ' ' < "/proc/$p/cmdline" | grep -q -- "-Dcassandra.config=file://$RUN/cassandra.yaml"
}
port_open() { (exec 3<>"/dev/tcp/$ADDRESS/$1") 2>/dev/null; }
client() { "${CQL_PYTHON:-python3}" "$HERE/cql.py" "$CQL_PORT" "$@"; }
start() {
  ensure_jars
  if running; then echo "cassandra already running pid $(cat "$PIDFILE") on $ADDRESS:$CQL_PORT"; return; fi
  local p
  for p in "$CQL_PORT" "$STORAGE_PORT"; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do port_open "$p" || break; sleep 0.3; done   # a process that is just stopping may still hold the port
    ! port_open "$p" || die "port $p is already in use by another process (set CQL_PORT / CASSANDRA_STORAGE_PORT)"
  done
  mkdir -p "$RUN"/{data,commitlog,saved_caches,hints,cdc_raw,tmp}
  cat > "$RUN/cassandra.yaml" <<EOF
cluster_name: local
num_tokens: 1
initial_token: ${CASSANDRA_TOKEN:-0}
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "$SEED"
listen_address: $ADDRESS
rpc_address: $ADDRESS
storage_port: $STORAGE_PORT
native_transport_port: $CQL_PORT
start_native_transport: true
data_file_directories: [ $RUN/data ]
commitlog_directory: $RUN/commitlog
saved_caches_directory: $RUN/saved_caches
hints_directory: $RUN/hints
cdc_raw_directory: $RUN/cdc_raw
commitlog_sync: ${CASSANDRA_SYNC:-periodic}
commitlog_total_space: 256MiB
commitlog_segment_size: 16MiB
concurrent_reads: 8
concurrent_writes: $([[ ${CASSANDRA_SYNC:-} == batch ]] && echo 128 || echo 8)
memtable_heap_space: 128MiB
memtable_offheap_space: 128MiB
file_cache_enabled: false
hinted_handoff_enabled: false
auto_snapshot: false
disk_access_mode: mmap_index_only
EOF
  [[ ${CASSANDRA_SYNC:-periodic} == batch ]] || echo "commitlog_sync_period: 1000ms" >> "$RUN/cassandra.yaml"
  [[ -z ${CASSANDRA_SECURE:-} ]] || cat >> "$RUN/cassandra.yaml" <<EOF
client_encryption_options:
  enabled: true
  optional: true
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: $CASSANDRA_SECURE/server.pem
  truststore: $CASSANDRA_SECURE/ca.pem
EOF
  # Users and their rights, with the superuser cassandra.
  [[ -z ${CASSANDRA_AUTH:-} ]] || printf 'authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer\n' >> "$RUN/cassandra.yaml"
  cat > "$RUN/logback.xml" <<EOF
<configuration><appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %-5level %logger{0} %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="OUT"/></root></configuration>
EOF
  local jamm; jamm=$(echo "$LIB"/jamm-*.jar)
  local opens=() m
  for m in java.base/java.lang.module java.base/jdk.internal.loader java.base/jdk.internal.ref java.base/jdk.internal.reflect \
           java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.util.jar jdk.management/com.sun.management.internal \
           java.base/sun.nio.ch java.base/java.io java.base/java.nio java.base/java.util.concurrent java.base/java.util \
           java.base/java.util.concurrent.atomic java.base/java.lang java.base/java.math java.base/java.lang.reflect java.base/java.net; do
    opens+=(--add-opens "$m=ALL-UNNAMED"); done
  for m in java.base/jdk.internal.misc java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry \
           java.rmi/sun.rmi.server java.sql/java.sql java.base/java.lang.ref jdk.unsupported/sun.misc java.base/jdk.internal.ref; do
    opens+=(--add-exports "$m=ALL-UNNAMED"); done
  : > "$LOG"   # an old ready line must not count for this start
  local t0; t0=$(date +%s.%N)
  # shellcheck disable=SC2086
  nohup setsid java $CASSANDRA_HEAP -XX:+UseSerialGC -Xss512k -Xshare:auto -XX:MaxDirectMemorySize=512m -XX:-UsePerfData -XX:TieredStopAtLevel=${CASSANDRA_JIT_LEVEL:-4} \
    -Djdk.attach.allowAttachSelf=true "${opens[@]}" -javaagent:"$jamm" \
    -Dcassandra.config="file://$RUN/cassandra.yaml" -Dlogback.configurationFile="$RUN/logback.xml" \
    -Dcassandra.storagedir="$RUN" -Dcassandra.logdir="$RUN" -Djava.io.tmpdir="$RUN/tmp" -Djna.tmpdir="$RUN/tmp" -Dcassandra-foreground=yes \
    -Dcassandra.ring_delay_ms=0 -Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.superuser_setup_delay_ms=0 \
    -Dcassandra.skip_sync=true -Dcassandra.jmx.local.port=0 -Dio.netty.tryReflectionSetAccessible=true \
    -cp "$LIB/*" org.apache.cassandra.service.CassandraDaemon > "$LOG" 2>&1 < /dev/null &
  echo $! > "$PIDFILE"
  local i
  for ((i = 0; i < START_TIMEOUT_S * 10; i++)); do
    if grep -q "Starting listening for CQL clients" "$LOG" 2>/dev/null && port_open "$CQL_PORT"; then
      echo "cassandra ready pid $(cat "$PIDFILE") on $ADDRESS:$CQL_PORT after $(python3 -c "import time;print(f'{time.time()-$t0:.1f}')") s"; return
    fi
    kill -0 "$(cat "$PIDFILE")" 2>/dev/null || { tail -25 "$LOG" >&2; rm -f "$PIDFILE"; die "server exited while starting (log: $LOG)"; }
    sleep 0.1
  done
  die "not ready after $START_TIMEOUT_S s (log: $LOG)"
}
stop() {
  running || { rm -f "$PIDFILE"; echo "cassandra not running"; return; }
  local p i; p=$(cat "$PIDFILE"); kill "$p"
  for ((i = 0; i < 300; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  kill -0 "$p" 2>/dev/null && kill -9 "$p" || true
  rm -f "$PIDFILE"; echo "cassandra stopped"
}
tell() {                   # sends a signal to the process that runs
  running || die "cassandra is not running"
  kill -"$1" "$(cat "$PIDFILE")"
}
case ${1:-} in
  start) start ;;
  stop) stop ;;
  kill) tell KILL; while running; do sleep 0.05; done; rm -f "$PIDFILE" ;;
  pause) tell STOP ;;
  resume) tell CONT ;;
  status) if running; then echo "cassandra running pid $(cat "$PIDFILE") on $ADDRESS:$CQL_PORT"; else echo "cassandra not running"; exit 3; fi ;;
  cql) shift; client file "$1" ;;
  query) shift; client query "$1" ;;
  *) sed -n 2,8p "${BASH_SOURCE[0]}" | sed 's/^# //' >&2; exit 2 ;;
esac
