#!/usr/bin/env bash
# Runs every fuzz target for FUZZTIME each, one after the other.
set -euo pipefail
cd "$(dirname "$0")/../.."
for dir in $(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u); do
  for target in $(grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //'); do
    echo "==> $dir $target"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" -fuzzminimizetime 500x # else one find is cut down for a minute
  done
done
