#!/usr/bin/env bash
# Ties a service to the life of the process that starts this script: starts the service, prints "ready", waits for the end of standard
# input, then stops the service and removes its folder. Standard input ends even if the parent process was killed with -9.
#   tied.sh COMMAND...     COMMAND takes start, stop and remove, and inherits the environment (DATA_DIR, ports)
set -uo pipefail
trap '' INT HUP TERM
finish() {
  local pid              # its data is no longer needed, so skip an orderly stop
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
