#!/bin/sh
# For init systems without a retry that slows down: runs a command of iot_device
# until it ends with success or is stopped, slower and slower, as the units do under
# systemd.
#
#	usage: retry.sh COMMAND
umask 077
stop=
child=
trap 'stop=1; [ -z "$child" ] || kill "$child" 2>/dev/null' TERM INT

# await runs a command until it ends, also when a signal comes meanwhile.
await() {
	"$@" &
	child=$!
	[ -z "$stop" ] || kill "$child" 2>/dev/null
	wait "$child"
	code=$?
	[ -z "$stop" ] || wait "$child" # the signal ended the first wait
	child=
}

delay=30
until [ -n "$stop" ]; do
	cd /var/lib/iot_device 2>/dev/null || cd / # it may be mounted later
	await iot_device "$@"
	if [ "$code" -eq 0 ] || [ -n "$stop" ]; then
		exit 0
	fi
	echo "iot_device $* ended with exit code $code; next attempt in $delay s" >&2
	await sleep "$delay"
	delay=$((delay * 2))
	[ "$delay" -le 3600 ] || delay=3600
done
