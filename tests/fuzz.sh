#!/bin/bash
# Run every fuzz target of the module for a while each: fuzz.sh TIME (a duration of go test, such as 5s).
set -euo pipefail
time=${1:-5s}
status=0
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		echo "fuzz $pkg $target for $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$pkg" || status=1
	done
done
exit $status
