#!/bin/bash
# Rebuild the guest kernel in a fresh directory and compare with the committed checksums: check.sh [WORK]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/detvm-kernel-check.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$here"/build.sh "$work"/out "$work"/build
if ! diff "$here"/SHA256SUMS "$work"/out/SHA256SUMS; then
	echo "the rebuilt guest kernel differs from the committed one; recipes:" >&2
	diff "$here"/RECIPE "$work"/out/RECIPE >&2 || true
	exit 1
fi
for f in vmlinux System.map; do
	[ "$(zstd -dc "$here"/$f.zst | sha256sum | cut -d' ' -f1)" = "$(awk -v f=$f '$2 == f { print $1 }' "$here"/SHA256SUMS)" ] ||
		{ echo "the committed $f.zst does not have the committed checksum" >&2; exit 1; }
done
echo "guest kernel: rebuilt bit for bit"
