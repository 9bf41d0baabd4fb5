#!/bin/sh
# Gives the Go modules of this repository a path of your own: it changes the module
# paths, the imports and whatever else names them, in the files that git knows.
#
#	usage: rename-module.sh MODULE_PATH
#
# MODULE_PATH is where the repository can be fetched from, such as
# github.com/YOU/fleet: the modules become MODULE_PATH/device, MODULE_PATH/hook
# and MODULE_PATH/infra.
set -eu
unset CDPATH

help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }
usage() { help >&2 && exit 2; }
case "${1:-}" in -h | --help) help && exit ;; esac
[ $# -eq 1 ] || usage
new=${1%/}
case $new in
*//* | /* | -* | *[!a-zA-Z0-9./_~-]* | */. | */.. | */../* | */./*) usage ;;
*.*/*) ;; # the first element of a path that can be fetched has a dot
*) usage ;;
esac
case $new in
*/device | */hook | */infra)
	echo "rename-module.sh: error: give the path of the repository, without /${new##*/}" >&2
	exit 2
	;;
esac

cd -- "$(dirname -- "$0")/.."
# All of it is read before it runs, for it can change this file.
main() {
	old=$(sed -n 's#^module \(.*\)/device$#\1#p' device/go.mod)
	[ -n "$old" ] || { echo "rename-module.sh: error: device/go.mod has no module path that ends in /device" >&2; exit 1; }
	[ "$old" != "$new" ] || exit 0
	git ls-files --error-unmatch device/go.mod >/dev/null || {
		echo "rename-module.sh: error: git does not know the files: run git init and git add . first" >&2
		exit 1
	}

	# The old path where a word ends: not where another begins with it.
	pattern=$(printf '%s' "$old" | sed 's/[.]/\\./g')
	work=$(mktemp)
	trap 'rm -f -- "$work"' EXIT
	trap 'exit 130' HUP INT TERM
	git grep -lI -e "$old" | while read -r file; do
		sed "s#$pattern\([^a-zA-Z0-9_-]\|\$\)#$new\1#g" "$file" >"$work"
		cat "$work" >"$file"
	done
	# Imports and requirements are sorted by path.
	git ls-files '*.go' | xargs gofmt -w
	for module in device hook infra; do (cd "$module" && go mod edit -fmt); done
	exit
}
main
