#!/usr/bin/env bash
# Ties a service to the life of whoever started this: starts it, says so, waits for the end of standard input, stops it and
# removes its folder. The end of standard input comes even when the starter was killed with -9.
#   tied.sh COMMAND...     COMMAND takes start, stop and remove; the environment (DATA_DIR, ports) is handed on
set -uo pipefail
trap '' INT HUP TERM
finish() {
  local pid              # nobody needs its data any more: no time for an orderly stop
  for pid in $(cat "$DATA_DIR"/*/pid 2> /dev/null); do
    tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -qF "$DATA_DIR" && kill -9 "$pid"
  done
  "$@" stop > /dev/null 2>&1
  "$@" remove > /dev/null 2>&1
  rm -rf "$DATA_DIR"
}
if ! "$@" start < /dev/null; then
  echo "failed"
  finish "$@"
  exit 1
fi
echo "ready"
while read -r _; do :; done
finish "$@"
