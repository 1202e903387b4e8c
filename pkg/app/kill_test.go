package app_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"postcall/pkg/openaitest"
)

// process runs one of the processes as the operating system sees it.
func (i *installation) process(name string, args ...string) (*exec.Cmd, output) {
	i.t.Helper()
	self, err := os.Executable()
	if err != nil {
		i.t.Fatal(err)
	}
	cmd := exec.CommandContext(i.t.Context(), self, args...)
	cmd.Env = append(os.Environ(), asProcess+"="+name)
	for k, v := range i.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out := output(filepath.Join(i.t.TempDir(), "out"))
	file, err := os.Create(string(out))
	if err != nil {
		i.t.Fatal(err)
	}
	cmd.Stderr, cmd.Stdout = file, file
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	if err := file.Close(); err != nil { // the process has its own
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, out
}

// forsake lets what a killed worker held have been running for an hour, instead
// of waiting for minutes until it is taken for lost. It must be called again and
// again: a statement of the killed one may still have been on its way.
func (i *installation) forsake(killed time.Time) {
	i.t.Helper()
	_, err := i.pool.Exec(i.t.Context(), `
		update river_job set attempted_at = attempted_at - interval '1 hour'
		where state = 'running' and attempted_at < $1 and attempted_at > now() - interval '30 minutes'`, killed.Add(time.Second))
	if err != nil {
		i.t.Fatal(err)
	}
}

// start runs ingest as a process on a port of its own and waits until it
// receives.
func (i *installation) start(name string) (*exec.Cmd, output) { //nolint:unparam // it says what is started where it is called
	i.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		i.t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		i.t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		i.t.Fatal(err)
	}
	i.env["PORT"] = port
	cmd, out := i.process(name)
	i.reach("http://127.0.0.1:" + port)
	eventually(i.t, func() string {
		if i.status("/health") != http.StatusOK {
			return name + " does not answer: " + out.String()
		}
		return ""
	})
	return cmd, out
}

// output is the file that a process writes to.
type output string

// String is what it has written so far.
func (o output) String() string {
	b, err := os.ReadFile(string(o))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// A worker that is killed at any point loses nothing and doubles nothing: not
// an analysis, not an entry of crm.md.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	const calls = 200
	ai := openaitest.New(t, openaitest.WithReply(func(openaitest.Request) openaitest.Reply {
		return openaitest.After(10*time.Millisecond, openaitest.Success())
	}))
	i := install(t, ai, map[string]string{"LOG_LEVEL": "warn"})
	i.ingest()
	var g errgroup.Group
	g.SetLimit(8)
	for n := range calls {
		g.Go(func() error {
			_, err := i.post.Send(t.Context(), callBody("conv_kill_"+strconv.Itoa(n)))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, done := range []int{20, 70, 120} {
		cmd, out := i.process("worker")
		eventually(t, func() string {
			if n, _ := strconv.Atoi(i.text(`select count(*) from analyses`)); n < done {
				return fmt.Sprintf("%d analyses, waiting for %d: %s", n, done, out)
			}
			return ""
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		// Nobody wants to wait here until its places have run out.
		if _, err := i.pool.Exec(t.Context(), `update throttle_places set expires_at = now()`); err != nil {
			t.Fatal(err)
		}
	}
	killed := time.Now()
	// A rescued job's next try is not waited for either.
	hurry := func() string {
		i.forsake(killed)
		if _, err := i.pool.Exec(t.Context(), `update river_job set scheduled_at = now() where state = 'retryable'`); err != nil {
			t.Fatal(err)
		}
		if n := i.text(`select count(*) from crm_dispatches where status = 'delivered'`); n != strconv.Itoa(calls) {
			return n + " delivered: " + i.text(`select json_object_agg(k, n) from (select kind || ' ' || state as k, count(*) as n from river_job group by 1) s`)
		}
		return ""
	}
	cmd, out := i.process("worker")
	eventually(t, hurry)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the worker ended with %v after being told to stop: %s", err, out)
	}
	for sql, want := range map[string]int{
		`select count(*) from analyses`:                                                     calls,
		`select count(distinct event_id) from analyses`:                                     calls,
		`select count(*) from webhook_events where analysis_state = 'done'`:                 calls,
		`select count(distinct analysis_id) from crm_dispatches where status = 'delivered'`: calls,
	} {
		if got := i.text(sql); got != strconv.Itoa(want) {
			t.Errorf("%s: got %s, want %d", sql, got, want)
		}
	}
	crm, err := os.ReadFile(i.crm)
	if err != nil {
		t.Fatal(err)
	}
	if n := i.entries(); n != calls {
		t.Errorf("%d entries in crm.md, want %d", n, calls)
	}
	for n := range calls {
		if c := strings.Count(strings.ReplaceAll(string(crm), `\`, ""), "conv_kill_"+strconv.Itoa(n)+"\n") +
			strings.Count(strings.ReplaceAll(string(crm), `\`, ""), "conv_kill_"+strconv.Itoa(n)+"`"); c == 0 {
			t.Fatalf("call %d is not in crm.md", n)
		}
	}
}

// Without what it needs, each process says exactly that, and ends with 2.
func TestMissingConfiguration(t *testing.T) {
	t.Parallel()
	for process, variables := range map[string][]string{
		"ingest": {"WEBHOOK_SECRET"},
		"worker": {"DATABASE_URL", "OPENAI_API_KEY", "ANALYZER=builtin"},
	} {
		i := &installation{t: t}
		cmd, out := i.process(process)
		err := cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 2 {
			t.Errorf("%s ended with %v", process, err)
		}
		for _, v := range variables {
			if !strings.Contains(out.String(), v) {
				t.Errorf("%s does not name %s:\n%s", process, v, out)
			}
		}
	}
}

// SIGTERM ends a process with 0.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	for _, name := range []string{"ingest", "worker"} {
		cmd, out := i.process(name)
		ready := map[string]string{"ingest": `"receiving"`, "worker": `"working"`}[name]
		eventually(t, func() string {
			if !strings.Contains(out.String(), ready) {
				return name + " is not ready: " + out.String()
			}
			return ""
		})
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
