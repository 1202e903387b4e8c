package spool

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postcall/pkg/call"
)

// roleVariable makes the test binary act as a process with a spool.
const roleVariable = "POSTCALL_TEST_SPOOL_ROLE"

func act(role string) int {
	var err error
	switch path := os.Args[1]; role {
	case "busy":
		err = busy(path, os.Args[2])
	case "limited":
		err = limited(path)
	case "forbidden":
		err = forbidden(path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func process(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd
}

// bodyOf is a body that can be told from its id: name-size.
func bodyOf(id string) []byte {
	size, _ := strconv.Atoi(id[strings.LastIndexByte(id, '-')+1:])
	sum := sha256.Sum256([]byte(id))
	b := bytes.Repeat(hex.AppendEncode(nil, sum[:]), size/64+1)
	return fmt.Appendf(nil, `{"id":%q,"text":"%s"}`, id, b[:size])
}

// logger appends to a file that survives a kill.
func logger(path string) (func(id string) error, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	return func(id string) error { _, err := file.WriteString(id + "\n"); return err }, err
}

func deliveredTo(log func(string) error) Receive {
	return func(_ context.Context, e Entry) error {
		b := e.Body
		if e.File != "" {
			var err error
			if b, err = os.ReadFile(e.File); err != nil {
				return err
			}
		}
		if !bytes.Equal(b, bodyOf(e.RequestID)) {
			return log("BAD " + e.RequestID)
		}
		return log(e.RequestID)
	}
}

// busy appends and drains until it is killed. It writes what was acknowledged to
// its standard output and what was delivered to a file.
func busy(path, name string) error {
	s, err := Open(Options{Path: path, SegmentBytes: 100 << 10, Adopt: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	log, err := logger(filepath.Join(filepath.Dir(path), "delivered"))
	if err != nil {
		return err
	}
	deliver := deliveredTo(log)
	go s.Run(context.Background(), func(ctx context.Context, e Entry) error {
		if rand.IntN(1000) == 0 {
			return call.Errorf(call.Unavailable, "away")
		}
		return deliver(ctx, e)
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				size := rand.IntN(30_000)
				if n%20 == 19 {
					size += maxInline
				}
				e := Entry{ReceivedAt: time.Now(), RequestID: fmt.Sprintf("%s-%d-%d-%d", name, g, n, size)}
				e.Body = bodyOf(e.RequestID)
				if n%40 == 39 {
					e.File = filepath.Join(filepath.Dir(path), fmt.Sprintf("temporary-%s-%d", name, g))
					if err := os.WriteFile(e.File, e.Body, 0o600); err != nil {
						panic(err)
					}
					e.Body = nil
				}
				if err := s.Append(context.Background(), e); err != nil {
					panic(err)
				}
				if _, err := os.Stdout.WriteString(e.RequestID + "\n"); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.New("nobody listens")
}

// Whatever was acknowledged is delivered, whole, by processes of which two run
// at a time and each is killed at a random point.
func TestKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	var wg sync.WaitGroup
	for p := range 2 {
		wg.Go(func() {
			for round := range rounds {
				cmd := process(t, "busy", path, fmt.Sprintf("p%d.%d", p, round))
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Error(err)
					return
				}
				r := bufio.NewReader(out)
				for left := 20 + rand.IntN(400); ; left-- {
					if left == 0 {
						_ = cmd.Process.Kill()
					}
					id, err := r.ReadString('\n')
					if err != nil {
						break // a part of an id is no acknowledgement
					}
					mu.Lock()
					acknowledged[strings.TrimSpace(id)] = true
					mu.Unlock()
				}
				_ = cmd.Wait()
				if stderr.Len() > 0 {
					t.Errorf("%s", stderr.Bytes())
				}
			}
		})
	}
	wg.Wait()
	log, err := logger(filepath.Join(filepath.Dir(path), "delivered"))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Path: path})
	n, err := s.Drain(t.Context(), deliveredTo(log))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "delivered"))
	if err != nil {
		t.Fatal(err)
	}
	delivered := map[string]int{}
	for id := range strings.Lines(string(b)) {
		delivered[strings.TrimSpace(id)]++
		if strings.HasPrefix(id, "BAD") {
			t.Error(id)
		}
	}
	again := 0
	for _, times := range delivered {
		again += times - 1
	}
	lost := 0
	for id := range acknowledged {
		if delivered[id] == 0 {
			lost++
		}
	}
	st := s.Stats()
	t.Logf("%d acknowledged, %d delivered, %d deliveries more than needed, %d at the end, %+v", len(acknowledged), len(delivered), again, n, st)
	if lost > 0 || len(acknowledged) == 0 || st.Corrupt > 0 || st.Bytes > 0 || st.Entries > 0 {
		t.Errorf("%d acknowledged entries are lost", lost)
	}
	for _, name := range names(t, s) {
		for _, bad := range []string{corruptSuffix, rejectedSuffix, bodySuffix, noteSuffix} {
			if strings.HasSuffix(name, bad) {
				t.Errorf("left behind: %s", name)
			}
		}
	}
}
