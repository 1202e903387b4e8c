package app_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"postcall/db"
	"postcall/pkg/openaitest"
	"postcall/pkg/pgtest"
	"postcall/pkg/queue"
	"postcall/pkg/sender"
)

// Three ingest and three worker processes on one database share the work; when
// one of each is killed in the middle of it, nothing acknowledged is lost and
// nothing is done twice.
func TestThreeOfEach(t *testing.T) {
	t.Parallel()
	const calls = 300
	ai := openaitest.New(t)
	i := install(t, ai, map[string]string{"LOG_LEVEL": "warn", "ANALYZE_MAX_CONCURRENCY": "6"})
	var (
		ingests, workers []*exec.Cmd
		doors            []*sender.Sender
		mu               sync.Mutex
		answered         = map[string]int{} // acknowledged calls, by the process that did
	)
	spool := filepath.Dir(i.env["SPOOL_PATH"])
	for n := range 3 {
		i.env["SPOOL_PATH"] = filepath.Join(spool, strconv.Itoa(n), "events.jsonl")
		cmd, _ := i.start("ingest")
		ingests, doors = append(ingests, cmd), append(doors, i.post)
	}
	for range 3 {
		cmd, _ := i.process("worker")
		workers = append(workers, cmd)
	}
	var at time.Time // of the kill
	killed := make(chan struct{})
	var kill sync.Once
	var g errgroup.Group
	g.SetLimit(12)
	for n := range calls {
		if n == calls/2 {
			kill.Do(func() {
				// In the midst of both: some are analysed, most are not yet.
				eventually(t, func() string {
					if n, _ := strconv.Atoi(i.text(`select count(*) from analyses`)); n < 20 {
						return fmt.Sprintf("%d analyses", n)
					}
					return ""
				})
				for _, cmd := range []*exec.Cmd{ingests[0], workers[0]} {
					if err := cmd.Process.Kill(); err != nil {
						t.Error(err)
					}
					_ = cmd.Wait()
				}
				at = time.Now()
				close(killed)
			})
		}
		g.Go(func() error {
			body := callBody(fmt.Sprintf("conv_three_%d", n))
			// As a balancer does: whoever does not answer is passed over.
			for try := range doors {
				door := (n + try) % len(doors)
				a, err := doors[door].Send(t.Context(), body)
				if err != nil {
					continue
				}
				if a.Status != http.StatusOK {
					return fmt.Errorf("call %d was answered %d %s", n, a.Status, a.Detail)
				}
				mu.Lock()
				answered[fmt.Sprintf("ingest %d", door)]++
				mu.Unlock()
				return nil
			}
			return fmt.Errorf("call %d found nobody", n)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	<-killed
	eventually(t, func() string {
		// That jobs of the living which have run since then are taken for lost too
		// must do no harm.
		i.forsake(at)
		if _, err := i.pool.Exec(t.Context(), `update river_job set scheduled_at = now() where state = 'retryable'`); err != nil {
			t.Fatal(err)
		}
		if n := i.text(`select count(*) from crm_dispatches where status = 'delivered'`); n != strconv.Itoa(calls) {
			return n + " delivered: " + i.text(`select json_object_agg(k, n) from (select kind || ' ' || state as k, count(*) as n from river_job group by 1) s`)
		}
		return ""
	})
	for sql, want := range map[string]int{
		`select count(*) from webhook_events`:                                               calls,
		`select count(*) from webhook_events where analysis_state = 'done'`:                 calls,
		`select count(*) from analyses`:                                                     calls,
		`select count(distinct event_id) from analyses`:                                     calls,
		`select count(distinct analysis_id) from crm_dispatches where status = 'delivered'`: calls,
	} {
		if got := i.text(sql); got != strconv.Itoa(want) {
			t.Errorf("%s: got %s, want %d", sql, got, want)
		}
	}
	if n := i.entries(); n != calls {
		t.Errorf("%d entries in crm.md, want %d", n, calls)
	}
	for n := range doors {
		if answered[fmt.Sprintf("ingest %d", n)] == 0 {
			t.Errorf("ingest %d took nothing: %v", n, answered)
		}
	}
	rows, err := i.pool.Query(t.Context(), `select attempted_by[1], count(*) from river_job where kind = 'analyze' group by 1`)
	if err != nil {
		t.Fatal(err)
	}
	type share struct {
		Worker string
		Jobs   int
	}
	shares, err := pgx.CollectRows(rows, pgx.RowToStructByPos[share])
	if err != nil {
		t.Fatal(err)
	}
	if len(shares) != 3 {
		t.Errorf("the work was not shared by three: %v", shares)
	}
	t.Logf("taken: %v; analysed: %v", answered, shares)
}

// bin finds one of PostgreSQL's own programs, those of the server that runs.
func bin(t *testing.T, i *installation, name string) string {
	t.Helper()
	version, _, _ := strings.Cut(i.text(`select current_setting('server_version')`), ".")
	for _, path := range []string{"/usr/lib/postgresql/" + version + "/bin/" + name, "/usr/pgsql-" + version + "/bin/" + name} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED: there is no %s of PostgreSQL %s here", name, version)
	}
	return path
}

// A backup of a running installation, restored into an empty database: a new
// installation goes on from it. What was queued is analysed, what ElevenLabs
// repeats is known, new calls are taken.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	old := install(t, nil, nil)
	old.ingest()
	for n := range 20 {
		old.send(callBody(fmt.Sprintf("conv_backup_%d", n)))
	}
	old.worker()
	old.wait("20", `select count(*) from crm_dispatches where status = 'delivered'`)
	client, err := queue.NewInserter(old.pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.QueuePause(t.Context(), queue.QueueAnalyze, nil); err != nil {
		t.Fatal(err)
	}
	old.wait("true", `select paused_at is not null from river_queue where name = 'analyze'`)
	waiting := 0
	for n := range 5 { // the backup finds these waiting, if no worker took one in passing
		old.send(callBody(fmt.Sprintf("conv_waiting_%d", n)))
		waiting++
	}
	before := old.text(`select count(*) from webhook_events`)

	dump := filepath.Join(t.TempDir(), "postcall.dump")
	pgDump, pgRestore := bin(t, old, "pg_dump"), bin(t, old, "pg_restore")
	do := func(name string, args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
		}
	}
	do(pgDump, "--format=custom", "--no-owner", "--file="+dump, "--dbname="+old.env["DATABASE_URL"])
	restored := pgtest.Empty(t)
	do(pgRestore, "--no-owner", "--exit-on-error", "--dbname="+restored.Config().ConnString(), dump)

	i := install(t, nil, nil)
	i.pool = restored
	i.env["DATABASE_URL"] = restored.Config().ConnString()
	if current, err := db.Current(t.Context(), restored); err != nil || !current {
		t.Fatalf("the restored schema is current: %v, %v", current, err)
	}
	if got := i.text(`select count(*) from webhook_events`); got != before {
		t.Fatalf("%s events were restored of %s", got, before)
	}
	// The pause came along; whoever restores ends it (docs/operations.md).
	there, err := queue.NewInserter(restored, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := there.QueueResume(t.Context(), queue.QueueAnalyze, nil); err != nil {
		t.Fatal(err)
	}
	i.ingest()
	i.worker()
	if a := i.send(callBody("conv_backup_3")); !a.Duplicate {
		t.Errorf("a repeat is not known after the restore: %+v", a)
	}
	fresh := i.send(callBody("conv_after_restore"))
	if fresh.Duplicate {
		t.Errorf("a new call is taken for a repeat: %+v", fresh)
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, fresh.EventID)
	i.wait(strconv.Itoa(20+waiting+1), `select count(*) from webhook_events where analysis_state = 'done'`)
	i.wait(strconv.Itoa(20+waiting+1), `select count(distinct event_id) from crm_dispatches where status = 'delivered'`)
	if got := i.text(`select count(*) - count(distinct event_id) from analyses`); got != "0" {
		t.Errorf("%s calls were analysed twice", got)
	}
}

// The Node service's database, filled as it leaves it, is taken over: what was
// there stays, ElevenLabs' repeats of its calls are known, what it had not
// analysed can be, and new calls go their whole way.
func TestUpgradeFromNode(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	i.pool = pgtest.Empty(t)
	i.env["DATABASE_URL"] = i.pool.Config().ConnString()
	node, err := os.ReadFile("../../db/testdata/node_service.sql")
	if err != nil {
		t.Fatal(err)
	}
	// Beside the odd rows as many ordinary ones as a year brings.
	const years = 5000
	for _, sql := range []string{string(node), fmt.Sprintf(`
		insert into webhook_events (event_type, event_timestamp, agent_id, conversation_id, status, payload, processed, processed_at)
		select 'post_call_transcription', 1739000000 + n, 'agent_1', 'conv_node_' || n, 'done',
			jsonb_build_object('type', 'post_call_transcription', 'event_timestamp', 1739000000 + n, 'data', jsonb_build_object(
				'agent_id', 'agent_1', 'conversation_id', 'conv_node_' || n, 'status', 'done', 'transcript',
				jsonb_build_array(jsonb_build_object('role', 'user', 'message', 'Добрый день, ищу квартиру', 'time_in_call_secs', 1)))),
			n %% 50 <> 0, case when n %% 50 <> 0 then now() end
		from generate_series(1, %d) n`, years),
		`insert into analyses (event_id, model, result) select id, 'gpt-4o-mini', '{"summary_ru": "x"}' from webhook_events where conversation_id like 'conv_node_%' and processed`,
	} {
		if _, err := i.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	count := func() string {
		return i.text(`select row((select count(*) from webhook_events), (select count(*) from analyses), (select count(*) from crm_dispatches),
			(select md5(string_agg(payload::text, '' order by id)) from webhook_events))`)
	}
	before := count()
	if err := db.Up(t.Context(), i.pool); err != nil {
		t.Fatal(err)
	}
	if after := count(); after != before {
		t.Fatalf("the migration changed what was there: %s, %s", before, after)
	}
	i.ingest()
	i.worker()
	repeat := bytes.ReplaceAll(callBody("conv_node_7"), []byte("1795000110"), []byte("1739000007"))
	if a := i.send(repeat); !a.Duplicate {
		t.Errorf("a repeat of a call that the Node service had kept: %+v", a)
	}
	fresh := i.send(callBody("conv_after_upgrade"))
	i.wait("delivered", `select status from crm_dispatches where event_id = $1`, fresh.EventID)

	// What the Node service had left undone is queued by whoever wants it.
	if got := i.text(`select count(*) from webhook_events where conversation_id like 'conv_node_%' and analysis_state = 'none'`); got != strconv.Itoa(years/50) {
		t.Errorf("%s calls are known to be without an analysis, want %d", got, years/50)
	}
	client, err := queue.NewInserter(i.pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	left, err := strconv.ParseInt(i.text(`select min(id) from webhook_events where conversation_id like 'conv_node_%' and analysis_state = 'none'`), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), i.pool, func(tx pgx.Tx) error {
		return queue.Reprocess(t.Context(), client, tx, left, queue.ReprocessOptions{MaxAttempts: 8})
	})
	if err != nil {
		t.Fatal(err)
	}
	i.wait("done", `select analysis_state from webhook_events where id = $1`, left)
	if got := i.text(`select count(*) from river_job where kind = 'analyze'`); got != "2" {
		t.Errorf("%s analyses were queued; the old calls must not be paid for again unasked", got)
	}
}

// A container without a shell asks its process with the process's own program.
func TestHealthcheck(t *testing.T) {
	t.Parallel()
	i := install(t, nil, nil)
	ask := func(name string) (int, string) {
		t.Helper()
		cmd, out := i.process(name, "healthcheck")
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode(), out.String()
	}
	if code, out := ask("worker"); code != 2 || !strings.Contains(out, "METRICS_ADDR") {
		t.Errorf("without METRICS_ADDR: %d %s", code, out)
	}
	ingest, _ := i.start("ingest")
	i.env["METRICS_ADDR"] = free(t)
	worker, _ := i.process("worker")
	for _, name := range []string{"ingest", "worker"} {
		eventually(t, func() string {
			if code, out := ask(name); code != 0 {
				return fmt.Sprintf("%s: %d %s", name, code, out)
			}
			return ""
		})
	}
	for name, cmd := range map[string]*exec.Cmd{"ingest": ingest, "worker": worker} {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		if code, _ := ask(name); code != 1 {
			t.Errorf("%s has ended and its health check says %d", name, code)
		}
	}
}
