#!/bin/bash
# build-rootfs.sh DEST - makes the Debian root file system that the whole-system tests run, as a tar file DEST.
#
# Debian 12 "minbase" with Python, Perl, a C compiler, procps, SQLite and OpenSSL, from the Debian mirror of the machine's own
# apt configuration. Documentation, locales and caches are left out, and whatever differs between two builds of the same
# packages is made the same (times, the resolver's and host's names, password dates, ldconfig's cache, compiled Python).
#
# Needs root (debootstrap runs package scripts in a chroot) and: debootstrap, wget, tar, python3 inside the result.
# A finished tar is kept in the user's cache directory, under the digest of this script and the mirror's package index.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

suite=bookworm
packages=python3,perl,gcc,libc6-dev,procps,sqlite3,openssl
epoch=1700000000 # times later than this are the build's own and become this

if [ $# != 1 ]; then
	echo "usage: $0 DEST" >&2
	exit 2
fi
dest=$1

# index prints the field $1 of the machine's apt source for the suite's packages.
index() {
	apt-get indextargets --format "$1" 'MetaKey: main/binary-amd64/Packages' "Codename: $suite" | grep -v '^$' | head -n 1
}
if [ -z "$(index '$(FILENAME)')" ] || [ ! -e "$(index '$(FILENAME)')" ]; then
	apt-get update -q >&2
fi
mirror=$(index '$(SITE)')
list=$(index '$(FILENAME)')
if [ -z "$mirror" ] || [ ! -e "$list" ]; then
	echo "$0: apt knows no source for Debian $suite" >&2
	exit 1
fi

key=$(cat "$0" "$list" | sha256sum | cut -d' ' -f1)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/detvm-tests
kept=$cache/debian-$key.tar
mkdir -p "$cache/debs"
if [ -e "$kept" ]; then
	echo "Debian root file system: cached" >&2
	cp --reflink=auto "$kept" "$dest"
	exit
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/detvm-debian.XXXXXX")
clean() {
	umount -q "$work/root/proc" "$work/root/sys" 2>/dev/null || true # left by an interrupted debootstrap
	rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
root=$work/root

echo "Debian root file system: debootstrap $suite" >&2
if ! debootstrap --variant=minbase --include="$packages" --cache-dir="$cache/debs" "$suite" "$root" "$mirror" >"$work/log" 2>&1; then
	tail -n 20 "$work/log" >&2
	exit 1
fi
umount -q "$root/proc" "$root/sys" 2>/dev/null || true

cd "$root"
# What no test reads: documentation, translations, the sanitizers' and profilers' parts of the compiler, tests of libraries.
rm -rf usr/share/{doc,man,info,locale,i18n,lintian,linda,doc-base,bug,gdb} usr/share/zoneinfo/right usr/lib/python3*/test \
	usr/lib/x86_64-linux-gnu/{gprofng,perl/*/CORE}
find usr/lib/gcc usr/lib/x86_64-linux-gnu \( -name 'lib[alt]san*' -o -name 'libhwasan*' -o -name 'libubsan*' -o -name 'libitm*' \
	-o -name 'lto1' -o -name 'libgprofng*' \) -delete
rm -f usr/bin/*lto-dump* usr/bin/*gprofng* usr/bin/*-gp-* usr/bin/gp-* usr/bin/*dwp usr/bin/*ld.gold
# What the build left behind.
rm -rf var/cache/* var/lib/apt/lists/* var/log/* var/lib/dpkg/*-old run/* tmp/* debootstrap etc/.pwd.lock
mkdir -p var/cache/apt/archives/partial var/lib/apt/lists/partial var/log/apt
: >etc/machine-id
: >etc/resolv.conf
: >etc/apt/sources.list
echo detvm >etc/hostname
sed -i -E 's/^([^:]*:[^:]*):[0-9]+:/\1:19000:/' etc/shadow
rm -f etc/shadow- etc/gshadow- etc/passwd- etc/group-
# Compiled Python goes by the source's hash and is not checked again, so that file times do not matter.
find usr -name __pycache__ -type d -prune -exec rm -rf {} +
PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 chroot . /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash \
	-x 'lib2to3|idlelib|turtledemo|ensurepip' $(cd "$root" && echo usr/lib/python3.*) usr/lib/python3 >&2
cd "$OLDPWD"

tar --create --file="$work/rootfs.tar" --directory="$root" --sort=name --mtime="@$epoch" --clamp-mtime --numeric-owner \
	--format=pax --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime --xattrs --xattrs-include='*' \
	--exclude='./proc/*' --exclude='./sys/*' .
rm -f "$cache"/debian-*.tar
mv "$work/rootfs.tar" "$kept.$$"
mv "$kept.$$" "$kept"
cp --reflink=auto "$kept" "$dest"
