#!/bin/sh
# Builds the default userland: one multi-call binary and the list of its commands.
# Usage: build.sh BINARY COMMANDS
#
# Module versions come from go.mod here. Two builds with one Go toolchain give the same bytes.
set -eu
cd "$(dirname "$0")"
binary=$1 commands=$2
case $binary in /*) ;; *) echo "build.sh: paths must be absolute" >&2; exit 2 ;; esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CGO_ENABLED=0 GOOS=linux GOARCH=amd64 GOAMD64=v1

go list -e -tags userland -f '{{join .Imports "\n"}}' . | grep '^github.com/u-root/u-root/cmds/' >"$tmp/paths"
go list ./cmd/... >>"$tmp/paths"
GOOS= GOARCH= go build -o "$tmp/makebb" github.com/u-root/gobusybox/src/cmd/makebb
# shellcheck disable=SC2046 # one argument for each line is what we want
"$tmp/makebb" -o "$binary" $(cat "$tmp/paths") >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
sed 's,.*/,,' "$tmp/paths" | LC_ALL=C sort >"$commands"
