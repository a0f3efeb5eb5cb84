#!/usr/bin/env bash
# Makes a Docker image out of Debian packages, without an image registry.
#
#   mkimage.sh TAG PACKAGE...
#
# apt resolves the packages' closure as if nothing were installed and checks the signatures; the
# files are unpacked and no maintainer script runs. That suits game servers: they need libraries and
# data, not services or users. The image runs as 988:988 ("container") in /home/container.
#
# Nothing is done when the engine (DOCKER_HOST) has TAG already. The root file system is kept in the
# cache under a hash of what it is made of, so that an engine that has nothing gets the image in
# seconds; it then has the packages of the day when it was made. Remove the cache for newer ones.
#
#   MAMBA_CACHE    where downloads and root file systems are kept (default: .cache in the current folder)
#   OVERLAY        a folder with an executable "fill" that is called with the root to add files to
#                  (default: none); the folder's content is part of the hash
#   DROP           extended regular expression of package names to leave out
set -euo pipefail

if [ $# -lt 2 ]; then
	sed -n 's/^# \{0,1\}//; 2,/^set /{/^set /!p}' "$0" >&2
	exit 64
fi
tag=$1
shift

if docker image inspect "$tag" >/dev/null 2>&1; then
	echo "$tag is there already"
	exit 0
fi

MAMBA_CACHE=${MAMBA_CACHE:-$PWD/.cache}
mkdir -p "$MAMBA_CACHE/debs/partial" "$MAMBA_CACHE/rootfs"
MAMBA_CACHE=$(cd "$MAMBA_CACHE" && pwd)
export MAMBA_CACHE
exec 9>"$MAMBA_CACHE/rootfs/.lock"
flock 9 # two builds share the downloads, one after the other

import_rootfs() {
	docker import \
		--change 'USER 988:988' \
		--change 'WORKDIR /home/container' \
		--change 'ENV HOME=/home/container PATH=/usr/games:/usr/bin:/usr/sbin LANG=C.UTF-8' \
		"$1" "$tag" >/dev/null
	echo "made $tag ($(docker image inspect --format '{{.Size}}' "$tag" | awk '{printf "%d MB", $1 / 1e6}'))"
}

key=$({
	cat "$0"
	echo "$* ${DROP:-}"
	if [ -n "${OVERLAY:-}" ]; then
		(cd "$OVERLAY" && find . -type f -print0 | sort -z | xargs -0 sha256sum)
	fi
} | sha256sum | cut -c1-16)
name=${tag//[\/:]/_}
kept=$MAMBA_CACHE/rootfs/$name-$key.tar
if [ -e "$kept" ]; then
	import_rootfs "$kept"
	exit 0
fi

cache=$MAMBA_CACHE/debs
root=$(mktemp -d)
trap 'rm -rf "$root" "$kept.part"' EXIT

: >"$cache/.status"
apt=(apt-get
	-o "Dir::State::status=$cache/.status"
	-o "Dir::Cache::archives=$cache"
	-o APT::Install-Recommends=0
	-o APT::Sandbox::User=root
	-o Debug::NoLocking=1)

# What the closure holds that a container without services never uses.
drop=${DROP:-^(adduser|cdebconf|debconf|dpkg|init-system-helpers|libdebconfclient0|lsb-base|passwd|perl-base|sysvinit-utils|tar)$}

# "Inst NAME (VERSION SOURCES... [ARCHITECTURE])" for each package, in the order of installation.
closure=$("${apt[@]}" --simulate install "$@" |
	sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) [^[]*\[\([a-z0-9]*\)\].*/\1 \2 \3/p')
"${apt[@]}" --quiet=2 --assume-yes --download-only install "$@" >/dev/null

# A merged /usr must be there before the first package that still ships /bin or /lib.
for dir in bin sbin lib lib64; do
	mkdir -p "$root/usr/$dir"
	ln -s "usr/$dir" "$root/$dir"
done
while read -r name version arch; do
	if [[ $name =~ $drop ]]; then continue; fi
	dpkg-deb --fsys-tarfile "$cache/${name}_${version//:/%3a}_${arch}.deb" |
		tar -x -C "$root" --keep-directory-symlink \
			--exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/info \
			--exclude=./usr/share/locale --exclude=./usr/share/lintian --exclude=./usr/share/bug \
			--exclude=./usr/lib/systemd --exclude=./lib/systemd --exclude=./etc/init.d
done <<<"$closure"

mkdir -p "$root"/{dev,etc,home/container,mnt/install,proc,run,sys,tmp,var/tmp}
cat >"$root/etc/passwd" <<-'PASSWD'
	root:x:0:0:root:/root:/bin/sh
	container:x:988:988::/home/container:/bin/sh
	nobody:x:65534:65534:nobody:/:/usr/sbin/nologin
PASSWD
printf 'root:x:0:\ncontainer:x:988:\nnogroup:x:65534:\n' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
if [ -n "${OVERLAY:-}" ]; then
	"$OVERLAY/fill" "$root"
fi
if [ ! -e "$root/usr/bin/sh" ]; then # what a maintainer script would have linked
	for shell in dash bash busybox; do
		if [ -e "$root/usr/bin/$shell" ]; then
			ln -s "$shell" "$root/usr/bin/sh"
			break
		fi
	done
fi
ldconfig -r "$root" 2>/dev/null || true # an image of static programs has no /etc/ld.so.conf
chown -R 0:0 "$root"
chown 988:988 "$root/home/container"
chmod 755 "$root"
chmod 1777 "$root/tmp" "$root/var/tmp"

tar -C "$root" --sort=name --mtime=@0 --numeric-owner -cf "$kept.part" .
rm -f "$MAMBA_CACHE/rootfs/$name"-*.tar # of an older content
mv "$kept.part" "$kept"
import_rootfs "$kept"
