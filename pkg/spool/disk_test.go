package spool

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postcall/pkg/call"
)

// faulty is a file on a disk that fails.
type faulty struct {
	appendFile
	sync     func() error
	write    func(b []byte) (int, error)
	truncate func() error
}

func (f *faulty) Sync() error {
	if f.sync != nil {
		if err := f.sync(); err != nil {
			return err
		}
	}
	return f.appendFile.Sync()
}

func (f *faulty) Write(b []byte) (int, error) {
	if f.write != nil {
		if n, err := f.write(b); err != nil {
			m, _ := f.appendFile.Write(b[:n])
			return m, err
		}
	}
	return f.appendFile.Write(b)
}

func (f *faulty) Truncate(size int64) error {
	if f.truncate != nil {
		if err := f.truncate(); err != nil {
			return err
		}
	}
	return f.appendFile.Truncate(size)
}

// An append that could not be made to last is not acknowledged, its neighbours
// are whole, and the next one goes on.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faulty{
		"fsync": {sync: func() error { return syscall.EIO }},
		"full":  {write: func([]byte) (int, error) { return 0, syscall.ENOSPC }},
		"part":  {write: func(b []byte) (int, error) { return len(b) / 2, syscall.ENOSPC }},
		"cannot be cut": {
			write:    func(b []byte) (int, error) { return len(b) / 2, syscall.EIO },
			truncate: func() error { return syscall.EIO },
		},
		"fsync, cannot be cut": {
			sync:     func() error { return syscall.EIO },
			truncate: func() error { return syscall.EIO },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := false
			s := open(t, Options{create: func(path string) (appendFile, error) {
				file, err := createFile(path)
				f := &faulty{appendFile: file}
				if fault.sync != nil {
					f.sync = func() error {
						if broken {
							return fault.sync()
						}
						return nil
					}
				}
				if fault.write != nil {
					f.write = func(b []byte) (int, error) {
						if broken {
							return fault.write(b)
						}
						return 0, nil
					}
				}
				if fault.truncate != nil {
					f.truncate = fault.truncate
				}
				return f, err
			}})
			appendAll(t, s, "a", "b")
			broken = true
			large := entry("large")
			large.Body = make([]byte, maxInline+1)
			for range 3 {
				for _, e := range []Entry{entry("lost"), large} {
					if err := s.Append(t.Context(), e); call.CodeOf(err) != call.Unavailable {
						t.Fatal(err)
					}
				}
			}
			broken = false
			appendAll(t, s, "c", "d")
			r := new(receiver)
			if _, err := s.Drain(t.Context(), r.take); err != nil {
				t.Error(err)
			}
			got := map[string]bool{}
			for _, id := range r.ids {
				got[id] = true
			}
			if !got["a"] || !got["b"] || !got["c"] || !got["d"] {
				t.Errorf("drained %v", r.ids)
			}
			// Where the file could be cut back, nothing is left of the failed ones.
			if fault.truncate == nil && (len(r.ids) != 4 || s.Stats().Bytes != 0) {
				t.Errorf("drained %v, %+v", r.ids, s.Stats())
			}
			if fault.truncate == nil {
				wantNames(t, s, "events.jsonl.lock")
			}
		})
	}
}

// A file that somebody rotates away while it is used is noticed.
func TestRotatedAway(t *testing.T) {
	t.Parallel()
	s := open(t, Options{})
	appendAll(t, s, "a")
	if err := os.Rename(s.Path(), s.Path()+".1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), entry("lost")); call.CodeOf(err) != call.Unavailable || !errors.Is(err, errReplaced) {
		t.Error(err)
	}
	appendAll(t, s, "b")
	drainAll(t, s, "b")
	closeSpool(t, s)
	drainAll(t, open(t, Options{Path: s.Path()}), "a")
}

// limited is a process whose files may not grow beyond 64 KiB.
func limited(path string) error {
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
		return err
	}
	s, err := Open(Options{Path: path})
	if err != nil {
		return err
	}
	failed, kept := 0, 0
	for _, id := range count("l", 100) {
		e := entry(id)
		e.Body = bytes.Repeat([]byte("y"), 10<<10)
		if err := s.Append(context.Background(), e); err == nil {
			kept++
		} else if failed++; call.CodeOf(err) != call.Unavailable || !errors.Is(err, syscall.EFBIG) {
			return err
		}
	}
	n, err := s.Drain(context.Background(), func(context.Context, Entry) error { return nil })
	if err != nil {
		return err
	}
	if st := s.Stats(); failed == 0 || n != kept || st.Torn+st.Corrupt > 0 || st.Bytes > 0 {
		return errors.New("something is missing or torn")
	}
	return s.Close(context.Background())
}

// forbidden is a process that may not write the directory for a while.
func forbidden(path string) error {
	dir := filepath.Dir(path)
	const nobody = 65534
	if os.Getuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			return err
		}
		for up := dir; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
			if err := os.Chmod(up, 0o755); err != nil {
				return err
			}
		}
		if err := syscall.Setuid(nobody); err != nil {
			return err
		}
	}
	s, err := Open(Options{Path: path, SegmentBytes: 1})
	if err != nil {
		return err
	}
	add := func(id string) error { return s.Append(context.Background(), entry(id)) }
	if err := add("a"); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		return err
	}
	helps := func(err error) bool {
		return call.CodeOf(err) == call.Unavailable && strings.Contains(err.Error(), "SPOOL_PATH")
	}
	if err := add("refused"); !helps(err) {
		return errors.Join(errors.New("appended where nothing may be written"), err)
	}
	if _, err := Open(Options{Path: filepath.Join(dir, "other.jsonl")}); !helps(err) {
		return errors.Join(errors.New("opened where nothing may be written"), err)
	}
	// Draining cannot remove anything: it is delivered, and says so.
	n, err := s.Drain(context.Background(), func(context.Context, Entry) error { return nil })
	if err == nil {
		return errors.New("drained what cannot be removed")
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	if err := add("b"); err != nil {
		return err
	}
	m, err := s.Drain(context.Background(), func(context.Context, Entry) error { return nil })
	if n+m != 2 {
		err = errors.Join(err, errors.New("something is missing"))
	}
	return errors.Join(err, s.Close(context.Background()))
}

func TestFileSizeLimit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	if out, err := process(t, "limited", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "events.jsonl")
	if out, err := process(t, "forbidden", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A path that can never work says so at the start.
func TestImpossiblePath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(file, "events.jsonl"), "/proc/nowhere/events.jsonl"} {
		if _, err := Open(Options{Path: path}); call.CodeOf(err) != call.Unavailable {
			t.Errorf("%s: %v", path, err)
		}
	}
	folder := filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Path: folder}); call.CodeOf(err) != call.Unavailable {
		t.Error(err)
	}
}
