#!/bin/sh
# The main job on this machine, with no AWS account: starts iot_core_local,
# provisions device 2974685, shows that a second run reuses its identity and
# that serial 1234567 is refused, and stops. Fails when anything differs.
set -eu

if [ $# -eq 0 ]; then
	cat >&2 <<-'END'
		usage: demo.sh --templates DIR --hook PATH
		       demo.sh --assembly DIR

		The flags are those of iot_core_local serve. make demo and make rehearse
		build what is needed.
	END
	exit 2
fi
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d)
core=

stop() {
	if [ -n "$core" ]; then
		kill "$core" 2>/dev/null || true
		wait "$core" 2>/dev/null || true
	fi
	rm -rf -- "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

say() { printf '\n== %s\n' "$*"; }

fail() {
	printf 'demo: error: %s\n' "$*" >&2
	if [ -s core.log ]; then
		printf 'demo: what iot_core_local logged last:\n' >&2
		tail -n 20 core.log >&2
	fi
	exit 1
}

# field NAME prints a string or number of the one-line JSON object on stdin.
field() { sed -n 's/.*"'"$1"'": *"\{0,1\}\([^",}]*\).*/\1/p'; }

# config SERIAL writes the device's configuration, as a user would.
config() {
	cat >"$1.yaml" <<-END
		serialNumber: "$1"
		deviceLocation: "USA"
		server: {port: $port, endpoint: $endpoint}
		bootstrap:
		  privatekeypath: certs/fleet-provisioning.private.key
		  certificatepath: certs/fleet-provisioning.certificate.pem
		  cacertificatepath: certs/root.ca.bundle.pem
		  provisioningTemplate: GoFleetProvisioningTemplate
	END
}

bootstrap() { "$root/iot_device" bootstrap --author "Wilford Brimley" --config "$1.yaml" --json; }

say "AWS IoT Core in small, with the templates, policies and hook that cdk deploy sends to AWS"
"$root/iot_core_local" serve --listen 127.0.0.1:0 --api 127.0.0.1:0 "$@" \
	--state "$work/state" --credentials "$work/certs" --json >"$work/ready.json" 2>"$work/core.log" &
core=$!
cd "$work"
until [ -s ready.json ]; do
	kill -0 "$core" 2>/dev/null || fail "iot_core_local did not start"
	sleep 0.1
done
endpoint=$(field endpoint <ready.json)
port=$(field port <ready.json)
echo "iot_core_local listens on $endpoint:$port; its claim certificate is in certs/"

say "Device 2974685 trades the claim certificate for an identity of its own"
config 2974685
bootstrap 2974685 >first.json || fail "the device was not provisioned (exit code $?)"
cat first.json
[ "$(field thingName <first.json)" = fleety_2974685 ] || fail "the thing has another name"
[ "$(field provisioned <first.json)" = true ] || fail "the first run did not register the thing"

say "A second run reuses that identity"
bootstrap 2974685 >second.json || fail "the second run did not work (exit code $?)"
[ "$(field provisioned <second.json)" = false ] || fail "the second run registered the thing again"
[ "$(field certificateId <second.json)" = "$(field certificateId <first.json)" ] ||
	fail "the second run has another certificate"
echo "same certificate: $(field certificateId <second.json)"

say "Serial 1234567 is refused"
config 1234567
code=0
bootstrap 1234567 >third.json || code=$?
[ "$code" -eq 3 ] || fail "expected exit code 3, got $code"
[ ! -s third.json ] || fail "a refused device printed a result"
[ ! -e certs/fleety_1234567.certificate.pem ] || fail "a refused device has a certificate"

say "What was created"
"$root/iot_device" status --config 2974685.yaml
ls -l certs
say "What the local core says of it"
grep -E 'REGISTERED|WARN' core.log || fail "the local core logged no refusal"

say "Done: one device came in, one was refused"
