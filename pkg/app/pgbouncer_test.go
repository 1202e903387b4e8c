package app_test

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"
)

// Ingest works through PgBouncer in transaction mode, as docs/scale.md says,
// while the worker is connected directly: River listens for new jobs.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("SKIPPED: there is no pgbouncer in PATH (Debian: apt-get install pgbouncer)")
	}
	i := install(t, nil, nil)
	direct, err := url.Parse(i.env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	c := i.pool.Config().ConnConfig
	address := free(t)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	// Any user may read the configuration: as root it runs as another.
	dir, err := os.MkdirTemp("", "postcall-pgbouncer-*") //nolint:usetesting // a test's own directory is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ini := fmt.Sprintf(`[databases]
* = host=%s port=%d user=%s password='%s'
[pgbouncer]
listen_addr = %s
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
ignore_startup_parameters = statement_timeout
`, c.Host, c.Port, c.User, c.Password, host, port)
	path := filepath.Join(dir, "pgbouncer.ini")
	if err := errors.Join(os.WriteFile(path, []byte(ini), 0o644), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, path)
	if os.Getuid() == 0 { // it refuses to be root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, func() string {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err.Error() + output(out.Name()).String()
		}
		conn.Close()
		return ""
	})

	i.worker() // directly
	pooled := *direct
	pooled.Host = address
	q := pooled.Query()
	q.Set("default_query_exec_mode", "exec") // no prepared statements: the next transaction has another connection
	pooled.RawQuery = q.Encode()
	i.env["DATABASE_URL"] = pooled.String()
	i.ingest()
	var g errgroup.Group
	g.SetLimit(32)
	for n := range 200 {
		g.Go(func() error {
			a, err := i.post.Send(t.Context(), callBody(fmt.Sprintf("conv_pooled_%d", n)))
			if err == nil && a.EventID == 0 {
				err = fmt.Errorf("call %d did not reach the database: %+v", n, a)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if a := i.send(callBody("conv_pooled_7")); !a.Duplicate {
		t.Errorf("a repeat: %+v", a)
	}
	i.wait("200", `select count(*) from crm_dispatches where status = 'delivered'`)
	if got := i.text(`select count(*) from analyses`); got != "200" {
		t.Errorf("%s analyses", got)
	}
}
