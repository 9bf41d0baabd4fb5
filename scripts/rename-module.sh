#!/bin/sh
# Gives the Go modules of this repository a path of your own: it changes the
# module paths, the imports and whatever else names them, in the files that git
# knows.
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
# die CODE TEXT…
die() {
	code=$1 && shift
	echo "rename-module.sh: error: $*" >&2
	exit "$code"
}
case "${1:-}" in -h | --help) help && exit ;; esac
[ $# -eq 1 ] || usage
new=${1%/}
case $new in
-*) usage ;;
*//* | /* | *[!a-zA-Z0-9./_~-]* | */. | */.. | */../* | */./*) die 2 "$new is no module path: write it as in github.com/YOU/fleet" ;;
*/device | */hook | */infra) die 2 "give the path of the repository, without /${new##*/}" ;;
*.*/*) ;;
*) die 2 "$new cannot be fetched: a module path begins with a host name, as in github.com/YOU/fleet" ;;
esac

cd -- "$(dirname -- "$0")/.."
# All of it is read before it runs, for it can change this file.
main() {
	old=$(sed -n 's#^module \(.*\)/device$#\1#p' device/go.mod)
	[ -n "$old" ] || die 1 "device/go.mod has no module path that ends in /device"
	[ "$old" != "$new" ] || exit 0
	git ls-files --error-unmatch device/go.mod >/dev/null || die 1 "git does not know the files: run git init and git add . first"

	# The old path where a word ends: not where another begins with it.
	pattern=$(printf '%s' "$old" | sed 's/[.]/\\./g')
	# Without a suffix, the option is another one in each sed. This one is nobody else's.
	suffix=.rename-module-$$
	trap 'git ls-files -oz "*$suffix" | xargs -0 rm -f --' EXIT
	trap 'exit 130' HUP INT TERM
	git grep -lIz -e "$old" | xargs -0 sed -i"$suffix" "s#$pattern\([^a-zA-Z0-9_-]\|\$\)#$new\1#g"
	# Imports and requirements are sorted by path.
	git ls-files '*.go' | xargs gofmt -w
	for module in device hook infra; do (cd "$module" && go mod edit -fmt); done
	exit
}
main
