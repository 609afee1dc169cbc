#!/bin/bash
# make demo: run a command twice in a deterministic Linux, record it, replay it, and compare.
set -euo pipefail
detvm=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
command='echo "hello from $(uname -s) at $(date -u +%H:%M:%S)"; head -c 8 /dev/urandom | hexdump; sleep 3600; date'

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
field() { sed -n "s/^  \"$2\": \"*\([^\",]*\)\"*,*$/\1/p" "$1"; }

say "1. A shell script in Linux: it reads the clock and the random pool, and sleeps for an hour"
echo "   $command"
"$detvm" run --json "$dir/1.json" --record "$dir/1.dtr" -- sh -c "$command"

say "2. Again"
"$detvm" run --json "$dir/2.json" --record "$dir/2.dtr" -- sh -c "$command"

say "3. Both runs, bit for bit"
for f in stdout_sha256 state_sha256 trace_root exits virtual_time_ns engine clock; do
	a=$(field "$dir/1.json" $f) b=$(field "$dir/2.json" $f)
	printf '   %-16s %s\n   %-16s %s\n' "$f" "$a" "" "$b"
	[ "$a" = "$b" ] || { echo "DIFFERENT" >&2; exit 1; }
done

say "4. Replay: every recorded event comes again"
"$detvm" replay "$dir/1.dtr"

say "5. Another seed changes the random bytes and nothing else"
"$detvm" run --seed 1 -- sh -c "$command"
say "equal: yes"
