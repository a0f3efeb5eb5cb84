#!/usr/bin/env bash
# Makes mamba.local/minecraft-standin:1.20.4, which stands for a Minecraft server in tests: it speaks
# the protocol (flying-squid, MIT), reads server.properties, and its console is like vanilla's. Run
# it with the command "/app/start". See minecraft-standin/server.js for what it honours, mkimage.sh
# for the environment.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OVERLAY=$here/minecraft-standin exec "$here/mkimage.sh" mamba.local/minecraft-standin:1.20.4 \
	libc6 libstdc++6 libatomic1 busybox-static
