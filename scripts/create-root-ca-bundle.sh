#!/bin/sh
# Downloads the root certificates of AWS IoT Core. Each is identified by its
# fingerprint, and what is written is encoded from the very bytes that the
# fingerprint was taken of, so that nothing depends on the server or the network.
#
# AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
set -eu
unset CDPATH

base_url=${ROOT_CA_BASE_URL:-https://www.amazontrust.com/repository}

usage() {
	cat <<-'END'
		usage: create-root-ca-bundle.sh

		Downloads Amazon Root CA 1 to 4 and Starfield Services Root CA - G2, checks
		the SHA-256 fingerprint of each and writes them to certs/root.ca.bundle.pem.

		Needs curl or wget. ROOT_CA_BASE_URL names another folder to download from,
		which must be https too.
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

case $base_url in
https://*) ;;
*) die "ROOT_CA_BASE_URL is $base_url: it must begin with https://" ;;
esac
if command -v curl >/dev/null; then
	fetch() { curl --fail --silent --show-error --location --proto =https --proto-redir =https --connect-timeout 15 --max-time 60 "$1"; }
elif command -v wget >/dev/null; then
	wget --help 2>&1 | grep -q max-redirect ||
		die "this wget, such as that of BusyBox, follows a redirect to anywhere: install curl or GNU wget"
	fetch() { wget -q -T 30 --max-redirect=0 -O - "$1"; } # wget cannot be held to https after a redirect
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
[ ! -d "$certs/root.ca.bundle.pem" ] ||
	die "$certs/root.ca.bundle.pem is a folder, such as a container engine makes of a file that is not there: remove it"
work=$(mktemp -d "$certs/.root.ca.bundle.XXXXXX") || die "cannot write to the folder $certs"
trap 'rm -rf -- "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# root NAME FILE FINGERPRINT adds one root to the bundle, if the file is one PEM
# block in strict base64, of the certificate (DER) with that SHA-256.
root() {
	url=$base_url/$2
	fetch "$url" >"$work/download" ||
		die "downloading $url: is there a network, and is https_proxy set where a proxy is needed?"
	tr -d '\r' <"$work/download" >"$work/text"
	sed -e 1d -e '$d' "$work/text" >"$work/base64"
	base64 -d <"$work/base64" >"$work/der" 2>/dev/null || : >"$work/der"
	base64 <"$work/der" | tr -d '\n' | fold -w 64 >"$work/body"
	{
		[ "$(sed -n 1p "$work/text")" = '-----BEGIN CERTIFICATE-----' ] &&
			[ "$(sed -n '$p' "$work/text")" = '-----END CERTIFICATE-----' ] &&
			[ "$(tr -d '\n' <"$work/base64")" = "$(tr -d '\n' <"$work/body")" ]
	} ||
		die "$url is not one PEM certificate and nothing else: nothing was written"
	fingerprint=$(sha256 <"$work/der" | cut -d' ' -f1)
	[ "$fingerprint" = "$3" ] ||
		die "$url is not $1: its SHA-256 is $fingerprint instead of $3: nothing was written"
	{
		echo "# $1"
		echo '-----BEGIN CERTIFICATE-----'
		cat "$work/body"
		printf '\n-----END CERTIFICATE-----\n'
	} >>"$work/bundle"
}

root 'Amazon Root CA 1' AmazonRootCA1.pem 8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e
root 'Amazon Root CA 2' AmazonRootCA2.pem 1ba5b2aa8c65401a82960118f80bec4f62304d83cec4713a19c39c011ea46db4
root 'Amazon Root CA 3' AmazonRootCA3.pem 18ce6cfe7bf14e60b2e347b8dfe868cb31d02ebb3ada271569f50343b46db3a4
root 'Amazon Root CA 4' AmazonRootCA4.pem e35d28419ed02025cfa69038cd623962458da5c695fbdea3c22b0bfb25897092
root 'Starfield Services Root CA - G2' SFSRootCAG2.pem 568d6905a2c88708a4b3025190edcfedb1974a606a13c6e5290fcb2ae63edab5

chmod 0644 "$work/bundle"
mv -f -- "$work/bundle" "$certs/root.ca.bundle.pem"
echo "create-root-ca-bundle.sh: wrote $certs/root.ca.bundle.pem" >&2
