#!/bin/bash
# Build the guest kernel: build.sh OUT WORK
#
# Unpacks Debian's linux-source-6.1 below WORK (must not exist or be empty), applies patches/*.patch, configures with detvm.config
# on top of allnoconfig, and leaves in OUT: vmlinux.zst, System.map.zst, symbols.json, RECIPE and SHA256SUMS (of the uncompressed files).
# Nothing in the result depends on where or when it is built. Needs: linux-source-6.1 gcc make flex bison bc libelf-dev xz-utils zstd patch.
set -euo pipefail
export LC_ALL=C TZ=UTC
umask 022

[ $# = 2 ] || { echo "usage: $0 OUT WORK" >&2; exit 2; }
mkdir -p "$1" "$2"
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$1" && pwd)
work=$(cd "$2" && pwd)
source=${LINUX_SOURCE:-/usr/src/linux-source-6.1.tar.xz}
jobs=${JOBS:-$(nproc)}
[ -z "$(ls -A "$work")" ] || { echo "$work is not empty" >&2; exit 2; }

echo "unpack $source"
tar -C "$work" -xf "$source"
cd "$work"/linux-source-6.1
for p in "$here"/patches/*.patch; do
	echo "apply $(basename "$p")"
	patch -s -p1 --no-backup-if-mismatch <"$p"
done
cp "$here"/offsets.c kernel/detvm_offsets.c

export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_USER=detvm KBUILD_BUILD_HOST=detvm KBUILD_BUILD_VERSION=1
export KCFLAGS="-ffile-prefix-map=$PWD/="
unset LOCALVERSION KCONFIG_CONFIG CROSS_COMPILE ARCH MAKEFLAGS
make -s KCONFIG_ALLCONFIG="$here"/detvm.config allnoconfig
lost=0
while read -r line; do
	case $line in
	CONFIG_*=*) grep -qxF -- "$line" .config || { echo "configuration lost: $line" >&2; lost=1; } ;;
	'# CONFIG_'*' is not set')
		symbol=${line#\# } symbol=${symbol%% *}
		if grep -q "^$symbol=" .config; then echo "configuration kept: $symbol" >&2; lost=1; fi ;;
	esac
done <"$here"/detvm.config
[ $lost = 0 ]

echo "compile with $jobs jobs"
make -s -j"$jobs" LOCALVERSION= vmlinux
make -s LOCALVERSION= kernel/detvm_offsets.s

strip --strip-all --remove-section=.comment -o "$out"/vmlinux vmlinux
# Functions only, address and name: what a report needs to name an instruction pointer.
awk '$2 ~ /^[tTwW]$/ { print $1, $3 }' System.map >"$out"/System.map
offset() { sed -n "s/^\.ascii \"->$1 \\$\([0-9]*\).*/\1/p" kernel/detvm_offsets.s; }
symbol() { awk -v n="$1" '$3 == n { print $1; exit }' System.map; }
cat >"$out"/symbols.json <<JSON
{
  "release": "$(make -s LOCALVERSION= kernelrelease)",
  "current_task": "0x$(symbol current_task)",
  "task_struct_pid": $(offset task_struct_pid),
  "task_struct_tgid": $(offset task_struct_tgid),
  "task_struct_comm": $(offset task_struct_comm),
  "task_comm_len": $(offset task_comm_len),
  "text": "0x$(symbol _stext)",
  "etext": "0x$(symbol _etext)"
}
JSON
cat >"$out"/RECIPE <<TEXT
linux-source-6.1 $(dpkg-query -W -f '${Version}' linux-source-6.1 2>/dev/null || echo unknown)
$(sha256sum <"$source" | cut -d' ' -f1) $(basename "$source")
$(gcc --version | head -1)
$(ld --version | head -1)
TEXT
chmod 644 "$out"/vmlinux
cd "$out"
sha256sum System.map symbols.json vmlinux >SHA256SUMS
zstd -q -f -19 --rm vmlinux -o vmlinux.zst
zstd -q -f -19 --rm System.map -o System.map.zst
cat SHA256SUMS
ls -l vmlinux.zst System.map.zst
