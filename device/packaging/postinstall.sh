#!/bin/sh
# Runs after an installation or upgrade by dpkg, rpm, apk or opkg. The latter sets
# IPKG_INSTROOT when it makes an image on another machine.
set -e
case ${1:-} in abort-* | triggered) exit 0 ;; esac
root=${IPKG_INSTROOT:-}
state=/var/lib/iot_device
if [ -f "$root/etc/rc.common" ] && [ -L "$root/var" ]; then # OpenWrt, which has /var in memory
	state=/etc/iot_device/state
	# Here at each start, too.
	[ -n "$root" ] || { mkdir -p /var/lib && ln -sfn "$state" /var/lib/iot_device; }
fi

if grep -q '^iot_device:' "$root/etc/passwd"; then
	:
elif [ -f "$root/lib/functions.sh" ]; then # OpenWrt
	# shellcheck disable=SC1091 # is on the device
	. "$root/lib/functions.sh"
	user_add iot_device "" "$(group_add_next iot_device)" "Identity of this device in AWS IoT Core" "$state" /bin/false
elif [ -n "$root" ]; then
	echo "iot-device: no way to add a user to $root; run this again on the device" >&2
	exit 1
elif command -v systemd-sysusers >/dev/null; then
	systemd-sysusers iot_device.conf
elif command -v useradd >/dev/null; then
	useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin iot_device
	! grep -q '^tss:' /etc/group || usermod --append --groups tss iot_device # may open the TPM
else # BusyBox
	addgroup -S iot_device
	adduser -S -D -H -h "$state" -s /sbin/nologin -G iot_device iot_device
	! grep -q '^tss:' /etc/group || addgroup iot_device tss
fi

# By number, for an image of another machine has users of its own. The
# configuration is of that group because it can hold a proxy's password.
ids=$(sed -n 's/^iot_device:[^:]*:\([0-9]*:[0-9]*\):.*/\1/p' "$root/etc/passwd")
if [ -L "$root$state" ] && [ ! -d "$root$state" ]; then # where it leads to is mounted later
	echo "iot-device: $state leads to no folder; make one there, mode 0700, of user iot_device" >&2
else
	mkdir -p "$root$state"
	chmod 0700 "$root$state"
	chown "$ids" "$root$state"
	# In there the user of the agent, and who has broken into it, can put a link in the
	# place of the claim's folder: what a link leads to is not given away.
	if ! (cd "$root$state" && home=$(pwd -P) && mkdir -p claim && cd ./claim && [ "$(pwd -P)" = "$home/claim" ] &&
		chmod 0700 . && chown "$ids" .); then
		echo "iot-device: $state/claim is no folder in $state, and stays as it is" >&2
	fi
fi
# dpkg does not bring back one that an administrator has removed.
[ ! -e "$root/etc/iot_device/config.yaml" ] || chgrp "${ids#*:}" "$root/etc/iot_device/config.yaml"

# The agent is enabled by the first installation; what an administrator has disabled
# stays so.
if [ -f "$root/etc/rc.common" ]; then # OpenWrt
	IPKG_INSTROOT=$root "$root/etc/init.d/iot_device" enable
elif command -v deb-systemd-helper >/dev/null; then
	for unit in iot_device.service iot_device-bootstrap.service; do
		# A mask of an administrator's is not undone, only that of a removal.
		deb-systemd-helper unmask "$unit" >/dev/null
	done
	if deb-systemd-helper --quiet was-enabled iot_device.service; then
		deb-systemd-helper enable iot_device.service >/dev/null
	else
		deb-systemd-helper update-state iot_device.service >/dev/null
	fi
elif [ "${1:-}" = 1 ] && command -v systemctl >/dev/null; then # rpm
	systemctl --no-reload preset iot_device.service iot_device-bootstrap.service || true # one can be masked
fi

[ -z "$root" ] || exit 0 # an image that another machine makes
# Started when it is configured. An upgrade restarts the agent, which loses nothing:
# messages that it has accepted are on disk. The one-shot stays as it is, for its
# dependents would be restarted with it.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true # systemd refuses where /run is almost full
	if command -v systemd-tmpfiles >/dev/null; then
		systemd-tmpfiles --create iot_device.conf || true # sysfs can be read-only
	fi
	if iot_device status --config /etc/iot_device/config.yaml >/dev/null 2>&1; then
		for action in "restart iot_device.service" "start iot_device-bootstrap.service"; do
			if { [ ! -x /usr/sbin/policy-rc.d ] || /usr/sbin/policy-rc.d iot_device "${action%% *}"; } &&
				systemctl --quiet is-enabled "${action#* }"; then
				# shellcheck disable=SC2086 # two words
				systemctl --no-block $action || true
			fi
		done
	fi
elif [ -x /etc/init.d/iot_device ]; then # OpenRC and procd, where the agent runs
	if command -v rc-service >/dev/null; then
		rc-service --quiet --ifstarted iot_device restart || echo "iot-device: restart iot_device to run this version" >&2
	elif /etc/init.d/iot_device running 2>/dev/null; then
		/etc/init.d/iot_device restart
	fi
fi
