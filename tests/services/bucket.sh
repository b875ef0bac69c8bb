#!/usr/bin/env bash
# A bucket with the S3 API, in memory (moto from PyPI, without Docker).
#   bucket.sh start | stop | remove
# Env: DATA_DIR (./.services)  BUCKET_PORT (5000)  SERVICES_LIB (folder for moto, default target/services-lib of the checkout)
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DATA_DIR=${DATA_DIR:-./.services}
BUCKET_PORT=${BUCKET_PORT:-5000}
VENV=${SERVICES_LIB:-$HERE/../../target/services-lib}/moto
MOTO='moto[server,s3]==5.2.5'
RUN=$DATA_DIR/bucket

die() { echo "bucket.sh: $*" >&2; exit 1; }
installed() { [[ $(cat "$VENV/.complete" 2> /dev/null) == "$MOTO" ]]; }
install() {                # one process at a time
  mkdir -p "$(dirname "$VENV")"
  exec 8> "$VENV.lock"; flock 8
  installed || { python3 -m venv --clear "$VENV" && "$VENV/bin/pip" install -q "$MOTO" >&2 && echo "$MOTO" > "$VENV/.complete"; } || die "cannot install moto"
  exec 8>&-
}
answers() { curl -s -o /dev/null -X "$1" "http://127.0.0.1:$BUCKET_PORT/$2"; }
case ${1:-} in
  start)
    installed || install
    mkdir -p "$RUN"
    nohup setsid "$VENV/bin/moto_server" -H 127.0.0.1 -p "$BUCKET_PORT" > "$RUN/log" 2>&1 < /dev/null &
    echo $! > "$RUN/pid"
    for _ in {1..300}; do answers GET '' && break; kill -0 "$(cat "$RUN/pid")" 2> /dev/null || die "moto exited while starting: $(tail -3 "$RUN/log")"; sleep 0.1; done
    answers PUT keyfold || die "cannot create the bucket"
    echo "bucket keyfold on 127.0.0.1:$BUCKET_PORT" ;;
  stop) kill "$(cat "$RUN/pid")" 2> /dev/null || true ;;
  remove) ;;
  *) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
