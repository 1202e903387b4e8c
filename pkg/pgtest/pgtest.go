// Package pgtest gives each test a PostgreSQL database of its own, cloned from
// a migrated template, so that tests run in parallel and against the real
// thing.
//
// The databases are on the server that TEST_DATABASE_URL names, else on one
// that the test process starts for itself and that ends with it, however it
// ends. A package that looks for leaked goroutines does so with Main.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"postcall/db"
	"postcall/pkg/localpg"
)

const (
	// patience bounds everything that is done for a test.
	patience = 5 * time.Minute

	templatePrefix = "postcall_template_"
	testPrefix     = "postcall_test_"
	// age is what a test's name tells of a database that nobody dropped.
	age = "20060102"
)

// New returns a pool on a migrated database that is the test's own. When the
// test ends the pool is closed and the database dropped.
func New(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return pool(tb, URL(tb))
}

// URL returns the address of a migrated database that is the test's own and is
// dropped when it ends.
func URL(tb testing.TB) string {
	tb.Helper()
	return clone(tb, migrated)
}

// Empty returns a pool on a database of the test's own that holds nothing.
func Empty(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return pool(tb, clone(tb, func(context.Context, string) (string, error) { return "template0", nil }))
}

// Private returns a server for a test that kills or restarts it, and the
// address of a migrated database on it. Without PostgreSQL's programs on the
// machine the test is skipped.
func Private(tb testing.TB) (*localpg.Server, string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	d, err := localpg.Provide(ctx, localpg.ProvideOptions{Database: "postcall"})
	if errors.Is(err, localpg.ErrNoBinaries) {
		tb.Skipf("a server of the test's own: %v", err)
	}
	if err != nil {
		tb.Fatalf("starting a server of the test's own: %v", err)
	}
	tb.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			tb.Errorf("stopping the test's own server: %v", err)
		}
	})
	if err := migrate(ctx, d.URL); err != nil {
		tb.Fatal(err)
	}
	return d.Server, d.URL
}

// Main runs a package's tests, stops the server, and then fails if a goroutine
// was left. It is called by TestMain and does not return.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	foreign, err := shared.stop()
	if err == nil && code == 0 && !foreign {
		err = goleak.Find(options...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "after the tests:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// shared is the process's server with its template.
var shared server

// server is started by the first test that needs it. Without a Main nobody
// stops it: it ends with the process, and its directory is removed by the next
// process that starts one.
type server struct {
	mu       sync.Mutex
	db       *localpg.Database
	template string
	err      error // the first failure; trying again would fail each test slowly
}

// use returns the server, starting it at need.
func (s *server) use(ctx context.Context) (*localpg.Database, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil && s.err == nil {
		s.db, s.err = localpg.Provide(ctx, localpg.ProvideOptions{
			URL:       os.Getenv("TEST_DATABASE_URL"),
			Server:    localpg.Options{MaxConnections: 300},
			Otherwise: container,
		})
	}
	return s.db, s.err
}

// stop ends the server and reports whether goroutines may be left that are
// nobody's fault here: a Docker client's.
func (s *server) stop() (foreign bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.db.Release != nil, s.db.Stop(ctx)
}

// migrated returns the name of the migrated template on the shared server,
// making it at need.
func migrated(ctx context.Context, admin string) (string, error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.template == "" && shared.err == nil {
		shared.template, shared.err = template(ctx, admin)
	}
	return shared.template, shared.err
}

// template makes a database with every migration unless it is there, and
// returns its name. A server may serve many processes: one of them makes it.
func template(ctx context.Context, admin string) (_ string, err error) {
	name := templatePrefix + db.Fingerprint()
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the template of the tests' databases: %w", err)
		}
	}()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		return "", err
	}
	// Closing the connection gives up the lock.
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended($1, 0))", templatePrefix); err != nil {
		return "", err
	}
	var finished bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)", name).Scan(&finished); err != nil {
		return "", err
	}
	if finished {
		return name, nil
	}
	if err := sweep(ctx, conn); err != nil {
		return "", err
	}
	quoted := pgx.Identifier{name}.Sanitize()
	// One that is no template yet was left by a process that died over it.
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + quoted + " WITH (FORCE)", "CREATE DATABASE " + quoted + " TEMPLATE template0 ENCODING 'UTF8'"} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", err
		}
	}
	if err := migrate(ctx, at(admin, name)); err != nil {
		return "", err
	}
	// Nobody may connect: a template that is in use cannot be cloned.
	_, err = conn.Exec(ctx, "ALTER DATABASE "+quoted+" IS_TEMPLATE true ALLOW_CONNECTIONS false")
	return name, err
}

// sweep drops the databases that killed tests left on a server that stays.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", testPrefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		day, _, _ := strings.Cut(strings.TrimPrefix(name, testPrefix), "_")
		made, err := time.Parse(age, day)
		if err != nil || time.Since(made) < 48*time.Hour {
			continue
		}
		// Without FORCE: one that is still in use, however old, stays.
		_, _ = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize())
	}
	return nil
}

// migrate applies every migration to a database.
func migrate(ctx context.Context, url string) error {
	p, err := open(ctx, url)
	if err != nil {
		return err
	}
	defer p.Close()
	return db.Up(ctx, p)
}

// clone makes a database of the test's own from a template and returns its
// address.
func clone(tb testing.TB, from func(ctx context.Context, admin string) (string, error)) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	d, err := shared.use(ctx)
	if err != nil {
		tb.Fatalf("no database for the tests: %v", err)
	}
	template, err := from(ctx, d.URL)
	if err != nil {
		tb.Fatal(err)
	}
	name := testPrefix + time.Now().UTC().Format(age) + "_" + strings.ToLower(rand.Text()[:12])
	quoted := pgx.Identifier{name}.Sanitize()
	sql := "CREATE DATABASE " + quoted + " TEMPLATE " + pgx.Identifier{template}.Sanitize()
	if err := execute(ctx, d.URL, sql); err != nil {
		tb.Fatalf("making the test's database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		// A test that forgot a connection fails where it waits for it, not here.
		if err := execute(ctx, d.URL, "DROP DATABASE "+quoted+" WITH (FORCE)"); err != nil {
			tb.Errorf("dropping the test's database: %v", err)
		}
	})
	return at(d.URL, name)
}

// execute runs a statement on a connection of its own: a pool's goroutines
// would show up in every test that looks for leaked ones.
func execute(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

// pool opens one on a test's database and closes it when the test ends.
func pool(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	p, err := open(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		closed := make(chan struct{})
		go func() {
			p.Close()
			close(closed)
		}()
		limit := time.NewTimer(30 * time.Second)
		defer limit.Stop()
		select {
		case <-closed:
		case <-limit.C:
			// Dropping the database comes next and breaks the connections.
			tb.Errorf("%d connections of the test's pool were never given back", p.Stat().AcquiredConns())
		}
	})
	return p
}

func open(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the database's address: %w", err)
	}
	// Migrating takes several at once, and tests of concurrency a few more.
	config.MaxConns = 2 * db.MinConns
	p, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening a pool on the database: %w", err)
	}
	return p, nil
}

// at is the address of another database on the same server.
func at(address, database string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		// The other form, "host=… dbname=…", in which the last word counts.
		return address + " dbname=" + database
	}
	u.Path = "/" + database
	return u.String()
}
