#!/bin/sh
# Rehearses a deployment on this machine, with no AWS account: synthesizes the
# stack as a deployment does, but with the hook built for this machine, has
# iot_core_local play it, and does the main job against it.
set -eu

usage() {
	cat <<-'END'
		usage: rehearse.sh [-c NAME=VALUE]...

		The options are those of cdk deploy. The claim certificate is that of
		CERTIFICATE_ARN, by default one that exists nowhere: a claim of
		iot_core_local stands in for it. make rehearse builds what it needs.
	END
}

die() {
	echo "rehearse.sh: error: $*" >&2
	exit 1
}

case "${1:-}" in
'' | -c | --context) ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

case $(go env GOARCH) in
amd64) architecture=x86_64 ;;
arm64) architecture=arm64 ;;
*) die "AWS Lambda has no $(go env GOARCH), so that the hook cannot be rehearsed here" ;;
esac
nowhere=arn:aws:iot:us-east-1:123456789012:cert/0000000000000000000000000000000000000000000000000000000000000000
certificate=${CERTIFICATE_ARN:-$nowhere}

scripts=$(cd -- "$(dirname -- "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

printf '\n== The stack that cdk deploy sends to AWS, with its hook for %s\n' "$architecture"
cd "$scripts/../infra"
[ -x node_modules/.bin/cdk ] || die "the CDK command line is not installed: run npm ci in infra/"
AWS_EC2_METADATA_DISABLED=true node_modules/.bin/cdk synth --quiet --no-notices --output "$work/cdk.out" \
	-c "certificateArn=$certificate" "$@" -c "hookArchitecture=$architecture" >"$work/cdk.log" 2>&1 || {
	cat "$work/cdk.log" >&2
	die "cdk synth failed: its messages are above"
}
(cd "$work/cdk.out" && ls -- *.template.json)

"$scripts/demo.sh" --assembly "$work/cdk.out"
