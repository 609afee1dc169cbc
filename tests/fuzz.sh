#!/bin/bash
# Run every fuzz target of the module for a while each: fuzz.sh TIME (a duration of go test, such as 5s).
set -euo pipefail
time=${1:-5s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

# fuzz PACKAGE TARGET. The go command now and then reports its own end of time as a failure ("context deadline exceeded", no failing input):
# such a run is repeated once; a run with a failing input never is.
fuzz() {
	local try
	for try in 1 2; do
		if go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 20x "$1" >"$log" 2>&1; then
			return 0
		fi
		grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log" || break
	done
	cat "$log"
	return 1
}

targets=0
for pkg in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$pkg" | grep '^Fuzz' || true); do
		targets=$((targets + 1))
		fuzz "$pkg" "$target" || status=1
	done
done
echo "fuzzed $targets targets for $time each"
exit $status
