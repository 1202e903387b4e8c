//go:build unix

// Package durable makes what is on the disk last through a power cut.
package durable

import (
	"errors"
	"os"
	"syscall"
)

// SyncDir makes the names in a directory last through a power cut. Some
// network file systems know no such thing: there it does what can be done.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
