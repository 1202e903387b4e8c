package localpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	lockName   = "lock"
	tempPrefix = "postcall-pg-"
)

// makeTemp makes a temporary directory that is ours as long as we live.
func makeTemp(parent string) (dir string, lock *os.File, err error) {
	if dir, err = os.MkdirTemp(parent, tempPrefix); err != nil {
		return "", nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	//nolint:gosec // The server, another user, must pass.
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", nil, fmt.Errorf("opening the temporary directory to the server: %w", err)
	}
	// The lock takes its name when it is held: a sweeper never finds one that
	// is still free.
	unnamed := filepath.Join(dir, lockName+".new")
	if lock, err = lockFile(unnamed); err != nil {
		return "", nil, err
	}
	if err := os.Rename(unnamed, filepath.Join(dir, lockName)); err != nil {
		return "", nil, errors.Join(fmt.Errorf("naming the lock: %w", err), unlock(lock))
	}
	return dir, lock, nil
}

// sweep removes the temporary directories of owners that died without doing
// it. What cannot be removed is left to the next one: it stands in nobody's
// way.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, tempPrefix+"*")) // the pattern is ours
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || !ours(info) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
			// Its owner is about to lock it, or died in that moment.
			if time.Since(info.ModTime()) > time.Hour {
				_ = os.RemoveAll(dir)
			}
			continue
		}
		lock, err := lockFile(filepath.Join(dir, lockName))
		if err != nil {
			continue
		}
		// The owner is dead. Its server may still be shutting down.
		if !alive(filepath.Join(dir, "data", "postmaster.pid")) {
			_ = os.RemoveAll(dir)
		}
		_ = unlock(lock)
	}
}

// owner names the process that holds a directory, for an error's text.
func owner(dir string) string {
	pid, err := os.ReadFile(filepath.Join(dir, lockName))
	if err != nil || len(pid) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.TrimSpace(string(pid)))
}
