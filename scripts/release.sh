#!/bin/sh
# Completes a release in dist/: for each binary that make release has built an
# SBOM (CycloneDX), for each program the licences of what is linked into it, and
# the checksums of all of them. The same binaries give the same bytes.
#
#	usage: release.sh VERSION
set -eu
unset CDPATH
case "${1:-}" in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit ;; esac

version=${1:?usage: release.sh VERSION}
cd -- "$(dirname -- "$0")/.."
tools=$PWD/.ci/tools
dist=$PWD/dist
log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
trap 'exit 130' HUP INT TERM

cd device
for program in iot_device iot_core_local iot_fleet; do
	# shellcheck disable=SC2046 # the names have no spaces
	set -- $(find ../dist -maxdepth 1 -name "${program}_*_*" ! -name '*.json' ! -name '*.txt' | LC_ALL=C sort)
	for binary; do
		# It warns that it finds no licence of our own module.
		"$tools/cyclonedx-gomod" bin -json -std -licenses -noserial -notimestamp -version "$version" \
			-output "$binary.cdx.json" "$binary" 2>"$log" || { cat "$log" >&2; exit 1; }
	done
	GOWORK=off "$tools/notices" "$@" >"$dist/${program}_THIRD_PARTY_NOTICES.txt"
done
cd "$dist"
find . -maxdepth 1 -type f -name 'iot_*' | sed 's#^\./##' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
