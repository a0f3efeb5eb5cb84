#!/bin/bash
# Downloads Valheim's dedicated server (Steam app 896660, anonymous) into the current folder.
set -euo pipefail

export HOME="$PWD"
mkdir -p steamcmd steamapps
curl -fsSL --retry 3 --max-time 300 https://steamcdn-a.akamaihd.net/client/installer/steamcmd_linux.tar.gz | tar -xz -C steamcmd

# SteamCMD ends with an error now and then while it updates itself; a second run goes on from there.
for attempt in 1 2 3; do
  if ./steamcmd/steamcmd.sh +force_install_dir "$HOME" +login anonymous +app_update 896660 validate +quit; then
    break
  fi
  echo "SteamCMD did not finish (attempt $attempt of 3)."
done

if [ ! -f valheim_server.x86_64 ]; then
  echo "Steam did not deliver the server. Try again later."
  exit 1
fi
chmod +x valheim_server.x86_64
mkdir -p .steam/sdk64
cp steamcmd/linux64/steamclient.so .steam/sdk64/
echo "Valheim is installed."
