#!/bin/sh
# Builds what the binary embeds: base.cpio and default.cpio in images/embedded, each compressed (.zst) and with its digest (.sha256).
# Usage: initramfs/build.sh [OUTPUT-DIRECTORY]
#
# The parts (agent, userland) are left in initramfs/.build. The userland, which takes a minute, is rebuilt only when its
# sources are newer.
set -eu
cd "$(dirname "$0")/.."
out=${1:-images/embedded}
parts=$PWD/initramfs/.build
mkdir -p "$out" "$parts"

CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1 GOFLAGS= \
	go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o "$parts/init" ./guestagent/init

if [ ! -f "$parts/userland" ] || [ -n "$(find initramfs/userland -type f -newer "$parts/userland" | head -n 1)" ]; then
	GOFLAGS=-buildvcs=false sh initramfs/userland/build.sh "$parts/userland.new" "$parts/commands"
	touch "$parts/userland.new"
	mv "$parts/userland.new" "$parts/userland"
fi

go build -o "$parts/mkinitramfs" ./initramfs/cmd/mkinitramfs
"$parts/mkinitramfs" -agent "$parts/init" -o "$out/base.cpio"
"$parts/mkinitramfs" -agent "$parts/init" -userland "$parts/userland" -commands "$parts/commands" -o "$out/default.cpio"
