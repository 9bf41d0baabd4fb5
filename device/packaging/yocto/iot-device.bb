# Put it into a layer of your own, recipes-connectivity/iot-device/iot-device.bb, name
# the repository in SRC_URI, and add iot-device to IMAGE_INSTALL. For Yocto 5.0
# (scarthgap) and later, with a Go that go.mod accepts. docs/device.md has the
# configuration: append a config.yaml of your own to do_install.
SUMMARY = "Provisions this device with AWS IoT Core, and keeps it connected"
HOMEPAGE = "https://example.com/fleety"
SECTION = "net"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://src/${GO_IMPORT}/LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

PV = "0.0.0"
GO_IMPORT = "example.com/fleety"
SRC_URI = "git://${GO_IMPORT};protocol=https;nobranch=1;tag=v${PV};destsuffix=${BP}/src/${GO_IMPORT}"
S = "${WORKDIR}/${BP}"

inherit go-mod systemd useradd

export CGO_ENABLED = "0"
export GOWORK = "off"

# Fetches the modules that go.sum names.
do_compile[network] = "1"
do_compile() {
    cd ${S}/src/${GO_IMPORT}/device
    ${GO} build -trimpath -buildvcs=false -o ${B}/iot_device \
        -ldflags "-s -w -X example.com/fleety/device/internal/cli.version=v${PV}" ./cmd/iot_device
    GOOS=${BUILD_GOOS} GOARCH=${BUILD_GOARCH} ${GO} run ./internal/cli/manual iot_device ${B}/manual
}

PACKAGING = "${S}/src/${GO_IMPORT}/device/packaging"
do_install() {
    install -D -m 0755 ${B}/iot_device ${D}${bindir}/iot_device
    install -D -m 0640 ${B}/manual/config.yaml ${D}${sysconfdir}/iot_device/config.yaml
    chgrp iot_device ${D}${sysconfdir}/iot_device/config.yaml
    install -D -m 0644 ${PACKAGING}/iot_device.service ${D}${systemd_system_unitdir}/iot_device.service
    install -D -m 0644 ${PACKAGING}/iot_device-bootstrap.service ${D}${systemd_system_unitdir}/iot_device-bootstrap.service
    install -D -m 0644 ${PACKAGING}/iot_device.preset ${D}${systemd_unitdir}/system-preset/50-iot_device.preset
    install -D -m 0644 ${PACKAGING}/iot_device.sysusers.conf ${D}${nonarch_libdir}/sysusers.d/iot_device.conf
    install -D -m 0644 ${PACKAGING}/iot_device.tmpfiles.conf ${D}${nonarch_libdir}/tmpfiles.d/iot_device.conf
}

SYSTEMD_SERVICE:${PN} = "iot_device.service"
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system tss; --system iot_device"
USERADD_PARAM:${PN} = "--system --gid iot_device --groups tss --home-dir /var/lib/iot_device --no-create-home --shell /sbin/nologin iot_device"

CONFFILES:${PN} = "${sysconfdir}/iot_device/config.yaml"
FILES:${PN} += "${systemd_unitdir} ${nonarch_libdir}/sysusers.d ${nonarch_libdir}/tmpfiles.d"
