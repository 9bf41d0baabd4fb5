#!/bin/sh
# The main job on this machine, with no AWS account: starts iot_core_local,
# provisions a device, shows that a second run reuses its identity and that a
# device with another serial number is denied, and stops. Fails when anything
# differs.
set -eu
unset CDPATH

usage() {
	cat <<-'END'
		usage: demo.sh --hook PATH [--templates DIR]
		       demo.sh --assembly DIR

		The flags are those of iot_core_local serve. make demo and make rehearse
		build what is needed. TEMPLATE, THING_PREFIX and SERIAL name the provisioning
		template, the prefix of its things and the serial number to provision, LOCATION
		and PARAMETERS the location and further parameters, as NAME: VALUE; with
		ROTATE=true the device then replaces its certificate, with false it must not;
		IOT_DEVICE and IOT_CORE_LOCAL name the programs.
	END
}

case "${1:-}" in
'') usage >&2 && exit 2 ;;
-h | --help) usage && exit 0 ;;
esac
root=$(cd -- "$(dirname -- "$0")/.." && pwd)
device=${IOT_DEVICE:-$root/iot_device}
case $device in [!/]*/*) device=$PWD/$device ;; esac # it runs in another folder
emulator=${IOT_CORE_LOCAL:-$root/iot_core_local}
template=${TEMPLATE:-GoFleetProvisioningTemplate}
prefix=${THING_PREFIX:-fleety_}
serial=${SERIAL:-2974685}
location=${LOCATION:-USA}
stranger=1234567
# Those that are set for a device of the caller's would win over the configuration here.
# shellcheck disable=SC2046
unset $(env | sed -n 's/^\(IOT_DEVICE_[A-Z0-9_]*\)=.*/\1/p')
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
trap 'exit 130' HUP INT TERM

say() { printf '\n== %s\n' "$*"; }

# narrow shortens certificate ids and wraps lines for a terminal of 80 columns.
narrow() { sed 's/\([0-9a-f]\{12\}\)[0-9a-f]\{52\}/\1.../g' "$@" | fold -s -w 80; }

fail() {
	printf 'demo: error: %s\n' "$*" >&2
	if [ -s core.log ]; then
		printf 'demo: last lines of the log of iot_core_local:\n' >&2
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
		deviceLocation: "$location"
		server: {port: $port, endpoint: $endpoint}
		bootstrap:
		  privatekeypath: certs/fleet-provisioning.private.key
		  certificatepath: certs/fleet-provisioning.certificate.pem
		  cacertificatepath: certs/root.ca.bundle.pem
		  provisioningTemplate: $template
		  parameters: {${PARAMETERS:-}}
	END
}

# narrowly COMMAND… runs it; its result, on stdout, stays as it is.
narrowly() {
	code=0
	"$@" 2>steps.log || code=$?
	narrow steps.log >&2
	return "$code"
}

bootstrap() { narrowly "$device" bootstrap --author "Wilford Brimley" --config "$1.yaml" --json; }

say "Starting the emulator, with the templates, policies and hook of the stack"
"$emulator" serve --listen 127.0.0.1:0 --api 127.0.0.1:0 "$@" \
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

say "Device $serial exchanges the claim certificate for its own certificate"
config "$serial"
bootstrap "$serial" >first.json || fail "the device was not provisioned (exit code $?)"
[ "$(field thingName <first.json)" = "$prefix$serial" ] || fail "the thing has another name"
[ "$(field provisioned <first.json)" = true ] || fail "the first run did not register the thing"
echo "registered as thing $(field thingName <first.json)"

say "A second run reuses that identity"
bootstrap "$serial" >second.json || fail "the second run did not work (exit code $?)"
[ "$(field provisioned <second.json)" = false ] || fail "the second run registered the thing again"
[ "$(field certificateId <second.json)" = "$(field certificateId <first.json)" ] ||
	fail "the second run has another certificate"
echo "same certificate: $(field certificateId <second.json)" | narrow

case ${ROTATE:-} in
true)
	say "The device replaces its certificate, with the present one"
	narrowly "$device" rotate --config "$serial.yaml" --json >rotated.json || fail "the device did not rotate (exit code $?)"
	[ "$(field thingName <rotated.json)" = "$prefix$serial" ] || fail "the thing has another name"
	[ "$(field certificateId <rotated.json)" != "$(field certificateId <first.json)" ] || fail "the certificate is the same"
	echo "new certificate: $(field certificateId <rotated.json)" | narrow
	;;
false)
	say "Rotation is off"
	! narrowly "$device" rotate --config "$serial.yaml" --timeout 5s --json >rotated.json || fail "the device rotated"
	[ ! -s rotated.json ] || fail "a denied rotation printed a result"
	;;
esac

say "Serial $stranger is denied; the device tries again for a few seconds"
config "$stranger"
code=0
bootstrap "$stranger" >third.json || code=$?
[ "$code" -eq 3 ] || fail "expected exit code 3, got $code"
[ ! -s third.json ] || fail "a denied device printed a result"
[ ! -e "certs/$prefix$stranger.certificate.pem" ] || fail "a denied device has a certificate"

echo "exit code 3: denied by AWS IoT"

say "What was created"
"$device" status --config "$serial.yaml"
ls -l certs

say "Emulator log: who was provisioned, and why the other was denied"
grep -E 'msg=provisioned|msg=decision|action=provision' core.log >decisions.log || fail "the emulator logged no decision"
sed -E 's/(^| )(time|level|author|(client|claimCertificate|certificate|request)(Id)?|address|topic|stream)=("[^"]*"|[^ ]*)//g; s/^ //' decisions.log |
	awk '!seen[$0]++' | narrow

say "Done: one device was provisioned, one was denied"
case ${1:-} in
--assembly) ;;
*)
	cat <<-'END'

		To try it by hand, in one terminal:
		  ./iot_core_local serve
		and in another:
		  ./iot_device bootstrap --author NAME --config certs/local/device.yaml
		  ./iot_device rotate --config certs/local/device.yaml
		  ./iot_core_local events --past
		README.md has the way to AWS.
	END
	;;
esac
