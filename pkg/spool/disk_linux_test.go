package spool

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postcall/pkg/call"
)

// A disk that is really full: what was acknowledged stays, draining works
// without any room, and appends work again afterwards.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, Options{Path: filepath.Join(dir, "events.jsonl"), SegmentBytes: 64 << 10})
	add := func(id string) error {
		e := entry(id)
		e.Body = bytes.Repeat([]byte("x"), 30<<10)
		return s.Append(t.Context(), e)
	}
	acknowledged := map[string]bool{}
	for range 3 {
		var failed int
		for _, id := range count("f", 60) {
			if err := add(id); err == nil {
				acknowledged[id] = true
			} else if failed++; call.CodeOf(err) != call.Unavailable || !strings.Contains(err.Error(), "make room") {
				t.Fatal(err)
			}
		}
		if failed == 0 {
			t.Fatal("the disk was never full")
		}
		// Even with a damaged line, for which there is no room aside.
		var torn *os.File
		if len(acknowledged) > 0 && s.Stats().Entries > 5 {
			var err error
			s.mu.Lock()
			path := s.own.segments[0].path
			s.mu.Unlock()
			if torn, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := torn.WriteAt([]byte("X"), 5); err != nil {
				t.Fatal(err)
			}
			torn.Close()
		}
		taken := map[string]bool{}
		for range 10 {
			_, err := s.Drain(t.Context(), func(_ context.Context, e Entry) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				taken[e.RequestID] = true
				return nil
			})
			if err == nil {
				break
			}
			t.Log(err)
		}
		if len(taken) != len(acknowledged)-1 || s.Depth() != 0 {
			t.Errorf("%d taken of %d, %d wait", len(taken), len(acknowledged), s.Depth())
		}
		clear(acknowledged)
		if err := os.Remove(s.Path() + corruptSuffix); err != nil {
			t.Error(err)
		}
	}
	if st := s.Stats(); st.Corrupt != 3 {
		t.Errorf("%+v", st)
	}
	appendAll(t, s, "again")
	drainAll(t, s, "again")
}
