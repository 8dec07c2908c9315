#!/usr/bin/env bash
# Runs the tests; usage: ops/test.sh [PATTERN]     PATTERN: a regular expression on test file paths.
# Mounts made by tests stay in a mount namespace of their own, and end with it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
exec unshare --mount --propagation private -- node ops/run-tests.ts "$@"
