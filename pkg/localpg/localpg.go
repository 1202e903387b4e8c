// Package localpg runs a PostgreSQL server as a child of the calling process:
// for the demo, for a whole installation in one command, and for tests.
//
// A server lives in a directory of its own and never outlives its owner: when
// the owner is killed, the server shuts itself down, and the next start on the
// same directory waits for that and goes on. Nothing that a person put there is
// ever removed; what does not fit gives an error that says what to do.
package localpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	superuser = "postgres"

	// takeover bounds the wait for what an earlier run left: a server that is
	// still shutting down, shared memory that is still in use, a taken port.
	takeover = time.Minute
	// recovery bounds how long a server that has come up may replay its log
	// after a crash. Ending it sooner would only make the next start repeat it.
	recovery = 10 * time.Minute
	// poll is how often a condition that cannot be waited for is looked at.
	poll = 10 * time.Millisecond
)

// ErrInUse says that another process that is still alive owns the directory.
var ErrInUse = errors.New("the data directory is in use")

// ErrNoBinaries says that the machine has no PostgreSQL that would do.
var ErrNoBinaries = errors.New("no suitable PostgreSQL is installed")

// Options say how a server is run. The zero value is a throwaway server.
type Options struct {
	// DataDir keeps the server's data between runs. Empty means a temporary
	// one that goes when the server is stopped.
	DataDir string
	// Durable keeps what was committed through a power cut. Without it
	// everything is faster and only a killed process is survived.
	Durable bool
	// BinDir is where initdb and postgres are. Empty means that they are
	// looked for.
	BinDir string
	// Port on 127.0.0.1. Zero means a free one.
	Port int
	// MaxConnections at a time. Zero means PostgreSQL's own default, 100.
	MaxConnections int
}

// Server is a running PostgreSQL. Its methods may be called concurrently.
type Server struct {
	opts      Options
	dir       string // ours: lock, password and log, with the data below
	temporary bool
	lock      *os.File
	user      *account // who the server runs as; nil for ourselves
	bins      binaries
	password  string

	mu      sync.Mutex
	port    int
	proc    *process // nil once stopped
	stopped bool
}

// Start starts a server and returns when it takes connections. The context
// bounds the start only; the server runs until Stop.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{opts: o, port: o.Port}
	if err := s.claim(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	major, err := existing(s.dir)
	if err != nil {
		return nil, err
	}
	dirs := []string{o.BinDir}
	if o.BinDir == "" {
		dirs = candidates()
	}
	if s.bins, err = newest(ctx, dirs, major); err != nil {
		if major != "" {
			err = fmt.Errorf("%s holds data of PostgreSQL %s, which only that version can run; install it, or move the directory away to start afresh: %w", s.dir, major, err)
		}
		return nil, err
	}
	if s.user, err = serverAccount(s.data()); err != nil {
		return nil, err
	}
	if s.password, err = s.secret(major == ""); err != nil {
		return nil, err
	}
	if major == "" {
		if err := s.initialise(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// URL is the address of one of the server's databases, password included.
func (s *Server) URL(database string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Description says for people what is running.
func (s *Server) Description() string {
	return fmt.Sprintf("PostgreSQL %s from %s", s.bins.version, s.bins.dir)
}

// Dir is the directory of the server's data, password and log.
func (s *Server) Dir() string { return s.dir }

// Pid is the server's process, 0 when it was stopped.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.cmd.Process.Pid
}

// Done is closed when the server has ended, by Stop or by itself. Restart makes
// a new one.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return s.proc.done
}

// Stop shuts the server down, ending what clients are doing, and gives up the
// directory. When the context ends first the server is cut off, which loses
// nothing that was committed. Further calls do nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	if s.proc != nil {
		if err := s.proc.stop(ctx); err != nil {
			return err
		}
		s.proc = nil
	}
	s.stopped = true
	return s.release()
}

// Kill ends the server as kill -9 does, without a chance to tidy up, and waits
// until its backends are gone too. Restart brings it back.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return nil
	}
	return s.proc.kill()
}

// Restart starts the server again on the same data and port, having stopped it
// if it still runs. After Stop it cannot: the directory was given up.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("restarting PostgreSQL: it was stopped for good")
	}
	if s.proc != nil {
		if err := s.proc.stop(ctx); err != nil {
			return err
		}
		s.proc = nil
	}
	return s.run(ctx)
}

// CreateDatabase creates a database unless it is there.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, s.URL(superuser))
	if err != nil {
		return fmt.Errorf("connecting to create database %s: %w", name, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	const duplicateDatabase = "42P04"
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == duplicateDatabase {
		return nil
	}
	if err != nil {
		return fmt.Errorf("creating database %s: %w", name, err)
	}
	return nil
}

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) logPath() string { return filepath.Join(s.dir, "server.log") }

// claim takes the server's directory for this process alone.
func (s *Server) claim() (err error) {
	if s.opts.DataDir == "" {
		sweep(os.TempDir())
		s.temporary = true
		s.dir, s.lock, err = makeTemp(os.TempDir())
		return err
	}
	if s.dir, err = filepath.Abs(s.opts.DataDir); err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	//nolint:gosec // The server, another user, must pass; what is secret below is closed by itself.
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	s.lock, err = lockFile(filepath.Join(s.dir, lockName))
	if errors.Is(err, ErrInUse) {
		return fmt.Errorf("%w by another process%s: %s; stop that one, or choose another directory", ErrInUse, owner(s.dir), s.dir)
	}
	return err
}

// release gives the directory up; a temporary one goes.
func (s *Server) release() error {
	var err error
	if s.temporary {
		if err = os.RemoveAll(s.dir); err != nil {
			err = fmt.Errorf("removing the temporary database: %w", err)
		}
	}
	// Last, so that nobody sweeps a directory that is being removed.
	return errors.Join(err, unlock(s.lock))
}

// existing tells which major version's data a directory holds, "" for none.
func existing(dir string) (string, error) {
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return "", fmt.Errorf("%s belongs to another PostgreSQL server; choose another directory, or run that server and set DATABASE_URL", dir)
	}
	data := filepath.Join(dir, "data")
	version, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err == nil {
		return strings.TrimSpace(string(version)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the version of an existing database: %w", err)
	}
	if entries, err := os.ReadDir(data); err == nil && len(entries) > 0 {
		return "", fmt.Errorf("%s is not empty and holds no PostgreSQL data; move it away or choose another directory", data)
	}
	return "", nil
}

// secret is the superuser's password: it keeps other users of the machine out.
func (s *Server) secret(fresh bool) (string, error) {
	path := filepath.Join(s.dir, "password")
	if !fresh {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("reading the password of an existing database (it belongs beside the data; restore it from where the data came from): %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	password := rand.Text()
	err := os.WriteFile(path, []byte(password+"\n"), 0o600)
	if err = errors.Join(err, flush(path)); err != nil {
		return "", fmt.Errorf("keeping the database's password: %w", err)
	}
	// initdb reads it as the server's user.
	return password, s.user.own(path)
}

// initialise makes the data directory. It is complete or not there: initdb
// works beside it, and what a killed run left is nobody's data.
func (s *Server) initialise(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, takeover)
	defer cancel()
	unfinished, err := filepath.Glob(filepath.Join(s.dir, "data.new-*"))
	if err != nil {
		return err
	}
	for _, dir := range unfinished {
		// An initdb that was orphaned a moment ago may still write there.
		_ = os.RemoveAll(dir)
	}
	var failure error
	for _, ctype := range ctypes {
		fresh, err := os.MkdirTemp(s.dir, "data.new-")
		if err != nil {
			return fmt.Errorf("making the data directory: %w", err)
		}
		if err := s.user.own(fresh); err != nil {
			return err
		}
		args := []string{
			"-D", fresh, "-U", superuser, "-A", "scram-sha-256", "--pwfile", filepath.Join(s.dir, "password"),
			"-E", "UTF8", "--locale=C", "--lc-ctype=" + ctype,
		}
		if !s.opts.Durable {
			args = append(args, "--no-sync")
		}
		out, err := s.initdb(ctx, fresh, args)
		if err == nil {
			err = os.Rename(fresh, s.data())
			// A power cut must not bring the old name back, which is not kept.
			if err = errors.Join(err, flush(s.dir)); err != nil {
				return fmt.Errorf("putting the new data directory in place: %w", err)
			}
			return nil
		}
		failure = fmt.Errorf("initialising a database in %s: %w: %s", s.dir, err, strings.TrimSpace(out))
		_ = os.RemoveAll(fresh)
		if !strings.Contains(out, "locale") {
			break
		}
	}
	return failure
}

// ctypes are the character classes to try. Order and messages are the C
// locale's everywhere, but upper and lower case must hold for every script:
// people search Russian texts. Systems name such a locale differently; C is
// better than no database.
var ctypes = []string{"C.UTF-8", "en_US.UTF-8", "UTF-8", "C"}

// flush has a file or directory reach the disk.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// run starts the server on the data directory until it is ready. What an
// earlier run left behind passes by itself, so that is waited for.
func (s *Server) run(ctx context.Context) error {
	if err := rotate(s.logPath()); err != nil {
		return err
	}
	until := time.Now().Add(takeover)
	for {
		port := s.port
		if port == 0 {
			var err error
			if port, err = freePort(ctx); err != nil {
				return err
			}
		}
		proc, err := s.attempt(ctx, port)
		if err == nil {
			s.port, s.proc = port, proc
			return nil
		}
		var failed *startError
		if !errors.As(err, &failed) || !failed.passing() || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(10 * poll):
		}
	}
}

// attempt starts the server once and waits until it is ready.
func (s *Server) attempt(ctx context.Context, port int) (*process, error) {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening PostgreSQL's log: %w", err)
	}
	defer func() { _ = log.Close() }() // the server has its own
	info, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening PostgreSQL's log: %w", err)
	}
	cmd := s.command("postgres", s.data(), s.args(port)...)
	cmd.Stderr = log
	// Nothing is written there, but every backend holds it: the process counts
	// as ended when they have too, also when the server dies without them.
	cmd.Stdout = io.Discard
	proc, err := launch(cmd, true)
	if err != nil {
		return nil, s.user.explain(err, s.data())
	}
	limit := time.NewTimer(recovery)
	defer limit.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-proc.done:
			return nil, &startError{proc.err, tail(s.logPath(), info.Size())}
		case <-tick.C:
			if ready(s.data(), cmd.Process.Pid) {
				return proc, nil
			}
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-limit.C:
			err = fmt.Errorf("not ready after %v", recovery)
		}
		err = &startError{err, tail(s.logPath(), info.Size())}
		return nil, errors.Join(err, proc.stop(context.WithoutCancel(ctx)))
	}
}

func (s *Server) args(port int) []string {
	args := []string{
		"-D", s.data(), "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1",
		// No socket file: nothing to clean up, and no path that could be too long.
		"-c", "unix_socket_directories=",
		"-c", "logging_collector=off", "-c", "log_destination=stderr",
		// Failed starts are told apart by the log's words.
		"-c", "lc_messages=C",
		// The details of a violated constraint quote values, such as phone numbers.
		"-c", "log_error_verbosity=terse",
	}
	if s.opts.MaxConnections > 0 {
		args = append(args, "-c", "max_connections="+strconv.Itoa(s.opts.MaxConnections))
	}
	if !s.opts.Durable {
		// Commits are still handed to the system: killing the server loses none.
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off",
			// Shared memory in the data directory goes with it, however the run ends.
			"-c", "dynamic_shared_memory_type=mmap")
	}
	return args
}

// ready reports whether the server with this pid takes connections. Connecting
// would not tell: somebody else's server may listen there.
func ready(data string, pid int) bool {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	return len(lines) >= 8 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

// startError is a server that did not come up, with what it said itself.
type startError struct {
	err error
	log string
}

func (e *startError) Error() string {
	return fmt.Sprintf("starting PostgreSQL: %v: %s", e.err, e.log)
}

func (e *startError) Unwrap() error { return e.err }

// passing reports whether the cause goes away by itself: a server of a killed
// run that is still shutting down, its backends that still hold the shared
// memory, somebody who took the port first.
func (e *startError) passing() bool {
	for _, s := range []string{`lock file "postmaster.pid"`, "pre-existing shared memory block", "could not create any TCP/IP sockets"} {
		if strings.Contains(e.log, s) {
			return true
		}
	}
	return false
}

// freePort asks the system for one. Somebody may take it before the server
// does, which the server then says.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of a TCP listener
	return port, l.Close()
}

// rotate puts the last run's log aside and forgets the one before.
func rotate(path string) error {
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("putting away PostgreSQL's last log: %w", err)
	}
	return nil
}

// tail is the end of what was logged from an offset on.
func tail(path string, from int64) string {
	const limit = 2000
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) <= from {
		return "it logged nothing"
	}
	b = b[from:]
	return strings.TrimSpace(string(b[max(0, len(b)-limit):]))
}
