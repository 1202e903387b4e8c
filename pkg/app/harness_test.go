package app_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/openaitest"
	"postcall/pkg/pgtest"
	"postcall/pkg/receive"
	"postcall/pkg/sender"
)

// asProcess makes the test binary run as one of the processes, so that a test
// can kill it.
const asProcess = "POSTCALL_TEST_AS_PROCESS"

func TestMain(m *testing.M) {
	switch os.Getenv(asProcess) {
	case "ingest":
		os.Exit(app.IngestMain())
	case "worker":
		os.Exit(app.WorkerMain())
	case "import":
		os.Exit(importMain())
	}
	// Most of these tests wait for another process. One for each processor would
	// leave the processors idle.
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	pgtest.Main(m)
}

const secret = "wsec_test_0123456789abcdef"

// installation is ingest and worker on a database of their own.
type installation struct {
	t    *testing.T
	env  map[string]string
	pool *pgxpool.Pool
	ai   *openaitest.Server
	url  string
	crm  string
	post *sender.Sender
	logs *observer.ObservedLogs
}

// install prepares an installation; nothing runs yet.
func install(t *testing.T, ai *openaitest.Server, env map[string]string) *installation {
	t.Helper()
	i := &installation{t: t, pool: pgtest.New(t), ai: ai, crm: filepath.Join(t.TempDir(), "crm.md")}
	i.env = map[string]string{
		"DATABASE_URL": i.pool.Config().ConnString(), "WEBHOOK_SECRET": secret,
		"BIND_ADDR": "127.0.0.1", "PORT": "0", "CRM_MD_PATH": i.crm,
		"SPOOL_PATH": filepath.Join(filepath.Dir(i.crm), "logs", "events.jsonl"), "AUDIO_URL": filepath.Join(filepath.Dir(i.crm), "audio"),
		"WEBHOOK_RATE_RPS": "100000", "WEBHOOK_RATE_BURST": "100000", "LOG_LEVEL": "debug",
		"ANALYZER": "builtin", "SHUTDOWN_TIMEOUT_MS": "10000",
	}
	if ai != nil {
		maps.Copy(i.env, map[string]string{
			"ANALYZER": "openai", "OPENAI_API_KEY": openaitest.Key, "OPENAI_BASE_URL": ai.URL(),
			"OPENAI_TIMEOUT_MS": "2000", "ANALYZE_MODEL": "gpt-test",
		})
	}
	maps.Copy(i.env, env)
	return i
}

func (i *installation) log() *zap.Logger {
	if i.logs == nil {
		var core zapcore.Core
		core, i.logs = observer.New(zapcore.DebugLevel)
		return zap.New(core)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	i.logs = logs
	return zap.New(core)
}

// serve runs a process of the installation until the test ends.
func (i *installation) serve(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	i.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			i.t.Errorf("stopping: %v", err)
		}
	})
}

func (i *installation) ingest() {
	i.t.Helper()
	c, err := config.LoadIngest(i.t.Context(), config.Map(i.env, nil))
	if err != nil {
		i.t.Fatal(err)
	}
	p, err := app.NewIngest(i.t.Context(), c, i.log())
	if err != nil {
		i.t.Fatal(err)
	}
	i.reach(p.URL())
	i.serve(p.Serve)
}

// reach is where deliveries go from now on.
func (i *installation) reach(url string) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	i.t.Cleanup(client.CloseIdleConnections)
	i.url = url
	i.post = &sender.Sender{URL: url + receive.Path, Secret: secret, Client: client}
}

func (i *installation) worker() {
	i.t.Helper()
	i.loggingWorker(zap.NewNop())
}

func (i *installation) loggingWorker(log *zap.Logger) {
	i.t.Helper()
	c, err := config.LoadWorker(i.t.Context(), config.Map(i.env, nil))
	if err != nil {
		i.t.Fatal(err)
	}
	p, err := app.NewWorker(i.t.Context(), c, log)
	if err != nil {
		i.t.Fatal(err)
	}
	i.serve(p.Serve)
}

// send posts a body that must be taken, and returns its event's id.
func (i *installation) send(body []byte) sender.Answer {
	i.t.Helper()
	a, err := i.post.Send(i.t.Context(), body)
	if err != nil {
		i.t.Fatal(err)
	}
	if a.Status != http.StatusOK {
		i.t.Fatalf("answered %d %s", a.Status, a.Detail)
	}
	return a
}

// text reads one value as text.
func (i *installation) text(sql string, args ...any) string {
	i.t.Helper()
	rows, err := i.pool.Query(i.t.Context(), "select coalesce(("+sql+")::text, 'NULL')", args...)
	if err != nil {
		i.t.Fatal(err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

// wait polls until a value of the database is the wanted one.
func (i *installation) wait(want, sql string, args ...any) {
	i.t.Helper()
	eventually(i.t, func() string {
		if got := i.text(sql, args...); got != want {
			return fmt.Sprintf("%s is %s, want %s", sql, got, want)
		}
		return ""
	})
}

// entries counts the entries of crm.md.
func (i *installation) entries() int {
	i.t.Helper()
	b, err := os.ReadFile(i.crm)
	if err != nil && !os.IsNotExist(err) {
		i.t.Fatal(err)
	}
	return strings.Count(string(b), "\n## ")
}

// eventually waits until check finds nothing wrong any more.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		wrong := check()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(wrong)
		}
		<-tick.C
	}
}

// callBody is a small call in which a person speaks.
func callBody(id string) []byte {
	b, err := json.Marshal(map[string]any{
		"type": "post_call_transcription", "event_timestamp": 1795000110,
		"data": map[string]any{
			"agent_id": "agent_1", "conversation_id": id, "status": "done",
			"transcript": []map[string]any{
				{"role": "agent", "message": "Добрый день! Какую квартиру ищете?", "time_in_call_secs": 0},
				{"role": "user", "message": "Двухкомнатную. Меня зовут Ольга.", "time_in_call_secs": 4},
			},
			"metadata": map[string]any{"start_time_unix_secs": 1795000000, "call_duration_secs": 12},
			"analysis": map[string]any{"call_successful": "success", "transcript_summary": "Клиент ищет двухкомнатную квартиру.", "call_summary_title": "Подбор квартиры"},
		},
	})
	if err != nil {
		panic(err)
	}
	return b
}
