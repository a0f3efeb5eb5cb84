# Functions of the scripts in this folder: what is missing is installed, what is started is stopped.
# Source it; it does nothing by itself.

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "'$*' needs root, and there is no sudo"; fi; }

# need_packages COMMAND=PACKAGE... installs the Debian packages whose command is missing.
need_packages() {
  local missing=() pair
  for pair in "$@"; do command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_go() { command -v go >/dev/null || die "Go is missing: install any Go from 1.21 on; it fetches the version in go.mod by itself"; }

need_node() {
  command -v node >/dev/null || need_packages node=nodejs npm=npm
  local major; major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || die "Node 20 or newer is needed to build the web app, this is $(node --version)"
}

docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# start_dockerd DIR [NETNS] starts a Docker Engine of our own below DIR and sets DOCKER_HOST to it.
# Engines that share a network namespace rewrite each other's rules; NETNS gives it one of its own,
# which in_netns enters. (ip netns exec would hide the cgroup mounts, so nsenter it is.)
start_dockerd() {
  local dir=$1 enter=()
  if [ -n "${2:-}" ]; then
    as_root ip netns add "$2"
    as_root ip -n "$2" link set lo up
    enter=(nsenter "--net=/run/netns/$2")
  fi
  mkdir -p "$dir/data" "$dir/exec"
  rm -f "$dir/docker.pid" "$dir/exec/containerd/containerd.pid"
  as_root "${enter[@]}" dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" -H "unix://$dir/docker.sock" \
    --bridge none --live-restore --userland-proxy=false >"$dir/dockerd.log" 2>&1 &
  DOCKERD_JOB=$!
  export DOCKER_HOST="unix://$dir/docker.sock"
  local tries=0
  until docker_answers; do
    kill -0 "$DOCKERD_JOB" 2>/dev/null || { tail -20 "$dir/dockerd.log" >&2; die "dockerd ended"; }
    tries=$((tries + 1)); [ $tries -lt 150 ] || { tail -20 "$dir/dockerd.log" >&2; die "dockerd did not answer within 30 s"; }
    sleep 0.2
  done
}

# in_netns NETNS COMMAND... runs a command in a network namespace of start_dockerd.
in_netns() { local ns=$1; shift; as_root nsenter "--net=/run/netns/$ns" "$@"; }

# stop_dockerd DIR [NETNS] removes what runs on it, ends it and unmounts what it left.
stop_dockerd() {
  local dir=$1 ids
  ids=$(docker -H "unix://$dir/docker.sock" ps -aq 2>/dev/null) && [ -n "$ids" ] && docker -H "unix://$dir/docker.sock" rm -f $ids >/dev/null 2>&1
  [ -f "$dir/docker.pid" ] && as_root kill "$(cat "$dir/docker.pid")" 2>/dev/null
  [ -n "${DOCKERD_JOB:-}" ] && wait "$DOCKERD_JOB" 2>/dev/null
  awk -v d="$dir/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do as_root umount "$m" 2>/dev/null; done
  [ -n "${2:-}" ] && as_root ip netns del "$2" 2>/dev/null
  return 0
}
