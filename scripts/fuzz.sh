#!/bin/sh
# Runs every fuzz target of the hook and the device for a number of inputs, one
# package per processor at a time. Not infra's: instrumenting the CDK takes
# minutes, and its seeds run with its tests.
#
#	usage: fuzz.sh [COUNT]
#
# COUNT is that of inputs for each target, such as 500x, or a time.
set -eu
unset CDPATH
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac

count=${1:-500x}
go=${GO:-go}
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' HUP INT TERM

# fuzz_package builds the instrumented tests of a folder once and runs its
# targets one by one in that folder, where their seeds are.
cat >"$work/fuzz_package" <<-'END'
	#!/bin/sh
	set -eu
	folder=$1
	binary=$(mktemp "$WORK/XXXXXX")
	(cd "$folder" && "$GO" test -c -fuzz . -o "$binary" .)
	targets=$(git grep -hE '^func Fuzz' -- "$folder/*_test.go" ":(exclude)$folder/*/*" | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/')
	for target in $targets; do
		echo "fuzzing $folder $target"
		(cd "$folder" && "$binary" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$COUNT" \
			-test.fuzzminimizetime 1s -test.parallel 1 -test.fuzzcachedir "$binary.cache" >"$binary.log" 2>&1) ||
			{ cat "$binary.log" >&2; exit 255; }
	done
END
chmod +x "$work/fuzz_package"

export WORK="$work" GO="$go" COUNT="$count"
git grep -lE '^func Fuzz' -- 'hook/*_test.go' 'device/*_test.go' | xargs -n1 dirname | sort -u |
	xargs -n1 -P"$(getconf _NPROCESSORS_ONLN)" "$work/fuzz_package"
