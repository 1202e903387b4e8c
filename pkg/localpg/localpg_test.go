//go:build unix

package localpg

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
)

// ownerEnv makes the test binary an owner to be killed: it does what the value
// says, prints what it made and waits.
const ownerEnv = "LOCALPG_TEST_OWNER"

func TestMain(m *testing.M) {
	if what, ok := os.LookupEnv(ownerEnv); ok {
		if err := own(what); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until killed
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func own(what string) error {
	if what == "watch" {
		cmd := exec.Command("/bin/sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		if _, err := watch(cmd); err != nil {
			return err
		}
		fmt.Println(cmd.Process.Pid, "-")
		return nil
	}
	dir, _ := strings.CutPrefix(what, "server ")
	s, err := Start(context.Background(), Options{DataDir: dir})
	if err != nil {
		return err
	}
	fmt.Println(s.Pid(), s.Dir())
	return nil
}

// testOwner is a process that started something, to be killed.
type testOwner struct {
	*exec.Cmd
	child int
	dir   string
}

func startOwner(t *testing.T, what string, env ...string) *testOwner {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), ownerEnv+"="+what), env...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o := &testOwner{Cmd: cmd}
	t.Cleanup(func() {
		in.Close()
		o.kill9()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the owner said %q: %v", line, err)
	}
	if _, err := fmt.Sscan(line, &o.child, &o.dir); err != nil {
		t.Fatalf("the owner said %q", line)
	}
	return o
}

// kill9 ends the owner without its knowledge.
func (o *testOwner) kill9() {
	_ = o.Process.Kill()
	_ = o.Wait()
}

// eventually waits for a condition that nobody announces.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	until := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(until) {
			t.Fatalf("in vain: %s", what)
		}
		<-time.After(poll)
	}
}

// gone reports whether a process has ended. In a container nobody may come for
// a dead orphan, which then stays in the table as a zombie.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	zombie := err == nil && strings.Contains(string(stat), ") Z ")
	return zombie || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// tempDir is one that the server's user may enter, which the testing package
// keeps it from.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestTemporary(t *testing.T) {
	t.Parallel()
	s := start(t, Options{MaxConnections: 20})
	url := s.URL("postgres")

	if got := query[string](t, url, "SHOW max_connections"); got != "20" {
		t.Errorf("max_connections is %s", got)
	}
	if got := query[string](t, url, "SHOW listen_addresses"); got != "127.0.0.1" {
		t.Errorf("it listens on %s", got)
	}
	// People search Russian texts in whatever case.
	if !query[bool](t, url, "SELECT 'Продажа КВАРТИР' ILIKE '%квартир%' AND lower('Ё') = 'ё'") {
		t.Error("upper and lower case do not hold for Russian")
	}
	if !strings.Contains(s.Description(), "PostgreSQL "+query[string](t, url, "SELECT split_part(current_setting('server_version'), ' ', 1)")) {
		t.Errorf("it calls itself %q", s.Description())
	}

	stranger := strings.Replace(url, s.password, "guess", 1)
	_, err := pgx.Connect(t.Context(), stranger)
	const invalidPassword = "28P01"
	if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) || pg.Code != invalidPassword {
		t.Errorf("with a wrong password: %v", err)
	}

	pid, done := s.Pid(), s.Done()
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	<-done
	if !gone(pid) {
		t.Error("the server still runs")
	}
	if _, err := os.Stat(s.Dir()); !os.IsNotExist(err) {
		t.Errorf("its directory is still there: %v", err)
	}
	if s.Pid() != 0 {
		t.Errorf("a stopped server has pid %d", s.Pid())
	}
	if err := s.Restart(t.Context()); err == nil {
		t.Error("a stopped server starts again")
	}
}

func TestDataStays(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "var", "a directory")
	first := start(t, Options{DataDir: dir, Durable: true})
	for range 2 {
		if err := first.CreateDatabase(t.Context(), "Post call"); err != nil {
			t.Fatal(err)
		}
	}
	exec1(t, first.URL("Post call"), "CREATE TABLE kept AS SELECT 42 AS n")
	if got := query[string](t, first.URL("postgres"), "SHOW fsync"); got != "on" {
		t.Errorf("fsync is %s", got)
	}

	if _, err := Start(t.Context(), Options{DataDir: dir}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("a second server on the same directory: %v", err)
	}

	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := start(t, Options{DataDir: dir, Durable: true})
	if got := query[int](t, second.URL("Post call"), "SELECT n FROM kept"); got != 42 {
		t.Errorf("the second server has %d", got)
	}
}

func TestKilledServer(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	url := s.URL("postgres")
	exec1(t, url, "CREATE TABLE kept AS SELECT 42 AS n")
	busy, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close(context.Background())

	done := s.Done()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := busy.Ping(t.Context()); err == nil {
		t.Error("a killed server's backend answers")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := query[int](t, url, "SELECT n FROM kept"); got != 42 {
		t.Errorf("after the restart there is %d", got)
	}
	if s.URL("postgres") != url {
		t.Errorf("its address changed to %s", s.URL("postgres"))
	}
}

func TestCancelledStop(t *testing.T) {
	t.Parallel()
	s := start(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	pid := s.Pid()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	if !gone(pid) {
		t.Error("the server still runs")
	}
}

func TestKilledOwner(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testOwner){
		"alone":           (*testOwner).kill9,
		"with its server": func(o *testOwner) { _ = killServer(o); o.kill9() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			o := startOwner(t, "server "+dir)
			end(o)
			// At once: the old server may still be there.
			s := start(t, Options{DataDir: dir})
			eventually(t, "the old server has ended", func() bool { return gone(o.child) })
			query[int](t, s.URL("postgres"), "SELECT 1")
		})
	}
}

// killServer kills the server of an owner, as the user that runs it.
func killServer(o *testOwner) error { return syscall.Kill(o.child, syscall.SIGKILL) }

func TestKilledOwnerEndsServer(t *testing.T) {
	t.Parallel()
	o := startOwner(t, "server "+tempDir(t))
	o.kill9()
	eventually(t, "the server ends with its owner", func() bool { return gone(o.child) })
}

// The way of the systems whose kernel does not tell a child of our death.
func TestWatch(t *testing.T) {
	t.Parallel()
	o := startOwner(t, "watch")
	if gone(o.child) {
		t.Fatal("the child ended before its owner")
	}
	o.kill9()
	eventually(t, "the child ends with its owner", func() bool { return gone(o.child) })
}

func TestDismissedWatch(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/bin/sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dismiss, err := watch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	dismiss()
	if gone(cmd.Process.Pid) {
		t.Error("the watch signalled a child of a living owner")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func TestSweep(t *testing.T) {
	t.Parallel()
	parent := tempDir(t)
	dead := startOwner(t, "server ", "TMPDIR="+parent)
	dead.kill9()
	living := startOwner(t, "server ", "TMPDIR="+parent)
	if filepath.Dir(dead.dir) != parent || filepath.Dir(living.dir) != parent {
		t.Fatalf("the directories are %s and %s", dead.dir, living.dir)
	}
	fresh := filepath.Join(parent, tempPrefix+"about-to-be-locked")
	if err := os.Mkdir(fresh, 0o700); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(parent, tempPrefix+"never-locked")
	if err := os.Mkdir(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(stale, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}

	eventually(t, "the dead owner's server ends", func() bool { return gone(dead.child) })
	sweep(parent)

	for dir, want := range map[string]bool{dead.dir: false, stale: false, living.dir: true, fresh: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: kept %v, want %v", filepath.Base(dir), err == nil, want)
		}
	}
}

func TestUnfinishedInit(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	unfinished := filepath.Join(dir, "data.new-123", "base")
	if err := os.MkdirAll(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	start(t, Options{DataDir: dir})
	if _, err := os.Stat(unfinished); !os.IsNotExist(err) {
		t.Errorf("what a killed initdb left is still there: %v", err)
	}
}

func TestUnsuitableDirectories(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ file, text, want string }{
		"another version":    {"data/PG_VERSION", "99\n", "holds data of PostgreSQL 99, which only that version can run; install it"},
		"somebody's server":  {"PG_VERSION", "15\n", "belongs to another PostgreSQL server"},
		"something else":     {"data/thesis.txt", "years of work", "holds no PostgreSQL data; move it away"},
		"a lost password":    {"data/PG_VERSION", installed(t), "reading the password"},
		"not a data at all":  {"data", "a file", "not a directory"},
		"an unreadable lock": {"lock/x", "", "opening the lock"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			path := filepath.Join(dir, tt.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Start(t.Context(), Options{DataDir: dir})
			if err == nil {
				_ = s.Stop(t.Context())
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error does not say %q: %v", tt.want, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != tt.text {
				t.Errorf("the file has become %q: %v", got, err)
			}
		})
	}
}

// installed is the major version that the tests run with.
func installed(t *testing.T) string {
	t.Helper()
	b, err := newest(t.Context(), candidates(), "")
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(b.major)
}

func TestClosedParent(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only as root another user runs the server")
	}
	closed := filepath.Join(tempDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{DataDir: filepath.Join(closed, "data")})
	if err == nil || !strings.Contains(err.Error(), "who may not enter "+closed+": ") {
		t.Errorf("below a closed directory: %v", err)
	}
}

func TestTakenPort(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	type result struct {
		*Server
		error
	}
	started := make(chan result, 1)
	go func() {
		s, err := Start(t.Context(), Options{DataDir: dir, Port: l.Addr().(*net.TCPAddr).Port})
		started <- result{s, err}
	}()
	eventually(t, "the server says that its port is taken", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "server.log"))
		return strings.Contains(string(b), "could not create any TCP/IP sockets")
	})
	l.Close()
	r := <-started
	if r.error != nil {
		t.Fatal(r.error)
	}
	query[int](t, r.URL("postgres"), "SELECT 1")
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCancelledStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := tempDir(t)
	if _, err := Start(ctx, Options{DataDir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled start: %v", err)
	}
	start(t, Options{DataDir: dir}) // which it does not stand in the way of
}

// Not parallel: a program that another test's fork still holds open for
// writing cannot be run.
func TestNewest(t *testing.T) {
	dirs := map[string]string{}
	var all []string
	for _, version := range []string{"9.6.24", "14.9", "14.10", "16beta1", "15.18 (Debian 15.18-0+deb12u1)"} {
		dir := tempDir(t)
		for _, program := range []string{"initdb", "postgres"} {
			script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", program, version)
			if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		dirs[dir] = version
		all = append(all, dir)
	}
	all = append(all, filepath.Join(tempDir(t), "gone"))

	for major, want := range map[string]string{"": "16beta1", "14": "14.10", "15": "15.18"} {
		b, err := newest(t.Context(), all, major)
		if err != nil || b.version != want || !strings.HasPrefix(dirs[b.dir], want) {
			t.Errorf("for %q it is %s of %s: %v", major, b.version, dirs[b.dir], err)
		}
	}
	for _, major := range []string{"9", "13", "17"} {
		if _, err := newest(t.Context(), all, major); !errors.Is(err, ErrNoBinaries) {
			t.Errorf("for %q: %v", major, err)
		}
	}
}
