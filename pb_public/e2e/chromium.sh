#!/bin/sh
# Chromium in a network of its own, where only E2E_BASE_URL's port leads out, through a socket file.
# A game that starts makes a Docker network, Chromium sees the machine's addresses change and drops
# what it is loading (ERR_NETWORK_CHANGED): here it sees nothing of it. Without the right to do that,
# it runs as it is.
here=$(dirname "$0")
if unshare --net true 2>/dev/null && command -v ip >/dev/null; then
  exec unshare --net sh -c 'ip link set lo up; rm -f "$E2E_FORWARD.ready"; node "$0/forward.mjs" in &
    until [ -e "$E2E_FORWARD.ready" ]; do sleep 0.02; done; exec /usr/bin/chromium "$@"' "$here" "$@"
fi
exec /usr/bin/chromium "$@"
