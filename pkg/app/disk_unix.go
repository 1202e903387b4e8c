//go:build linux || darwin

package app

import (
	"fmt"
	"syscall"
)

// diskSpace is how many bytes are free for this user, and how many there are,
// on the disk that a directory lies on.
func diskSpace(dir string) (free, total uint64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("asking for the room in %s: %w", dir, err)
	}
	block := uint64(s.Bsize)
	return s.Bavail * block, s.Blocks * block, nil
}
