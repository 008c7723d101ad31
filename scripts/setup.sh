#!/usr/bin/env bash
# Installs what the demo needs, or with the word `tests` what tests and benchmarks need: Debian packages with apt-get
# when root, npm packages with npm ci.
set -euo pipefail
cd "$(dirname "$0")/.."

# A program and the Debian package that brings it.
wanted=(
  ctr:containerd
  containerd-shim-runc-v2:containerd
  runc:runc
  docker-registry:docker-registry
  /bin/busybox:busybox-static
  script:bsdutils
  tar:tar
)
if [ "${1:-}" = tests ]; then
  wanted+=(
    crun:crun
    skopeo:skopeo
    mkfs.erofs:erofs-utils
    mkfs.btrfs:btrfs-progs
    mkfs.ext4:e2fsprogs
    mkfs.xfs:xfsprogs
    fusermount3:fuse3
    fuse-overlayfs:fuse-overlayfs
    strace:strace
  )
fi

missing=()
for pair in "${wanted[@]}"; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
done
# Containers need a busybox that brings its own libraries.
if [ -x /bin/busybox ] && ldd /bin/busybox >/dev/null 2>&1; then missing+=(busybox-static); fi

if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t packages < <(printf '%s\n' "${missing[@]}" | sort -u)
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: please install these Debian packages, or what brings the same programs: ${packages[*]}" >&2
    exit 1
  fi
  echo "setup: installing ${packages[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  # The lists of a fresh machine are empty or old; the install tells whether they had to be renewed.
  apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null 2>&1 || {
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
  }
fi

# A Docker engine as a client for the tests: unpacked beside the checkout's other caches, because installing it would
# put a service on the machine.
if [ "${1:-}" = tests ] && [ ! -x .cache/docker/usr/sbin/dockerd ]; then
  echo "setup: unpacking docker.io into .cache/docker" >&2
  unpack=$(mktemp -d)
  mkdir -p .cache
  (
    cd "$unpack"
    # apt fetches as its own user where it can.
    chmod 755 .
    apt-get download -qq docker.io >/dev/null 2>&1 || {
      apt-get update -qq
      apt-get download -qq docker.io >/dev/null
    }
  ) && dpkg-deb -x "$unpack"/docker.io_*.deb .cache/docker || echo "setup: docker.io cannot be had; its tests are skipped" >&2
  rm -rf "$unpack"
fi

if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "setup: npm ci" >&2
  npm ci --no-audit --no-fund --loglevel=error
fi
# The pinned Node comes with an install script of its package, which npm may have been told not to run.
if ! node_modules/node/bin/node --version >/dev/null 2>&1; then
  npm rebuild --loglevel=error node || true
  node_modules/node/bin/node --version >/dev/null || {
    echo "setup: npm did not run the install script of the package 'node'; allow it and run npm ci again" >&2
    exit 1
  }
fi
