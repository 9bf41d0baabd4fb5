#!/bin/sh
# Runs before a removal, or before an upgrade, when it does nothing.
set -e
[ -z "${IPKG_INSTROOT:-}" ] || exit 0 # an image that another machine makes
case ${1:-} in upgrade | failed-upgrade | deconfigure | 1) exit 0 ;; esac
if [ -d /run/systemd/system ]; then
	systemctl stop iot_device.service iot_device-bootstrap.service || true
fi
if [ "${1:-}" = 0 ] && command -v systemctl >/dev/null; then # rpm
	systemctl --no-reload disable iot_device.service iot_device-bootstrap.service || true
elif [ -f /etc/rc.common ]; then # OpenWrt
	/etc/init.d/iot_device disable
	/etc/init.d/iot_device stop
elif command -v rc-service >/dev/null; then # OpenRC
	rc-service --ifstarted iot_device stop || true
	rc-update --quiet delete iot_device || true # it was not enabled
fi
