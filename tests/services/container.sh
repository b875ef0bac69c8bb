#!/usr/bin/env bash
# keyfold in a container without Docker: builds docker/Dockerfile with buildah on a base image from debootstrap, and runs it with podman.
#   container.sh image         builds the image from BINARY; prints its name and size
#   container.sh build         compiles and builds the image; takes as long as `cargo build --release`
#   container.sh start         creates image and volume for a test; `stop` and `remove` delete them
#   container.sh run ARG...    runs `keyfold ARG...` in a container with that volume and the environment's KEYFOLD_* variables
#   container.sh exec ARG...   runs `keyfold ARG...` in the running container
#   container.sh podman ARG... runs any podman command on the storage of these images; @ stands for the name
# Env: BINARY (target/debug/keyfold)  DATA_DIR (its last part names the container, the volume and the image's tag; default `test`)
#      CONTAINER_CACHE (folder for base images and image storage, default target/container of the checkout)
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${CONTAINER_CACHE:-$ROOT/target/container}
SUITE=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
RUNTIME_BASE=keyfold-base-$SUITE BUILD_BASE=keyfold-build-base-$SUITE
NAME=$(basename "${DATA_DIR:-test}")
IMAGE=localhost/keyfold:$NAME
TEMPORARY=()
trap 'rm -rf "${TEMPORARY[@]}"' EXIT
STORAGE=(--root "$CACHE/storage" --runroot "$CACHE/run" --storage-driver vfs)

die() { echo "container.sh: $*" >&2; exit 1; }
podman() { command podman "${STORAGE[@]}" --runtime runc --cgroup-manager cgroupfs "$@"; }

# ---- base images, built once and kept as archives. A binary of this machine needs the libraries of this machine's Debian

base() {                   # base NAME PACKAGES HOW IMPORT-ARG...: builds the image NAME from what HOW packs of a Debian with these packages
  local name=$1 packages=$2 how=$3
  shift 3
  mkdir -p "$CACHE"
  exec 9> "$CACHE/$name.lock"; flock 9
  [[ -f $CACHE/$name.tar ]] || debian "$CACHE/$name.tar" "$packages" "$how"
  podman image exists "localhost/$name" || podman import -q "$@" "$CACHE/$name.tar" "localhost/$name" > /dev/null
  exec 9>&-
}
debian() {                 # debian ARCHIVE PACKAGES HOW
  command -v debootstrap > /dev/null || die "debootstrap not found, and no $1"
  [[ -n $SUITE ]] || die "cannot build a base image: this machine does not run Debian"
  echo "container.sh: fetching $SUITE for a base image" >&2
  local root; root=$(mktemp -d); TEMPORARY+=("$root")
  debootstrap --variant=minbase --include="$2" "$SUITE" "$root" > "$CACHE/debootstrap.log" 2>&1 || die "debootstrap: $(tail -3 "$CACHE/debootstrap.log")"
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/dev/*
  "$3" "$root" "$1.part"
  mv "$1.part" "$1"
}
libraries() {              # packs the files of a few packages without a shell, like distroless images
  local root=$1 package files; files=$(mktemp); TEMPORARY+=("$files")
  for package in base-files netbase tzdata libc6 libgcc-s1; do
    cat "$root/var/lib/dpkg/info/$package".list "$root/var/lib/dpkg/info/$package":*.list 2> /dev/null || true
  done | grep -Ev '^/usr/share/(doc|man|locale|lintian|bug|zoneinfo/right|zoneinfo/posix)(/|$)|/gconv/' > "$files"
  # With a merged /usr, these folders are links. Names the files by where they really are.
  sed -Ei 's#^/(bin|sbin|lib|lib32|lib64|libx32)/#/usr/\1/#; s#^/##; /^\.?$/d' "$files"
  printf '%s\n' bin sbin lib lib64 etc/ssl etc/ssl/certs etc/ssl/certs/ca-certificates.crt >> "$files"
  tar -C "$root" --no-recursion -cf "$2" -T <(sort -u "$files")
}
compilers() {              # packs the whole system and this machine's rustup
  local name
  install -D "$(realpath "$(command -v rustup)")" "$1/usr/local/cargo/bin/rustup"
  for name in cargo rustc; do ln -s rustup "$1/usr/local/cargo/bin/$name"; done
  tar -C "$1" -cf "$2" .
}
runtime_base() { base "$RUNTIME_BASE" ca-certificates,netbase,tzdata libraries; }
build_base() {
  base "$BUILD_BASE" ca-certificates,gcc,g++,libc6-dev,make,perl compilers --change ENV=CARGO_HOME=/usr/local/cargo \
    --change ENV=RUSTUP_HOME=/usr/local/rustup --change ENV=PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

# ---- the image

assemble() {               # assemble ARG...: builds docker/Dockerfile with these arguments
  local revision before
  revision=$(git -C "$ROOT" rev-parse HEAD 2> /dev/null || echo unknown)
  before=$(podman image inspect -f '{{.Id}}' "$IMAGE" 2> /dev/null) || true
  # Mounts the machine's certificates, which may include those of a proxy.
  buildah "${STORAGE[@]}" build --isolation chroot --network host --format docker -v /etc/ssl/certs:/etc/ssl/certs:ro \
    -f "$ROOT/docker/Dockerfile" -t "$IMAGE" --build-arg RUNTIME_BASE="localhost/$RUNTIME_BASE" --build-arg REVISION="$revision" "$@" "$ROOT" >&2
  # Removes the previous image of this name, unless a container still uses it.
  [[ -z $before ]] || podman rmi "$before" > /dev/null 2>&1 || true
  echo "$IMAGE: $(podman image inspect -f '{{.Size}}' "$IMAGE" | awk '{printf "%.1f MB", $1 / 1e6}')"
}
image() {
  local binary=${BINARY:-$ROOT/target/debug/keyfold} stage; stage=$(mktemp -d); TEMPORARY+=("$stage")
  [[ -x $binary ]] || die "$binary does not exist: run cargo build"
  runtime_base
  mkdir "$stage/volume"
  strip --strip-debug -o "$stage/keyfold" "$binary"
  assemble --target runtime --build-context build="$stage"
}
build() {
  runtime_base
  build_base
  assemble --layers --build-arg BUILD_BASE="localhost/$BUILD_BASE"
}

# ---- a test's container

run() {                    # these limits work on machines without CAP_SYS_RESOURCE
  local variables=() name
  for name in $(compgen -e KEYFOLD_); do [[ $name == KEYFOLD_TEST_* ]] || variables+=(-e "$name"); done
  podman run --rm --replace --name "$NAME" --network host --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 \
    --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges \
    -v "$NAME:/var/lib/keyfold" "${variables[@]}" "$IMAGE" "$@"
}
COMMAND=${1:-}
shift || true
case $COMMAND in
  image | build) "$COMMAND" ;;
  start) image; podman volume create "$NAME" > /dev/null ;;
  run) run "$@" ;;
  exec) podman exec "$NAME" keyfold "$@" ;;
  podman) podman "${@//@/$NAME}" ;;
  stop) podman rm -f -t 0 -i "$NAME" ;;
  remove) podman volume rm -f "$NAME"; podman rmi -f "$IMAGE" ;;
  *) sed -n '2,10s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
