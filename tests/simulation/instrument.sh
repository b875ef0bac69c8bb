#!/usr/bin/env bash
# RUSTC_WORKSPACE_WRAPPER of `./x coverage`: compiles the host and the simulation so that they count what is executed. Dependencies and
# plugins are compiled as ever.
rustc=$1
shift
for ((at = 1; at < $#; at++)); do
  next=$((at + 1))
  case ${!at}=${!next} in
    --crate-name=keyfold | --crate-name=simulation) exec "$rustc" "$@" -C instrument-coverage ;;
  esac
done
exec "$rustc" "$@"
