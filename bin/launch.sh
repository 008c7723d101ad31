# Runs an entry point of the checkout or package that a launcher belongs to, on the Node that is pinned for it.
# Sourced by the launchers beside it, which set `self` to their own real path.

# built ROOT: whether dist was made of the sources as they stand. Any change of a file or directory sets its ctime, even
# one that brings an old mtime along; the mtime of dist/BUILT is when the build began (scripts/bundle.ts).
built() {
  [ -f "$1/dist/BUILT" ] &&
    [ -z "$(find "$1/src" "$1/package.json" "$1/package-lock.json" -newercm "$1/dist/BUILT" -print -quit 2>&1)" ]
}

# launch ENTRY [ARGUMENT...]; `node_flags` are words for Node itself
launch() {
  root=${self%/bin/*}
  # A checkout runs the sources unless it was built since they changed. A package brings JavaScript alone.
  if [ -f "$root/src/$1.ts" ] && ! built "$root"; then
    entry=$root/src/$1.ts
  else
    entry=$root/dist/$1.js
  fi
  shift
  # npm may have put the `node` package beside us as well as below us.
  above=$root
  while [ ! -x "$above/node_modules/node/bin/node" ]; do
    if [ -z "$above" ]; then
      echo "${self##*/}: no pinned Node above $root; run npm ci there" >&2
      exit 1
    fi
    above=${above%/*}
  done
  # Compiled code is kept for the next start and for threads, but only where nobody but the caller can put any.
  cache=${HOME:-}
  if [ -z "$cache" ] && [ "$(id -u)" -eq 0 ]; then cache=/root; fi
  if [ -n "$cache" ] && [ -O "$cache" ]; then
    export NODE_COMPILE_CACHE="${NODE_COMPILE_CACHE:-$cache/.cache/troupe/compiled}"
  fi
  # shellcheck disable=SC2086 # several words
  exec "$above/node_modules/node/bin/node" ${node_flags:-} "$entry" "$@"
}
