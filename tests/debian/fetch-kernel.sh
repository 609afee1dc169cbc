#!/bin/bash
# fetch-kernel.sh DEST - gets the bzImage of Debian's stock cloud kernel (linux-image-cloud-amd64), as Debian built it, as the file DEST.
#
# The package comes from the mirror of the machine's own apt configuration and is unpacked, not installed. A finished kernel is kept in the
# user's cache directory, under the name and version of its package. Needs no root; needs apt-get and dpkg-deb.
set -euo pipefail
export LC_ALL=C
umask 022

if [ $# != 1 ]; then
	echo "usage: $0 DEST" >&2
	exit 2
fi
dest=$1

# package is what the metapackage stands for today.
package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*-cloud-amd64\)$/\1/p' | head -n 1; }
name=$(package)
if [ -z "$name" ]; then
	echo "$0: apt knows no package linux-image-cloud-amd64" >&2
	exit 1
fi
version=$(apt-cache show --no-all-versions "$name" | sed -n 's/^Version: //p' | head -n 1)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/detvm-tests
kept=$cache/$name-${version//[^0-9A-Za-z.+~-]/_}.vmlinuz
mkdir -p "$cache"
if [ -e "$kept" ]; then
	echo "Debian cloud kernel: cached" >&2
	cp --reflink=auto "$kept" "$dest"
	exit
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/detvm-kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
echo "Debian cloud kernel: $name $version" >&2
(cd "$work" && apt-get download -q "$name=$version" >log 2>&1) || {
	cat "$work/log" >&2
	exit 1
}
dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work" --wildcards './boot/vmlinuz-*'
rm -f "$cache"/linux-image-*.vmlinuz
mv "$work"/boot/vmlinuz-* "$kept.$$"
mv "$kept.$$" "$kept"
cp --reflink=auto "$kept" "$dest"
