#!/bin/sh
# Makes packages of the binaries for Linux in dist/, which make release builds:
# .deb, .rpm, .apk and .ipk in FOLDER. The same binaries give the same bytes.
# Where there is no git, SOURCE_DATE_EPOCH has to be set.
#
#	usage: packages.sh VERSION FOLDER [PROGRAM/FORMAT/ARCHITECTURE…]
set -eu
unset CDPATH
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac

if [ $# -lt 2 ]; then
	echo "usage: packages.sh VERSION FOLDER [PROGRAM/FORMAT/ARCHITECTURE…]" >&2
	exit 2
fi
version=$1
mkdir -p "$2"
folder=$(cd -- "$2" && pwd)
shift 2
cd -- "$(dirname -- "$0")/.."
go=${GO:-go}

# What git describe prints is the last tag and the commits since: v1.2.3-rc.1-4-gabc.
# Each format has its own way to sort a pre-release before and commits after a
# version: 1.2.3~rc.1+git4, in apk 1.2.3_rc1_git4; rpm takes no hyphen. Without a
# tag, all commits count.
case $version in
v[0-9]*.[0-9]*.[0-9]*) ;;
*) version=v0.0.0-$(git rev-list --count HEAD)-g ;;
esac
numbers=$(echo "$version" | sed 's/^v\([0-9.]*\).*/\1/')
commits=$(echo "$version" | sed -n 's/.*-\([0-9]*\)-g[0-9a-f]*\(-dirty\)\{0,1\}$/\1/p')
pre=$(echo "$version" | sed 's/-dirty$//; s/-[0-9]*-g[0-9a-f]*$//; s/+.*//; s/^v[0-9.]*-\{0,1\}//; s/-/./g')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# Which architecture has which format. An armhf .deb is for ARMv6, so that it runs
# on a Raspberry Pi Zero too.
if [ $# -eq 0 ]; then
	for architecture in amd64 arm64 386 riscv64; do
		set -- "$@" "iot_device/deb/$architecture" "iot_device/rpm/$architecture" \
			"iot_device/apk/$architecture" "iot_device/ipk/$architecture"
	done
	set -- "$@" iot_device/deb/arm5 iot_device/deb/arm6 iot_device/deb/mipsle iot_device/rpm/arm7 \
		iot_device/apk/arm6 iot_device/apk/arm7 iot_device/ipk/arm5 iot_device/ipk/arm7 iot_device/ipk/mipsle
	for format in deb rpm apk; do
		for program in iot_core_local iot_fleet; do
			set -- "$@" "$program/$format/amd64" "$program/$format/arm64"
		done
	done
fi

stage=$(mktemp -d)
trap 'rm -rf -- "$stage"' EXIT
trap 'exit 130' HUP INT TERM
# nfpm takes the time of a maintainer script from the file.
cp -R device/packaging "$stage/packaging"
find "$stage/packaging" -type f -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
nfpm=$PWD/.ci/tools/nfpm
for package; do
	program=${package%%/*}
	ARCH=${package##*/}
	format=${package#*/}
	format=${format%/*}
	BINARY=$PWD/dist/${program}_linux_$(echo "$ARCH" | sed 's/^arm\([567]\)$/armv\1/')
	STAGE=$stage/$program
	HOOK=
	if [ "$program" = iot_core_local ]; then
		HOOK=$stage/hook_$ARCH
		[ -e "$HOOK" ] || scripts/build-hook.sh "$HOOK" "$ARCH"
	fi
	VERSION=$numbers${pre:+~$pre}${commits:++git$commits}
	if [ "$format" = apk ]; then
		VERSION=$numbers${pre:+_$(echo "$pre" | tr -d .)}${commits:+_git$commits}
	fi
	export ARCH BINARY HOOK STAGE VERSION
	if [ ! -d "$STAGE" ]; then
		mkdir "$STAGE"
		(cd device && "$go" run ./internal/cli/manual "$program" "$STAGE")
		gzip -9n "$STAGE"/man1/*
		(cat LICENSE && cd device && GOWORK=off ../.ci/tools/notices "$BINARY" ${HOOK:+"$HOOK"}) >"$STAGE/copyright"
		chmod -R u=rwX,go=rX "$STAGE"
	fi
	(cd "$stage" && "$nfpm" package --config "packaging/nfpm/$program.yaml" --packager "$format" --target "$folder/") \
		>"$stage/log" || { cat "$stage/log" >&2; exit 1; }
done
