package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/db"
)

func TestMain(m *testing.M) { Main(m) }

func value[T any](t *testing.T, p *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := p.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func run(t *testing.T, p *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := p.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Each has a table of the same name and sees its own rows only.
func TestNew(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			p := New(t)
			if value[*string](t, p, "SELECT to_regclass('river_job')::text") == nil {
				t.Error("it is not migrated")
			}
			run(t, p, fmt.Sprintf("CREATE TABLE mine AS SELECT %d AS n", i))
			if got := value[int](t, p, "SELECT sum(n) FROM mine"); got != i {
				t.Errorf("there is %d", got)
			}
		})
	}
}

func TestDropped(t *testing.T) {
	watcher := New(t)
	var name string
	t.Run("one", func(t *testing.T) {
		p := New(t)
		name = value[string](t, p, "SELECT current_database()")
		// A connection that the test forgets does not keep the database.
		conn, err := pgxpool.New(context.Background(), p.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		if err := conn.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if value[bool](t, watcher, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name) {
		t.Errorf("%s outlives its test", name)
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	p := Empty(t)
	if n := value[int](t, p, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"); n != 0 {
		t.Errorf("it holds %d things", n)
	}
	if err := db.Up(t.Context(), p); err != nil {
		t.Errorf("it cannot be migrated: %v", err)
	}
}

func TestPrivate(t *testing.T) {
	t.Parallel()
	server, url := Private(t)
	p := pool(t, url)
	run(t, p, "CREATE TABLE kept AS SELECT 42 AS n")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Ping(t.Context()); err == nil {
		t.Error("a killed server answers")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Reset()
	if got := value[int](t, p, "SELECT n FROM kept"); got != 42 {
		t.Errorf("after the restart there is %d", got)
	}
	value[int](t, New(t), "SELECT 1") // the others' server is another one
}

// Several processes work on one server that stays, on which others were killed.
func TestGivenServer(t *testing.T) {
	t.Parallel()
	server, url := Private(t)
	p := pool(t, url)
	template := templatePrefix + db.Fingerprint()
	abandoned := testPrefix + "20200101_abandoned"
	young := testPrefix + "29990101_young"
	for _, name := range []string{template, abandoned, young} {
		if err := server.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}

	failed := make(chan error, 2)
	for range cap(failed) {
		go func() {
			cmd := exec.Command(os.Args[0], "-test.run=^(TestNew|TestEmpty|TestDropped)$")
			cmd.Env = append(os.Environ(), "TEST_DATABASE_URL="+url)
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}

	if !value[bool](t, p, "SELECT datistemplate AND NOT datallowconn FROM pg_database WHERE datname = $1", template) {
		t.Error("the unfinished template was not made anew")
	}
	if got := value[string](t, p, "SELECT string_agg(datname, ' ') FROM pg_database WHERE starts_with(datname, $1)", testPrefix); got != young {
		t.Errorf("there are %s, want %s alone", got, young)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"postgres://me:p%40ss@h:1/old?sslmode=disable": "postgres://me:p%40ss@h:1/new?sslmode=disable",
		"host=h user=me dbname=old":                    "host=h user=me dbname=old dbname=new",
	} {
		got := at(from, "new")
		if got != want {
			t.Errorf("it is %s", got)
		}
		c, err := pgxpool.ParseConfig(got)
		if err != nil || c.ConnConfig.Database != "new" {
			t.Errorf("%s is read as something else: %v", got, err)
		}
	}
}

// Without Docker the answer is an error, whichever way it is missing. The
// library looks once a process, so each way is a process of its own.
func TestNoEngine(t *testing.T) {
	t.Parallel()
	const inner = "PGTEST_NO_ENGINE"
	if os.Getenv(inner) != "" {
		if d, err := container(t.Context()); err == nil || !strings.Contains(err.Error(), "no Docker engine answers") {
			t.Errorf("%+v: %v", d, err)
		}
		return
	}
	for name, host := range map[string]string{"nobody listens": "tcp://127.0.0.1:1", "no such socket": "unix:///nonexistent", "nonsense": "nonsense"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run=^TestNoEngine$", "-test.v")
			cmd.Env = append(os.Environ(), inner+"=1", "DOCKER_HOST="+host)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
