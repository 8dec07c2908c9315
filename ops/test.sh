#!/usr/bin/env bash
# Runs the tests; usage: ops/test.sh [PATTERN]     PATTERN: a regular expression on test file paths.
# Mounts made by tests stay in a mount namespace of their own, and end with it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
# Hundreds of processes compile the same files. Under emulation that is most of a start, and
# stripping their types crashes V8 now and then (its WebAssembly tiers): the VM finds it done.
export NODE_COMPILE_CACHE="$PWD/.cache/compile"
exec unshare --mount --propagation private -- node ops/run-tests.ts "$@"
