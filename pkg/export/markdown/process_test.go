package markdown

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"postcall/pkg/call"
)

// roleVariable makes the test binary act as a worker instead of testing.
const roleVariable = "POSTCALL_TEST_MARKDOWN_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(m.Run())
	case "append":
		os.Exit(appendAll(os.Args[1], os.Args[2:]))
	case "limited":
		os.Exit(appendLimited())
	}
}

// processFile is the file that such a worker writes, in its working directory.
const processFile = "crm.md"

// process is the test binary as a worker in folder.
func process(t *testing.T, folder, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	return cmd
}

// appendAll exports the analyses of a list ("17", or "17+" for again) and
// tells on standard output what it began and what it finished. At its write
// number die, counted from 1, it kills itself somewhere inside.
func appendAll(die string, list []string) int {
	e := New(processFile, moscow)
	last, err := strconv.Atoi(die)
	if err != nil {
		panic(err)
	}
	writes := 0
	e.write = func(f *os.File, b []byte) (int, error) {
		if writes++; writes == last {
			if _, err := f.Write(b[:rand.IntN(len(b)+1)]); err != nil {
				panic(err)
			}
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
		return f.Write(b)
	}
	for _, item := range list {
		number, again := strings.CutSuffix(item, "+")
		id, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic(err)
		}
		d := delivery(id)
		d.Again = again
		fmt.Println("begin", id)
		if _, err := e.Export(context.Background(), d); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println("done", id)
	}
	return 0
}

// TestProcesses lets processes append to one file at the same time, kills some
// of them in the middle of a write and some at any other moment, and has what
// they left undone tried again, as the queue does.
func TestProcesses(t *testing.T) {
	t.Parallel()
	const (
		workers = 6
		each    = 20
		total   = workers * each
		rounds  = 4 // in the last one nobody is killed
	)
	folder := t.TempDir()
	var mu sync.Mutex
	begun, done := map[int64]bool{}, map[int64]bool{}

	for round := 1; round <= rounds; round++ {
		lists := make([][]string, workers)
		for id := int64(1); id <= total; id++ {
			item := strconv.FormatInt(id, 10)
			if begun[id] {
				item += "+"
			}
			if !done[id] {
				w := rand.IntN(workers)
				lists[w] = append(lists[w], item)
			}
		}
		var all sync.WaitGroup
		for w, list := range lists {
			die, killAfter := 0, 0
			if round < rounds && w%3 == 0 {
				die = 1 + rand.IntN(4)
			} else if round < rounds && w%3 == 1 {
				killAfter = 1 + rand.IntN(10)
			}
			cmd := process(t, folder, "append", append([]string{strconv.Itoa(die)}, list...)...)
			all.Go(func() {
				var errs strings.Builder
				cmd.Stderr = &errs
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Error(err)
					return
				}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				lines := bufio.NewScanner(out)
				for n := 1; lines.Scan(); n++ {
					word, number, _ := strings.Cut(lines.Text(), " ")
					id, err := strconv.ParseInt(number, 10, 64)
					if err != nil {
						t.Errorf("a worker says %q", lines.Text())
						continue
					}
					mu.Lock()
					if word == "begin" {
						begun[id] = true
					} else {
						done[id] = true
					}
					mu.Unlock()
					if n == killAfter {
						_ = cmd.Process.Kill()
					}
				}
				if err := cmd.Wait(); err != nil && die == 0 && killAfter == 0 {
					t.Errorf("worker: %v: %s", err, errs.String())
				}
			})
		}
		all.Wait()
	}
	checkFile(t, filepath.Join(folder, processFile), total)
}

// appendLimited exports one analysis with the size of files limited to a
// little more than the file has.
func appendLimited() int {
	info, err := os.Stat(processFile)
	if err != nil {
		panic(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: uint64(info.Size()) + 300, Max: uint64(info.Size()) + 300}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		panic(err)
	}
	_, err = New(processFile, moscow).Export(context.Background(), delivery(1))
	var e *call.Error
	if !errors.As(err, &e) || e.Code != call.Unavailable {
		fmt.Println("unexpected:", err)
		return 1
	}
	fmt.Println(err)
	return 0
}

func TestPartialWriteIsTakenBack(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, processFile)
	before := header + strings.Repeat("заметка\n", 10_000)
	if err := os.WriteFile(path, []byte(before), fileMode); err != nil {
		t.Fatal(err)
	}
	out, err := process(t, folder, "limited").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "make room") {
		t.Errorf("error does not say what to do: %s", out)
	}
	if got := read(t, path); got != before {
		t.Errorf("the file has %d bytes, want %d as before", len(got), len(before))
	}
	export1(t, New(path, moscow), delivery(1))
}
