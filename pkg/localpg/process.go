package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a child that does not outlive us. One goroutine starts it, waits
// for it and closes done; err is valid after that.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// launch starts a child. A guarded one is shut down in order when this process
// is killed, any other is killed too where the system can do that.
func launch(cmd *exec.Cmd, guarded bool) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		// The system tells the child of the death of the thread that made it,
		// so that thread has to live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		signal := syscall.SIGKILL
		if guarded {
			signal = syscall.SIGINT
		}
		setDeathSignal(cmd, signal)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		if guarded && !hasDeathSignal {
			dismiss, err := watch(cmd)
			if err != nil {
				started <- errors.Join(err, cmd.Process.Kill(), cmd.Wait())
				return
			}
			defer dismiss()
		}
		started <- nil
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("running %s: %w", cmd.Path, err)
	}
	return p, nil
}

// stop ends a server: in order at first, then, when the context or a bound has
// passed, ever more firmly.
func (p *process) stop(ctx context.Context) error {
	hurry := ctx.Done()
	for _, step := range []struct {
		signal syscall.Signal
		bound  time.Duration
	}{
		{syscall.SIGINT, time.Minute},       // disconnects clients, writes everything out
		{syscall.SIGQUIT, 10 * time.Second}, // at once; the next start replays the log
	} {
		if err := p.cmd.Process.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stopping PostgreSQL: %w", err)
		}
		if p.ended(hurry, step.bound) {
			return nil
		}
		hurry = nil
	}
	return p.kill()
}

// kill ends it without its knowledge.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing PostgreSQL: %w", err)
	}
	if !p.ended(nil, 10*time.Second) {
		return fmt.Errorf("killing PostgreSQL: process %d does not end", p.cmd.Process.Pid)
	}
	return nil
}

// ended waits for the end and reports whether it came.
func (p *process) ended(hurry <-chan struct{}, bound time.Duration) bool {
	limit := time.NewTimer(bound)
	defer limit.Stop()
	select {
	case <-p.done:
		return true
	case <-hurry:
	case <-limit.C:
	}
	return false
}

// command is one of PostgreSQL's programs, run in a directory as the server's
// user.
func (s *Server) command(program, dir string, args ...string) *exec.Cmd {
	//nolint:gosec,noctx // A program that was found by its name; its end is ours to order, not a context's.
	cmd := exec.Command(s.bins.path(program), args...)
	cmd.Dir = dir
	cmd.Env = environment()
	cmd.SysProcAttr = s.user.attributes()
	cmd.WaitDelay = 5 * time.Second // for children of its own that outlive it
	return cmd
}

// environment is what the server needs. It gets no more: another user can read
// it there, and ours holds secrets.
func environment() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "TZ", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// initdb runs it and returns what it printed.
func (s *Server) initdb(ctx context.Context, dir string, args []string) (string, error) {
	cmd := s.command("initdb", dir, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := launch(cmd, false)
	if err != nil {
		return "", s.user.explain(err, dir)
	}
	select {
	case <-p.done:
		return out.String(), p.err
	case <-ctx.Done():
		// The output is read only once nobody writes it any more.
		if err := p.kill(); err != nil {
			return "", err
		}
		return out.String(), ctx.Err()
	}
}
