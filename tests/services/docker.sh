#!/usr/bin/env bash
# Kafka or a CQL database in a container, with the commands and variables of kafka.sh and cassandra.sh. Linux only: uses the host network.
#   docker.sh kafka|cassandra start|stop|kill|pause|resume|remove
# Env: DATA_DIR (names the container)  KAFKA_PORT (9092)  KAFKA_CONTROLLER_PORT  CQL_PORT (9042)  CASSANDRA_STORAGE_PORT
#      KAFKA_IMAGE, CQL_IMAGE  START_TIMEOUT_S (180)
set -euo pipefail
KIND=$1 COMMAND=$2
NAME=keyfold-$KIND-$(basename "$DATA_DIR")
KAFKA_PORT=${KAFKA_PORT:-9092}
KAFKA_CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-$((KAFKA_PORT + 1))}
CQL_PORT=${CQL_PORT:-9042}
CASSANDRA_STORAGE_PORT=${CASSANDRA_STORAGE_PORT:-$((CQL_PORT + 1000))}
START_TIMEOUT_S=${START_TIMEOUT_S:-180}

die() { echo "docker.sh: $*" >&2; exit 1; }
kafka_container() {
  [[ -z ${CLOCK_SHIFT:-} ]] || die "CLOCK_SHIFT is not supported with Docker"
  docker run -d --name "$NAME" --network host \
    -e KAFKA_NODE_ID=1 -e KAFKA_PROCESS_ROLES=broker,controller -e KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER \
    -e KAFKA_LISTENERS="PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT" \
    -e KAFKA_ADVERTISED_LISTENERS="PLAINTEXT://127.0.0.1:$KAFKA_PORT" \
    -e KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT \
    -e KAFKA_CONTROLLER_QUORUM_VOTERS="1@127.0.0.1:$KAFKA_CONTROLLER_PORT" \
    -e KAFKA_AUTO_CREATE_TOPICS_ENABLE=false -e KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS=1 -e KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1 \
    -e KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS=1 -e KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1 \
    -e KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1 -e KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0 -e KAFKA_LOG_RETENTION_HOURS=-1 \
    -e KAFKA_MESSAGE_MAX_BYTES=12582912 -e KAFKA_REPLICA_FETCH_MAX_BYTES=12582912 \
    "${KAFKA_IMAGE:-apache/kafka:4.1.0}" > /dev/null
}
cassandra_container() {
  [[ -z ${CASSANDRA_SEED:-} ]] || die "a second node is not supported with Docker"
  docker run -d --name "$NAME" --network host "${CQL_IMAGE:-scylladb/scylla:6.2}" \
    --smp 1 --memory 1G --overprovisioned 1 --developer-mode 1 --listen-address 127.0.0.1 --rpc-address 127.0.0.1 \
    --native-transport-port "$CQL_PORT" --storage-port "$CASSANDRA_STORAGE_PORT" --api-port "$((CASSANDRA_STORAGE_PORT + 1))" \
    --commitlog-sync "${CASSANDRA_SYNC:-periodic}" --prometheus-port 0 --native-shard-aware-transport-port 0 > /dev/null
}
ready() {                  # reads only the log of this start
  local line=$1
  docker logs --since "$SINCE" "$NAME" 2>&1 | grep -q "$line"
}
start() {
  SINCE=$(date +%s)
  if docker container inspect "$NAME" > /dev/null 2>&1; then docker start "$NAME" > /dev/null; else "${KIND}_container"; fi
  local line="Kafka Server started" i
  [[ $KIND == cassandra ]] && line="Starting listening for CQL clients"
  for ((i = 0; i < START_TIMEOUT_S * 5; i++)); do
    if ready "$line"; then echo "$KIND ready in container $NAME"; return; fi
    [[ $(docker container inspect -f '{{.State.Running}}' "$NAME") == true ]] || { docker logs --tail 25 "$NAME" >&2; die "$NAME exited while starting"; }
    sleep 0.2
  done
  die "$NAME not ready after $START_TIMEOUT_S s"
}
case $COMMAND in
  start) start ;;
  stop) docker stop -t 30 "$NAME" > /dev/null ;;
  kill) docker kill "$NAME" > /dev/null ;;
  pause) docker pause "$NAME" > /dev/null ;;
  resume) docker unpause "$NAME" > /dev/null ;;
  remove) docker rm -f "$NAME" > /dev/null ;;
  *) sed -n 2,6p "${BASH_SOURCE[0]}" | sed 's/^# //' >&2; exit 2 ;;
esac
