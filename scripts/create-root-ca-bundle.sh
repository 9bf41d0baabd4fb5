#!/bin/sh
# Gathers the certificate authorities that AWS IoT Core's server certificates
# lead to. Each is known by its fingerprint, so nothing depends on how it came.
#
# AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
set -eu

base_url=${ROOT_CA_BASE_URL:-https://www.amazontrust.com/repository}

usage() {
	cat <<-'END'
		usage: create-root-ca-bundle.sh

		Downloads Amazon Root CA 1 to 4 and Starfield Services Root CA - G2, checks
		the SHA-256 fingerprint of each and writes them to certs/root.ca.bundle.pem.

		Needs curl or wget. ROOT_CA_BASE_URL names another folder to download from.
	END
}

die() {
	echo "create-root-ca-bundle.sh: error: $*" >&2
	exit 1
}

case "${1:-}" in
'') ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

if command -v curl >/dev/null; then
	fetch() { curl --fail --silent --show-error --location --connect-timeout 15 --max-time 60 "$1"; }
elif command -v wget >/dev/null; then
	fetch() { wget -q -T 30 -O - "$1"; }
else
	die "neither curl nor wget is installed: install one of them"
fi

if command -v sha256sum >/dev/null; then
	sha256() { sha256sum; }
elif command -v shasum >/dev/null; then
	sha256() { shasum -a 256; }
else
	die "neither sha256sum nor shasum is installed: install one of them"
fi

certs=$(cd -- "$(dirname -- "$0")/.." && pwd)/certs
mkdir -p -- "$certs" || die "cannot make the folder $certs"
work=$(mktemp -d "$certs/.root.ca.bundle.XXXXXX") || die "cannot write to the folder $certs"
trap 'rm -rf -- "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# root NAME FILE FINGERPRINT adds one authority to the bundle, if the file is
# the certificate with that SHA-256 (of the DER) and nothing else.
root() {
	url=$base_url/$2
	fetch "$url" >"$work/download" ||
		die "downloading $url: is there a network, and is https_proxy set where a proxy is needed?"
	tr -d '\r' <"$work/download" |
		sed -n '/^-----BEGIN CERTIFICATE-----$/,/^-----END CERTIFICATE-----$/p' >"$work/pem"
	grep -q '^-----END CERTIFICATE-----$' "$work/pem" || die "$url is not a PEM certificate: nothing was written"
	fingerprint=$(grep -v '^-----' "$work/pem" | base64 -d 2>/dev/null | sha256 | cut -d' ' -f1)
	[ "$fingerprint" = "$3" ] ||
		die "$url is not $1: its SHA-256 is $fingerprint instead of $3: nothing was written"
	{ echo "# $1" && cat "$work/pem"; } >>"$work/bundle"
}

root 'Amazon Root CA 1' AmazonRootCA1.pem 8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e
root 'Amazon Root CA 2' AmazonRootCA2.pem 1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4
root 'Amazon Root CA 3' AmazonRootCA3.pem 18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4
root 'Amazon Root CA 4' AmazonRootCA4.pem e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092
root 'Starfield Services Root CA - G2' SFSRootCAG2.pem 568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5

chmod 0644 "$work/bundle"
mv -f -- "$work/bundle" "$certs/root.ca.bundle.pem"
echo "create-root-ca-bundle.sh: wrote $certs/root.ca.bundle.pem" >&2
