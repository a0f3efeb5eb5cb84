#!/usr/bin/env bash
# Builds the web app when its sources are newer than what is in pb_public/dist.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
need_node
cd pb_public
if [ ! -f node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  say "installing the web app's packages"
  npm ci --no-audit --no-fund --loglevel=error >/dev/null
fi
if [ ! -f dist/index.html ] || [ -n "$(find src public index.html vite.config.ts package-lock.json -newer dist/index.html 2>/dev/null | head -1)" ]; then
  say "building the web app"
  npm run --silent build
fi
