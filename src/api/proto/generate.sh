#!/usr/bin/env bash
# Makes gen/ from the .proto files. CI runs it and fails if anything changes.
set -euo pipefail
cd "$(dirname "$0")"
export PATH="$PWD/../../../node_modules/.bin:$PATH" BUF_CACHE_DIR="${TMPDIR:-/tmp}/troupe-buf-cache"
rm -rf gen
buf generate
buf build --as-file-descriptor-set -o gen/descriptors.binpb
