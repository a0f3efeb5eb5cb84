# Functions of the scripts in this folder: what is missing is installed, what is started is stopped.
# Source it; it does nothing by itself.

# As the Makefile has it, for a script that is run by itself: some machines pin the toolchain.
export GOTOOLCHAIN=go1.27.3 CGO_ENABLED=0

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

# need_node makes Node 20 or newer answer. Where the distribution's is older (Debian 12, Ubuntu 24.04), npm
# fetches a newer one into .cache/tools, for this project alone.
need_node() {
  local own=$PWD/.cache/tools/node/node_modules/node/bin
  [ ! -x "$own/node" ] || PATH=$own:$PATH
  need_packages node=nodejs npm=npm
  if [ "$(node_major)" -lt 20 ]; then
    say "fetching Node 22; $(node --version) is too old to build the web app"
    npm install --prefix .cache/tools/node --no-save --no-audit --no-fund --loglevel=error node@22 >/dev/null || true
    PATH=$own:$PATH
    hash -r
  fi
  [ "$(node_major)" -ge 20 ] || die "Node 20 or newer is needed to build the web app, this is $(node --version)"
}
node_major() { node -p 'process.versions.node.split(".")[0]'; }

# alone COMMAND... becomes a program that Ctrl-C does not reach, so that we end it when its turn is, and
# that ends when we are killed. For use in the background.
alone() { exec setpriv --pdeathsig TERM setsid "$@"; }

# need_postgres installs PostgreSQL where no version of it is. The cluster that Debian's package makes is
# not used.
need_postgres() {
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need_packages initdb=postgresql
}

postgres_bin() { ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1; }

# start_postgres DIR [durable] starts a server of our own in DIR, which must not be below a folder that
# only we may enter, with a socket there, and sets MAMBA_TEST_POSTGRES to its superuser. It keeps nothing on
# a crash, unless it is durable: then a commit waits for the disk, as in use.
start_postgres() {
  local dir=$1 bin as=() sync="-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
  [ "${2:-}" != durable ] || sync="-c fsync=on -c synchronous_commit=on -c full_page_writes=on"
  bin=$(postgres_bin)
  if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; as=(setpriv --reuid=postgres --regid=postgres --init-groups); fi
  (cd "$dir" && "${as[@]}" "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >"$dir.log" 2>&1) || { tail -20 "$dir.log" >&2; die "initdb failed"; }
  (cd "$dir" && "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -o "-k $dir -c listen_addresses= -c unix_socket_permissions=0777 $sync -c max_connections=400 -c shared_buffers=128MB" start >>"$dir.log" 2>&1) \
    || { tail -20 "$dir/log" "$dir.log" >&2; die "PostgreSQL did not start"; }
  export MAMBA_TEST_POSTGRES="postgres://postgres@/postgres?host=$dir"
}

# fresh_database NAME makes an empty database with an owner of its name, as docs/scale.md says, on the server
# of MAMBA_TEST_POSTGRES, and prints its URL. What had the name before is gone.
fresh_database() {
  PGOPTIONS="-c client_min_messages=warning" "$(postgres_bin)/psql" -qXv ON_ERROR_STOP=1 "$MAMBA_TEST_POSTGRES" -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "DROP ROLE IF EXISTS $1" \
    -c "CREATE ROLE $1 LOGIN" -c "CREATE DATABASE $1 OWNER $1 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0" >&2
  printf 'postgres://%s@/%s?%s\n' "$1" "$1" "${MAMBA_TEST_POSTGRES#*\?}"
}

# stop_postgres DIR ends it and removes the folder.
stop_postgres() {
  [ -f "$1/data/postmaster.pid" ] && as_root kill -QUIT "$(head -1 "$1/data/postmaster.pid")" 2>/dev/null
  as_root rm -rf "$1" "$1.log"
  return 0
}

docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# start_dockerd DIR [NETNS] starts a Docker Engine of our own below DIR and sets DOCKER_HOST to it.
# Engines that share a network namespace rewrite each other's rules; NETNS gives it one of its own,
# which in_netns enters. (ip netns exec would hide the cgroup mounts, so nsenter it is.)
# It is in a session of its own, so that Ctrl-C leaves it to stop_dockerd, and ends when we are killed.
start_dockerd() {
  local dir=$1 root=() enter=()
  [ "$(id -u)" = 0 ] || root=(sudo)
  if [ -n "${2:-}" ]; then
    as_root ip netns add "$2"
    as_root ip -n "$2" link set lo up
    enter=(nsenter "--net=/run/netns/$2")
  else
    RULES_BEFORE=$(rules)
  fi
  mkdir -p "$dir/data" "$dir/exec"
  rm -f "$dir/docker.pid" "$dir/exec/containerd/containerd.pid"
  "${root[@]}" "${enter[@]}" setpriv --pdeathsig TERM setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" \
    -H "unix://$dir/docker.sock" --bridge none --live-restore --userland-proxy=false >"$dir/dockerd.log" 2>&1 &
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

# stop_dockerd DIR [NETNS] removes what runs on it and ends it as end_dockerd does.
stop_dockerd() {
  local ids
  ids=$(docker -H "unix://$1/docker.sock" ps -aq 2>/dev/null) && [ -n "$ids" ] && docker -H "unix://$1/docker.sock" rm -f $ids >/dev/null 2>&1
  end_dockerd "$@"
}

# end_dockerd DIR [NETNS] ends an engine of start_dockerd and takes back what it did to the machine: its
# mounts, bridges and packet filter rules. Stopped containers, networks and images stay in DIR.
end_dockerd() {
  local dir=$1 bridges
  bridges=$(docker -H "unix://$dir/docker.sock" network ls -q --no-trunc --filter driver=bridge 2>/dev/null | cut -c1-12 | sed 's/^/br-/')
  [ -f "$dir/docker.pid" ] && as_root kill "$(cat "$dir/docker.pid")" 2>/dev/null
  [ -n "${DOCKERD_JOB:-}" ] && wait "$DOCKERD_JOB" 2>/dev/null
  awk -v d="$dir/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do as_root umount "$m" 2>/dev/null; done
  if [ -n "${2:-}" ]; then as_root ip netns del "$2" 2>/dev/null; else forget_rules "$bridges"; fi
  return 0
}

# rules prints every packet filter rule and chain of this network namespace as "TOOL TABLE LINE".
rules() {
  local tool table
  for tool in iptables ip6tables; do
    for table in filter nat; do as_root "$tool" -t "$table" -S 2>/dev/null | sed "s/^/$tool $table /"; done
  done
}

# forget_rules BRIDGES removes these bridges and the rules that name them. Where no other engine is in this
# network namespace, it also removes the chains that engines make, unless they were there before ours was.
forget_rules() {
  local bridges chains others tool table line kind p bridge
  bridges=$(printf '%s\n' $1 | paste -sd'|')
  others=$(for p in $(pgrep -x dockerd); do [ "$(as_root readlink "/proc/$p/ns/net")" = "$(readlink /proc/self/ns/net)" ] && echo "$p"; done)
  chains=$([ -n "$others" ] || echo DOCKER)
  ours() {
    rules | grep -E -- "${bridges:-^$}" || true
    rules | grep -E -- "${chains:-^$}" | grep -vxF -- "${RULES_BEFORE:-none}" || true
  }
  for kind in A N; do # rules first: a chain has to be empty
    ours | grep -E "^[a-z0-9]+ [a-z]+ -$kind " | sort -u | while read -r tool table line; do
      [ $kind = A ] && line=-D${line#-A} || line=-X${line#-N}
      printf '%s\n' "$line" | as_root xargs "$tool" -w -t "$table" 2>/dev/null # xargs knows its quotes
    done
  done
  [ -n "$others" ] || for tool in iptables ip6tables; do # engines set it to DROP
    grep -qxF "$tool filter -P FORWARD ACCEPT" <<<"${RULES_BEFORE:-}" && as_root "$tool" -w -P FORWARD ACCEPT 2>/dev/null
  done
  for bridge in $1; do as_root ip link del "$bridge" 2>/dev/null; done
  return 0
}
