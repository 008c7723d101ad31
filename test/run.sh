#!/usr/bin/env bash
# Everything that has to hold, on a clean clone with Node and npm alone: set-up, types, lint, generated code, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh tests
# npm puts the caller's Node in front of the pinned one; tests run on what the launchers run.
export PATH="$PWD/node_modules/node/bin:$PWD/node_modules/.bin:$PATH"

echo "== types"
tsc --noEmit
echo "== lint"
biome check --error-on-warnings .
echo "== generated code"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# In a copy, because a daemon may be running from this tree.
mkdir -p "$copy/src/api"
cp -r src/api/proto "$copy/src/api/proto"
ln -s "$PWD/node_modules" "$copy/node_modules"
bash "$copy/src/api/proto/generate.sh"
diff -r src/api/proto/gen "$copy/src/api/proto/gen"

echo "== tests"
files=('test/unit/**/*.test.ts' 'test/sim/**/*.test.ts' test/tidy.test.ts)
if [ "$(id -u)" -eq 0 ]; then
  files+=('test/e2e/**/*.test.ts')
else
  echo "run: not root, so without the end-to-end tests, which mount and start containers" >&2
fi
# One file at a time: end-to-end tests start dozens of processes each, and a starved client loses output.
node --test --test-reporter=spec --test-concurrency=1 --test-timeout=600000 "${files[@]}"
