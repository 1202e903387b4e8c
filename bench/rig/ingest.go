package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout bounds how long ingest may take until it answers.
const startTimeout = 30 * time.Second

// Build compiles the ingest process into a directory and returns its path.
func Build(ctx context.Context, dir string) (string, error) { return build(ctx, dir, "ingest") }

// BuildWorker compiles the worker.
func BuildWorker(ctx context.Context, dir string) (string, error) { return build(ctx, dir, "worker") }

func build(ctx context.Context, dir, process string) (string, error) {
	path := filepath.Join(dir, process)
	//nolint:gosec // a path that was made here
	out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "postcall/cmd/"+process).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", process, err, out)
	}
	return path, nil
}

// Ingest is the real server process, on a port of 127.0.0.1 and a directory
// (spool, audio, log) that stay the same however often it is started. Its
// methods may be called concurrently.
type Ingest struct {
	// Dir holds its spool, its audio and its log.
	Dir string
	// Address is its host:port.
	Address string

	binary string
	env    []string

	mu      sync.Mutex
	current *process
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// NewIngest sets a process up. Of env, later settings win over earlier ones
// and over the defaults.
func NewIngest(ctx context.Context, binary, dir string, env ...string) (*Ingest, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	spool := filepath.Join(dir, "spool", "events.jsonl")
	if err := os.MkdirAll(filepath.Dir(spool), 0o700); err != nil {
		return nil, fmt.Errorf("making a place for the spool: %w", err)
	}
	i := &Ingest{Dir: dir, Address: address, binary: binary}
	// Nothing of an installation that the caller's environment may describe.
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TZ", "SYSTEMROOT"} {
		if v, ok := os.LookupEnv(name); ok {
			i.env = append(i.env, name+"="+v)
		}
	}
	i.env = append(i.env, "BIND_ADDR=127.0.0.1", "PORT="+port, "WEBHOOK_SECRET="+Secret,
		"SPOOL_PATH="+spool, "AUDIO_URL="+filepath.Join(dir, "audio"))
	i.env = append(i.env, env...)
	return i, nil
}

// With adds to its environment, before it is started.
func (i *Ingest) With(env ...string) { i.env = append(i.env, env...) }

// FreeAddress is a host:port of this machine that nobody listens on just now.
func FreeAddress(ctx context.Context) (string, error) { return freeAddress(ctx) }

// freeAddress asks the system for a port. Somebody may take it before ingest
// does, which then says so.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// URL is where deliveries are posted to.
func (i *Ingest) URL() string { return "http://" + i.Address + Path }

// Pid is the process that runs, 0 if none does.
func (i *Ingest) Pid() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.current.running() {
		return 0
	}
	return i.current.cmd.Process.Pid
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Launch starts the process and does not wait until it answers. What it
// returns is closed when the process has ended.
func (i *Ingest) Launch() (ended <-chan struct{}, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.current.running() {
		return nil, errors.New("starting ingest: it runs already")
	}
	log, err := os.OpenFile(i.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening ingest's log: %w", err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(i.binary)      //nolint:gosec,noctx // what was built here; its end is ordered, not a context's
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = i.Dir, i.env, log, log
	tie(cmd)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		// The child is tied to the thread that starts it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting ingest: %w", err)
	}
	i.current = p
	return p.done, nil
}

// Start starts the process and returns when it answers.
func (i *Ingest) Start(ctx context.Context) error {
	ended, err := i.Launch()
	if err != nil {
		return err
	}
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for !i.Answers(ctx) {
		select {
		case <-ended:
			return fmt.Errorf("ingest ended at once: %s", i.LogTail())
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("ingest does not answer: %s", i.LogTail())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// Answers reports whether the process answers at all.
func (i *Ingest) Answers(ctx context.Context) bool {
	status, _ := i.get(ctx, "/health")
	return status == http.StatusOK
}

// Kill ends the process as kill -9 does, and reports whether there was one.
func (i *Ingest) Kill() bool {
	i.mu.Lock()
	p := i.current
	i.mu.Unlock()
	if !p.running() {
		return false
	}
	_ = p.cmd.Process.Kill() // it may have ended this moment
	<-p.done
	return true
}

// Stop asks the process to end, and kills it when it does not.
func (i *Ingest) Stop() error {
	i.mu.Lock()
	p := i.current
	i.mu.Unlock()
	if !p.running() {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended this moment
	select {
	case <-p.done:
	case <-time.After(startTimeout):
		i.Kill()
		return errors.New("ingest did not end when it was asked to")
	}
	if p.err != nil {
		return fmt.Errorf("ingest ended with %w: %s", p.err, i.LogTail())
	}
	return nil
}

func (i *Ingest) logPath() string { return filepath.Join(i.Dir, "ingest.log") }

// LogTail is the end of what the process has logged.
func (i *Ingest) LogTail() string {
	const limit = 2000
	f, err := os.Open(i.logPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	b := make([]byte, min(info.Size(), limit))
	n, _ := f.ReadAt(b, info.Size()-int64(len(b)))
	return strings.TrimSpace(string(b[:n]))
}

// SpoolBytes is what lies in the spool's directory, all files together, those
// included that were put aside.
func (i *Ingest) SpoolBytes() (sum int64, files []string) {
	_ = filepath.WalkDir(filepath.Join(i.Dir, "spool"), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // a file that has just gone
		}
		if info, err := entry.Info(); err == nil && info.Size() > 0 {
			sum += info.Size()
			files = append(files, filepath.Base(path)+" ("+strconv.FormatInt(info.Size(), 10)+" bytes)")
		}
		return nil
	})
	return sum, files
}
