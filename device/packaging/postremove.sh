#!/bin/sh
# Runs after a removal or upgrade. The identity stays, unless dpkg purges: a device
# that installs the package again is the same device.
set -e
[ -z "${IPKG_INSTROOT:-}" ] || exit 0 # an image that another machine makes
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
case ${1:-} in
remove)
	if command -v deb-systemd-helper >/dev/null; then
		deb-systemd-helper mask iot_device.service iot_device-bootstrap.service >/dev/null
	fi
	;;
purge)
	if command -v deb-systemd-helper >/dev/null; then
		deb-systemd-helper purge iot_device.service iot_device-bootstrap.service >/dev/null
		deb-systemd-helper unmask iot_device.service iot_device-bootstrap.service >/dev/null
	fi
	# The folder itself can be a mount point, or a link to one.
	if [ -d /var/lib/iot_device ]; then
		find -H /var/lib/iot_device -mindepth 1 -delete
		rmdir /var/lib/iot_device 2>/dev/null || true
	fi
	;;
esac
