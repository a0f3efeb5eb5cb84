#!/usr/bin/env bash
# Makes mamba.local/luanti:debian, a real game server for tests: Luanti (Debian calls it minetest)
# with its base game. See mkimage.sh for the environment.
#
# The server is /usr/lib/minetest/minetestserver, the game's id is "minetest".
set -euo pipefail
exec "$(dirname "$0")/mkimage.sh" mamba.local/luanti:debian minetest-server busybox-static
