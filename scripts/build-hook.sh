#!/bin/sh
# Builds the pre-provisioning hook, or another function of its module, as Lambda's
# provided.al2023 runtime needs it.
# The same source and the same Go give the same bytes, in whatever folder.
set -eu
unset CDPATH

usage() {
	cat <<-'END'
		usage: build-hook.sh OUT [arm64|x86_64 [PACKAGE]]

		Builds the pre-provisioning hook as the file OUT (for Lambda, name it
		bootstrap), for Linux on the given architecture; the default is arm64. PACKAGE
		names another function, ./cmd/retire.
	END
}

case "${1:-}" in
-h | --help) usage && exit 0 ;;
esac
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
	usage >&2
	exit 2
fi

case "${2:-arm64}" in
arm64 | aarch64) goarch=arm64 ;;
x86_64 | amd64) goarch=amd64 ;;
*)
	echo "build-hook.sh: error: unknown architecture $2: give arm64 or x86_64" >&2
	exit 2
	;;
esac

case "$1" in
/*) out=$1 ;;
*) out=$PWD/$1 ;;
esac

go=${GO:-go}
if ! command -v "$go" >/dev/null; then
	echo "build-hook.sh: error: go is not installed: get it from https://go.dev/dl/" >&2
	exit 1
fi

# Whatever in the caller's environment could change the bytes is set here; where it
# is empty, what go env -w has written counts. Lambda runs a function as another user
# than its file's owner, and the CDK's archive keeps the file's mode.
umask 022
# AWS's SDK takes half the time and memory to compile without inlining, and is no slower.
cd -- "$(dirname -- "$0")/../hook"
exec env GOWORK=off GOFLAGS=-buildvcs=false GOEXPERIMENT= GOFIPS140=off \
	CGO_ENABLED=0 GOOS=linux GOARCH="$goarch" GOARM64=v8.0 GOAMD64=v1 \
	"$go" build -trimpath -gcflags=github.com/aws/...=-l -tags lambda.norpc -ldflags '-s -w -buildid=' -o "$out" "${3:-.}"
