################################################################################
#
# iot-device
#
################################################################################

# The name of the tag.
IOT_DEVICE_VERSION = v0.0.0
IOT_DEVICE_SITE = https://example.com/fleety.git
IOT_DEVICE_SITE_METHOD = git
# The hash of an archive is known when it is made: put that of yours into
# iot-device.hash, and remove this line.
BR_NO_CHECK_HASH_FOR += $(IOT_DEVICE_SOURCE)
IOT_DEVICE_LICENSE = Apache-2.0
IOT_DEVICE_LICENSE_FILES = LICENSE

IOT_DEVICE_SUBDIR = device
IOT_DEVICE_GOMOD = example.com/fleety/device
IOT_DEVICE_BUILD_TARGETS = cmd/iot_device
IOT_DEVICE_GO_ENV = CGO_ENABLED=0 GOWORK=off
IOT_DEVICE_LDFLAGS = -s -w -X $(IOT_DEVICE_GOMOD)/internal/cli.version=$(IOT_DEVICE_VERSION)

# The configuration file is written by a program of the build machine.
define IOT_DEVICE_CONFIGURATION
	cd $(@D)/$(IOT_DEVICE_SUBDIR) && $(HOST_GO_HOST_ENV) $(IOT_DEVICE_GO_ENV) \
		$(GO_BIN) run ./internal/cli/manual iot_device $(@D)/manual
	$(INSTALL) -D -m 0640 $(@D)/manual/config.yaml $(TARGET_DIR)/etc/iot_device/config.yaml
endef
IOT_DEVICE_POST_INSTALL_TARGET_HOOKS += IOT_DEVICE_CONFIGURATION

define IOT_DEVICE_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/device/packaging/iot_device.service \
		$(TARGET_DIR)/usr/lib/systemd/system/iot_device.service
	$(INSTALL) -D -m 0644 $(@D)/device/packaging/iot_device-bootstrap.service \
		$(TARGET_DIR)/usr/lib/systemd/system/iot_device-bootstrap.service
	$(INSTALL) -D -m 0644 $(@D)/device/packaging/iot_device.preset \
		$(TARGET_DIR)/usr/lib/systemd/system-preset/50-iot_device.preset
	$(INSTALL) -D -m 0644 $(@D)/device/packaging/iot_device.sysusers.conf \
		$(TARGET_DIR)/usr/lib/sysusers.d/iot_device.conf
	$(INSTALL) -D -m 0644 $(@D)/device/packaging/iot_device.tmpfiles.conf \
		$(TARGET_DIR)/usr/lib/tmpfiles.d/iot_device.conf
endef

define IOT_DEVICE_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/device/packaging/retry.sh \
		$(TARGET_DIR)/usr/lib/iot_device/retry.sh
	$(INSTALL) -D -m 0755 $(IOT_DEVICE_PKGDIR)/S95iot-device \
		$(TARGET_DIR)/etc/init.d/S95iot-device
endef

define IOT_DEVICE_INSTALL_INIT_OPENRC
	$(INSTALL) -D -m 0755 $(@D)/device/packaging/retry.sh \
		$(TARGET_DIR)/usr/lib/iot_device/retry.sh
	$(INSTALL) -D -m 0755 $(@D)/device/packaging/iot_device.openrc \
		$(TARGET_DIR)/etc/init.d/iot_device
endef

define IOT_DEVICE_USERS
	iot_device -1 iot_device -1 * /var/lib/iot_device - tss Identity of this device in AWS IoT Core
endef

define IOT_DEVICE_PERMISSIONS
	/etc/iot_device/config.yaml f 0640 0 iot_device - - - - -
	/var/lib/iot_device d 0700 iot_device iot_device - - - - -
	/var/lib/iot_device/claim d 0700 iot_device iot_device - - - - -
endef

$(eval $(golang-package))
