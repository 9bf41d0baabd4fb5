package doctor

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// fileSystems are the names of those that devices have, by the magic numbers of statfs(2).
var fileSystems = map[uint32]string{
	0xEF53: "ext4", 0xF2F52010: "f2fs", 0x9123683E: "btrfs", 0x58465342: "xfs", 0x24051905: "ubifs", 0x72B6: "jffs2", 0xE0F5E1E2: "erofs",
	0x4D44: "vfat", 0x2011BAB0: "exfat", 0x5346544E: "ntfs", 0x7366746E: "ntfs3", 0x65735546: "fuse",
	0x6969: "nfs", 0xFF534D42: "cifs", 0xFE534D42: "smb2", 0x01021997: "9p", 0x5346414F: "afs", 0x00C36400: "ceph",
	0x01021994: "tmpfs", 0x858458F6: "ramfs", 0x794C7630: "overlayfs", 0x73717368: "squashfs",
}

// fileSystem returns the type of the file system that a directory is on, or would be. Of an overlay it
// is that of what is written, where that can be seen: in a container it often cannot.
func fileSystem(dir string) string {
	var st syscall.Statfs_t
	err := syscall.Statfs(dir, &st)
	for parent := filepath.Dir(dir); err == syscall.ENOENT && parent != dir; parent = filepath.Dir(dir) {
		dir = parent
		err = syscall.Statfs(dir, &st)
	}
	if err != nil {
		return "unknown"
	}
	if upper := upperLayer(dir); upper != "" && syscall.Statfs(upper, &st) != nil {
		return "overlayfs"
	}
	magic := uint32(st.Type)
	return cmp.Or(fileSystems[magic], fmt.Sprintf("type %#x", magic))
}

// upperLayer returns the directory that has what is written to the overlay of dir, empty where dir is
// on none. See proc_pid_mountinfo(5).
func upperLayer(dir string) string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		mount, options, _ := strings.Cut(line, " - overlay ")
		_, upper, writable := strings.Cut(options, ",upperdir=")
		var here, there syscall.Stat_t
		if writable && syscall.Stat(dir, &here) == nil && syscall.Stat(strings.Fields(mount)[4], &there) == nil && here.Dev == there.Dev {
			return strings.Split(strings.TrimSpace(upper), ",")[0]
		}
	}
	return ""
}

// freeSpace returns the bytes that this user may still write below dir.
func freeSpace(dir string) (free uint64, known bool) {
	var st syscall.Statfs_t
	err := syscall.Statfs(dir, &st)
	return st.Bavail * uint64(st.Bsize), err == nil
}
