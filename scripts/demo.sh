#!/usr/bin/env bash
# From a bare machine to a container's output: sets up, serves a small image from a local registry, pulls and runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec node_modules/node/bin/node scripts/demo.ts
