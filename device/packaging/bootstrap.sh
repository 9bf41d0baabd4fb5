#!/bin/sh
# For init systems without a retry of their own: runs bootstrap until it
# succeeds, slower and slower, as iot_device.service does under systemd.
umask 077
cd /var/lib/iot_device || exit 1
delay=30
until iot_device bootstrap; do
	sleep "$delay"
	delay=$((delay * 2))
	[ "$delay" -le 3600 ] || delay=3600
done
