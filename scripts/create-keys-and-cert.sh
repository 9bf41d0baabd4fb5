#!/bin/sh
# Creates the claim: the key and certificate that every new device carries and
# exchanges for its own. Prints the certificate's ARN, which the CDK app needs.
#
# AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
set -eu
unset CDPATH
export AWS_CLI_AUTO_PROMPT=off # in a script nobody answers

usage() {
	cat <<-'END'
		usage: create-keys-and-cert.sh [--force]

		Creates an active claim certificate with the aws command line, writes
		certs/fleet-provisioning.certificate.pem, .private.key and .public.key,
		and prints the certificate's ARN.

		  --force   replace the claim that is there

		Needs the aws command line, with credentials and a Region.
	END
}

die() {
	echo "create-keys-and-cert.sh: error: $*" >&2
	exit 1
}

force=false
for argument; do
	case $argument in
	--force) force=true ;;
	-h | --help) usage && exit 0 ;;
	*) usage >&2 && exit 2 ;;
	esac
done

command -v aws >/dev/null ||
	die "the aws command line is not installed: see https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"

certs=$(cd -- "$(dirname -- "$0")/.." && pwd)/certs
claim=$certs/fleet-provisioning
for file in "$claim.certificate.pem" "$claim.private.key" "$claim.public.key"; do
	[ ! -d "$file" ] || die "$file is a folder, such as a container engine makes of a file that is not there: remove it"
	if [ -e "$file" ] && ! $force; then
		die "$file is there already: use that claim, or replace it with --force (it stays active in AWS IoT until you deactivate it)"
	fi
done

umask 077 # no other user can read the key, not even while it is written
mkdir -p -- "$certs" || die "cannot make the folder $certs"
work=$(mktemp -d "$certs/.fleet-provisioning.XXXXXX") || die "cannot write to the folder $certs"
trap 'rm -rf -- "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# hint prints what to do about the aws command line's message on standard input.
hint() {
	case $(cat) in
	*'locate credentials'* | *'NoCredentials'* | *'config profile'*)
		echo "there are no AWS credentials: run aws configure, or set AWS_PROFILE" ;;
	*'specify a region'* | *'NoRegion'*)
		echo "there is no AWS Region: run aws configure, or set AWS_DEFAULT_REGION" ;;
	*'ExpiredToken'* | *'InvalidClientTokenId'* | *'UnrecognizedClient'* | *'security token'* | *'Token has expired'*)
		echo "AWS does not accept the credentials: renew them (aws sts get-caller-identity checks them)" ;;
	*'AccessDenied'* | *'not authorized'*)
		echo "the credentials do not allow iot:CreateKeysAndCertificate: ask for that permission" ;;
	*'connect to the endpoint'* | *'onnection'* | *'timeout'*)
		echo "AWS cannot be reached: check the network, the proxy and the Region" ;;
	*)
		echo "the aws command line failed: its message is above" ;;
	esac
}

if ! arn=$(aws iot create-keys-and-certificate --set-as-active \
	--certificate-pem-outfile "$work/certificate.pem" \
	--private-key-outfile "$work/private.key" \
	--public-key-outfile "$work/public.key" \
	--query certificateArn --output text 2>"$work/message"); then
	cat "$work/message" >&2
	die "creating the claim certificate: $(hint <"$work/message"): nothing was written"
fi
cat "$work/message" >&2

case $arn in
arn:*:iot:*:cert/*) ;;
*) die "creating the claim certificate: the aws command line answered \"$arn\" instead of an ARN: nothing was written" ;;
esac
for file in certificate.pem private.key public.key; do
	[ -s "$work/$file" ] ||
		die "the aws command line created $arn but did not write its $file: nothing was written; deactivate and delete that certificate"
done
chmod 0644 "$work/certificate.pem" "$work/public.key"

trap '' HUP INT TERM # the three files belong together
mv -f -- "$work/private.key" "$claim.private.key"
mv -f -- "$work/public.key" "$claim.public.key"
mv -f -- "$work/certificate.pem" "$claim.certificate.pem"

echo "create-keys-and-cert.sh: wrote $claim.certificate.pem, .private.key and .public.key" >&2
echo "create-keys-and-cert.sh: next, in infra/: npx cdk deploy -c certificateArn=$arn" >&2
echo "$arn"
