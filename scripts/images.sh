#!/bin/sh
# Makes container images of the binaries for Linux in dist/, which make release
# builds: an OCI layout for each program in FOLDER. Where there is no git, COMMIT
# and SOURCE_DATE_EPOCH have to be set.
#
#	usage: images.sh VERSION FOLDER
set -eu
unset CDPATH
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac

if [ $# -ne 2 ]; then
	echo "usage: images.sh VERSION FOLDER" >&2
	exit 2
fi
version=$1
mkdir -p "$2"
folder=$(cd -- "$2" && pwd)
cd -- "$(dirname -- "$0")/.."
commit=${COMMIT:-$(git rev-parse HEAD)}
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
stage=$(mktemp -d)
trap 'rm -rf -- "$stage"' EXIT
trap 'exit 130' HUP INT TERM

for architecture in amd64 arm64; do
	for program in iot_device iot_core_local iot_fleet; do
		ln "dist/${program}_linux_$architecture" "$stage/" 2>/dev/null || cp "dist/${program}_linux_$architecture" "$stage/"
	done
	scripts/build-hook.sh "$stage/hook_$architecture" "$architecture"
done
for program in iot_device iot_core_local iot_fleet; do
	set -- "$stage/${program}"_linux_*
	if [ "$program" = iot_core_local ]; then set -- "$@" "$stage"/hook_*; fi
	(cat LICENSE && cd device && GOWORK=off ../.ci/tools/notices "$@") \
		>"$stage/${program}_THIRD_PARTY_NOTICES.txt"
done
.ci/tools/images "$version" "$commit" "$time" "$stage" "$folder"
