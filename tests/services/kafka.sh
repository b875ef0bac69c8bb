#!/usr/bin/env bash
# Apache Kafka (KRaft, one node) from Maven Central, without Docker.
#   kafka.sh start | stop | kill | pause | resume | status | create-topic NAME PARTS [k=v ...] | acl AclCommand args | user NAME PASSWORD | produce TOPIC FILE [extra console-producer args] | consume TOPIC [extra console-consumer args]
# Env: DATA_DIR (./.services)  KAFKA_PORT (9092)  KAFKA_CONTROLLER_PORT (KAFKA_PORT+1)  KAFKA_HEAP (-Xms256m -Xmx512m)
#      KAFKA_SESSION_MS (9000: after a kill, the broker waits for so long until its former life is forgotten)
#      CLOCK_SHIFT (+5s puts the broker's clock 5 s ahead, with libfaketime)
#      KAFKA_SECURE (folder with server.pem and ca.pem: two more listeners, with TLS and passwords at KAFKA_SASL_PORT (PLAIN for KAFKA_USER with KAFKA_PASSWORD; SCRAM by the verb user),
#      with TLS and certificates of clients at KAFKA_MTLS_PORT)
#      SERVICES_LIB (jar cache, default target/services-lib of the checkout)  START_TIMEOUT_S (120)  CONSUME_TIMEOUT_MS (5000)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DATA_DIR=${DATA_DIR:-./.services}
mkdir -p "$DATA_DIR"; DATA_DIR=$(cd "$DATA_DIR" && pwd)
KAFKA_PORT=${KAFKA_PORT:-9092}
KAFKA_CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-$((KAFKA_PORT + 1))}
KAFKA_HEAP=${KAFKA_HEAP:--Xms256m -Xmx512m}
START_TIMEOUT_S=${START_TIMEOUT_S:-120}
CONSUME_TIMEOUT_MS=${CONSUME_TIMEOUT_MS:-5000}
LIB=${SERVICES_LIB:-$HERE/../../target/services-lib}/kafka
POM=$HERE/pom-kafka.xml
RUN=$DATA_DIR/kafka
PIDFILE=$RUN/pid
LOG=$RUN/server.log
BOOT=127.0.0.1:$KAFKA_PORT

die() { echo "kafka.sh: $*" >&2; exit 1; }
ensure_jars() {            # fetches once, and again when the pom changes; one process at a time
  local want; want=$(sha256sum "$POM" | cut -d' ' -f1)
  [[ -f $LIB/.complete && $(cat "$LIB/.complete") == "$want" ]] && return
  mkdir -p "$(dirname "$LIB")"
  exec 8> "$LIB.lock"; flock 8
  [[ -f $LIB/.complete && $(cat "$LIB/.complete") == "$want" ]] && { exec 8>&-; return; }
  command -v mvn >/dev/null || die "mvn not found and no jar cache in $LIB"
  echo "kafka.sh: fetching jars into $LIB" >&2
  rm -rf "$LIB"; mkdir -p "$LIB"
  mvn -q -B -f "$POM" dependency:copy-dependencies -DoutputDirectory="$LIB" -DincludeScope=runtime >&2 || die "mvn failed"
  echo "$want" > "$LIB/.complete"
  exec 8>&-
}
running() {                # succeeds if the recorded process is alive and is our broker
  [[ -f $PIDFILE ]] || return 1
  local p; p=$(cat "$PIDFILE")
  [[ -n $p && -r /proc/$p/cmdline ]] && tr '\0' ' ' < "/proc/$p/cmdline" | grep -q "kafka.Kafka $RUN/server.properties"
}
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
tool() {                   # runs a command-line tool in a short-lived JVM
  local cls=$1; shift
  java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$LIB/*" "$cls" "$@"
}
start() {
  ensure_jars
  if running; then echo "kafka already running pid $(cat "$PIDFILE") on $BOOT"; return; fi
  local p
  for p in "$KAFKA_PORT" "$KAFKA_CONTROLLER_PORT"; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do port_open "$p" || break; sleep 0.3; done   # a process that is just stopping may still hold the port
    ! port_open "$p" || die "port $p is already in use by another process (set KAFKA_PORT / KAFKA_CONTROLLER_PORT)"
  done
  mkdir -p "$RUN/log"
  local more='' names=''
  [[ -z ${KAFKA_SECURE:-} ]] || {
    more=",SASL://127.0.0.1:$KAFKA_SASL_PORT,MTLS://127.0.0.1:$KAFKA_MTLS_PORT" names=,SASL:SASL_SSL,MTLS:SSL
  }
  cat > "$RUN/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT
listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT$more
advertised.listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT$more
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT$names
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$RUN/log
auto.create.topics.enable=false
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
num.partitions=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.retention.hours=-1
log.retention.check.interval.ms=600000
message.max.bytes=12582912
replica.fetch.max.bytes=12582912
transaction.max.timeout.ms=900000
log.segment.bytes=268435456
log.cleaner.dedupe.buffer.size=16777216
broker.session.timeout.ms=${KAFKA_SESSION_MS:-9000}
broker.heartbeat.interval.ms=$((${KAFKA_SESSION_MS:-9000} / 4))
EOF
  [[ -z ${KAFKA_SECURE:-} ]] || cat >> "$RUN/server.properties" <<EOF
ssl.keystore.type=PEM
ssl.keystore.location=$KAFKA_SECURE/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$KAFKA_SECURE/ca.pem
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_${KAFKA_USER}="$KAFKA_PASSWORD";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
EOF
  if [[ ! -f $RUN/log/meta.properties ]]; then
    tool kafka.tools.StorageTool format -t "${KAFKA_CLUSTER_ID:-AAAAAAAAAAAAAAAAAAAAAQ}" -c "$RUN/server.properties" > "$RUN/format.log" 2>&1 \
      || { cat "$RUN/format.log" >&2; die "storage format failed"; }
  fi
  : > "$LOG"   # an old ready line must not count for this start
  local t0=$SECONDS clock=()
  [[ -z ${CLOCK_SHIFT:-} ]] || compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' > /dev/null || die "no libfaketime for CLOCK_SHIFT"
  # The loader replaces $LIB by the machine's library folder.
  # shellcheck disable=SC2016
  [[ -z ${CLOCK_SHIFT:-} ]] || clock=(LD_PRELOAD='/usr/$LIB/faketime/libfaketimeMT.so.1' FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_FORCE_MONOTONIC_FIX=0 FAKETIME="$CLOCK_SHIFT")
  # shellcheck disable=SC2086
  nohup setsid env "${clock[@]}" java $KAFKA_HEAP -XX:+UseSerialGC -Xshare:auto -Djava.awt.headless=true \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=info -Dorg.slf4j.simpleLogger.showDateTime=true \
    -cp "$LIB/*" kafka.Kafka "$RUN/server.properties" > "$LOG" 2>&1 < /dev/null &
  echo $! > "$PIDFILE"
  local i
  for ((i = 0; i < START_TIMEOUT_S * 10; i++)); do
    if grep -q "Kafka Server started" "$LOG" 2>/dev/null && port_open "$KAFKA_PORT"; then
      echo "kafka ready pid $(cat "$PIDFILE") on $BOOT after $((SECONDS - t0)) s"; return
    fi
    kill -0 "$(cat "$PIDFILE")" 2>/dev/null || { tail -25 "$LOG" >&2; rm -f "$PIDFILE"; die "broker exited while starting (log: $LOG)"; }
    sleep 0.1
  done
  die "not ready after $START_TIMEOUT_S s (log: $LOG)"
}
stop() {
  running || { rm -f "$PIDFILE"; echo "kafka not running"; return; }
  local p i; p=$(cat "$PIDFILE"); kill "$p"
  for ((i = 0; i < 200; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  kill -0 "$p" 2>/dev/null && kill -9 "$p" || true
  rm -f "$PIDFILE"; echo "kafka stopped"
}
tell() {                   # sends a signal to the process that runs
  running || die "kafka is not running"
  kill -"$1" "$(cat "$PIDFILE")"
}
case ${1:-} in
  start) start ;;
  stop) stop ;;
  kill) tell KILL; while running; do sleep 0.05; done; rm -f "$PIDFILE" ;;
  pause) tell STOP ;;
  resume) tell CONT ;;
  status) if running; then echo "kafka running pid $(cat "$PIDFILE") on $BOOT"; else echo "kafka not running"; exit 3; fi ;;
  create-topic)
    shift; [[ $# -ge 2 ]] || die "create-topic NAME PARTS [k=v ...]"; ensure_jars
    name=$1 parts=$2; shift 2; cfg=(); for kv in "$@"; do cfg+=(--config "$kv"); done
    tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$BOOT" --create --if-not-exists --topic "$name" --partitions "$parts" --replication-factor 1 "${cfg[@]}" ;;
  user)
    shift; ensure_jars; tool kafka.admin.ConfigCommand --bootstrap-server "$BOOT" --alter --entity-type users --entity-name "$1" \
      --add-config "SCRAM-SHA-256=[password=$2]" ;;
  acl)
    shift; ensure_jars; tool org.apache.kafka.tools.AclCommand --bootstrap-server "$BOOT" "$@" ;;
  delete-topic)
    shift; ensure_jars; tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$BOOT" --delete --if-exists --topic "$1" ;;
  produce)
    shift; [[ $# -ge 2 ]] || die "produce TOPIC FILE"; ensure_jars
    t=$1 f=$2; shift 2; [[ $f == - ]] && f=/dev/stdin
    tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$BOOT" --topic "$t" "$@" < "$f" ;;
  consume)
    shift; [[ $# -ge 1 ]] || die "consume TOPIC"; ensure_jars
    t=$1; shift
    tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$BOOT" --topic "$t" --from-beginning --timeout-ms "$CONSUME_TIMEOUT_MS" "$@" 2> >(grep -v -E 'TimeoutException|^\s+at |Error processing message|Processed a total|KIP-848' >&2) || true ;;
  *) sed -n 2,9p "${BASH_SOURCE[0]}" | sed 's/^# //' >&2; exit 2 ;;
esac
