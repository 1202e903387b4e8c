package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/pgtest"
	"postcall/pkg/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func recent(t *testing.T, db postgres.DB, limit int) []postgres.Rejection {
	t.Helper()
	list, err := postgres.RecentRejections(t.Context(), db, limit)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func flush(t *testing.T, r *postgres.Rejections) {
	t.Helper()
	if _, err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `select count(*) from rejections`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRejections(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	r := postgres.NewRejections(pool, zap.NewNop())
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	r.Now = func() time.Time { now = now.Add(time.Second); return now }
	first := now.Add(time.Second)
	r.Record("mismatch", "203.0.113.5", "req-1", "curl/8", 14_000)
	r.Record("missing", "2001:db8::1", "", "", 0)
	flush(t, r)
	flush(t, r) // nothing is left
	list := recent(t, pool, 10)
	if len(list) != 2 || list[0].ID <= list[1].ID {
		t.Fatalf("want two, the newest first: %+v", list)
	}
	for i := range list {
		list[i].ID, list[i].At = 0, list[i].At.UTC()
	}
	want := []postgres.Rejection{
		{At: first.Add(time.Second), Reason: "missing", Address: "2001:db8::1"},
		{At: first, Reason: "mismatch", Address: "203.0.113.5", RequestID: "req-1", UserAgent: "curl/8", Bytes: 14_000},
	}
	if list[0] != want[0] || list[1] != want[1] {
		t.Errorf("\n got %+v\nwant %+v", list, want)
	}
	var null int
	if err := pool.QueryRow(t.Context(), `select count(*) from rejections where user_agent is null and request_id is null`).Scan(&null); err != nil || null != 1 {
		t.Errorf("%d rows without agent and request id, %v", null, err)
	}
	if got := recent(t, pool, 1); len(got) != 1 || got[0].Reason != "missing" {
		t.Errorf("the newest: %+v", got)
	}
	if c := r.Counts(); c != (postgres.RejectionCounts{Recorded: 2, Written: 2}) {
		t.Errorf("%+v", c)
	}
}

func TestHostileTexts(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	tests := []struct{ name, in, want string }{
		{"plain", "Mozilla/5.0 (Звонок; 通話)", "Mozilla/5.0 (Звонок; 通話)"},
		{"NUL", "a\x00b", "a?b"},
		{"lines", "a\r\nset-cookie: b\t\x1b[31m", "a??set-cookie: b??[31m"},
		{"the direction of writing", "a\u202eb\u2066c\u200bd", "a?b?c?d"},
		{"not UTF-8", "a\xff\xfeb\xc3", "a??b?"},
		{"SQL", "'); drop table rejections; --", "'); drop table rejections; --"},
		{"long", strings.Repeat("x", 100_000), strings.Repeat("x", 256)},
		{"cut in a character", "x" + strings.Repeat("ж", 1000), "x" + strings.Repeat("ж", 127)},
		{"cut in a long character", "xyz" + strings.Repeat("😀", 1000), "xyz" + strings.Repeat("😀", 63)},
		{"long and not UTF-8", strings.Repeat("\xff", 1000), strings.Repeat("?", 253)},
	}
	r := postgres.NewRejections(pool, zap.NewNop())
	for i, tt := range tests {
		r.Record(strconv.Itoa(i), tt.in, tt.in, tt.in, 1)
	}
	flush(t, r)
	list := recent(t, pool, 100)
	if len(list) != len(tests) {
		t.Fatalf("%d rows", len(list))
	}
	for _, got := range list {
		var i int
		if _, err := fmt.Sscan(got.Reason, &i); err != nil {
			t.Fatal(err)
		}
		tt := tests[i]
		if got.UserAgent != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got.UserAgent, tt.want)
		}
		if len(got.Address) > 64 || len(got.RequestID) > 128 || !utf8.ValidString(got.Address) {
			t.Errorf("%s: address %q, request id %q", tt.name, got.Address, got.RequestID)
		}
	}
}

// A flood is one statement, and leaves room for what others did.
func TestFloodOfRejections(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	statements := &counting{DB: pool}
	r := postgres.NewRejections(statements, zap.NewNop())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25_000 {
				r.Record("mismatch", "203.0.113.5", "req", "forger", 14_000)
			}
		})
	}
	wg.Wait()
	r.Record("expired", "34.67.146.145", "req", "genuine", 14_000)
	flush(t, r)
	if statements.n != 1 {
		t.Errorf("%d statements", statements.n)
	}
	list := recent(t, pool, 1000)
	if len(list) != 6 || list[0].UserAgent != "genuine" {
		t.Errorf("%d rows, the newest %+v", len(list), list[0])
	}
	if c := r.Counts(); c != (postgres.RejectionCounts{Recorded: 100_001, Written: 6, Unwritten: 99_995}) {
		t.Errorf("%+v", c)
	}

	// From millions of addresses: the newest.
	for n := range 10_000 {
		r.Record("mismatch", fmt.Sprintf("2001:db8::%x", n), "req", "forger", 1)
	}
	flush(t, r)
	list = recent(t, pool, 1000)
	if len(list) != 206 || list[0].Address != "2001:db8::270f" {
		t.Errorf("%d rows, the newest %+v", len(list), list[0])
	}
	if c := r.Counts(); c.Recorded != c.Written+c.Unwritten || c.Written != 206 {
		t.Errorf("%+v", c)
	}
	r.Record("mismatch", "203.0.113.5", "req", "forger", 1) // it may again
	flush(t, r)
	if n := count(t, pool); n != 207 {
		t.Errorf("%d rows", n)
	}
}

func TestTrim(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	// 500 rows of last month's, and 12 345 of now.
	for _, rows := range []struct {
		n  int
		at time.Time
	}{{500, now.AddDate(0, -1, -1)}, {12_345, now}} {
		if _, err := pool.Exec(t.Context(), `
			insert into rejections (at, reason, address) select $1, 'mismatch', n::text from generate_series(1, $2::int) n`, rows.at, rows.n); err != nil {
			t.Fatal(err)
		}
	}
	statements := &counting{DB: pool}
	r := postgres.NewRejections(statements, zap.NewNop())
	r.Now = func() time.Time { return now }
	if n, err := r.Trim(t.Context()); err != nil || n != 2845 {
		t.Errorf("trimmed %d, %v", n, err)
	}
	if statements.n != 4 { // 1000, 1000, 845, and none that is too old
		t.Errorf("%d statements", statements.n)
	}
	if list := recent(t, pool, 20_000); len(list) != 10_000 || list[0].Address != "12345" || list[9_999].Address != "2346" {
		t.Errorf("%d rows are left, %s to %s", len(list), list[len(list)-1].Address, list[0].Address)
	}
	// 30 days later all of them go, whatever their number.
	now = now.AddDate(0, 0, 31)
	var wg sync.WaitGroup
	for range 4 { // by several processes at once
		wg.Go(func() {
			for range 3 { // one skips what another has locked
				if _, err := r.Trim(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, pool); n != 0 {
		t.Errorf("%d old rows are left", n)
	}
	if n, err := r.Trim(t.Context()); n != 0 || err != nil {
		t.Errorf("trimming an empty table: %d, %v", n, err)
	}
}

// The database is killed and comes back.
func TestRejectionsWithoutDatabase(t *testing.T) {
	t.Parallel()
	server, url := pgtest.Private(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	r := postgres.NewRejections(pool, zap.NewNop())
	r.Record("mismatch", "first", "", "", 1)
	flush(t, r)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		for i := range 150 {
			r.Record("mismatch", fmt.Sprintf("%d-%d", n, i), "", "", 1)
		}
		if n, err := r.Flush(t.Context()); err == nil || n != 0 {
			t.Errorf("flushed %d to a database that is not there", n)
		}
	}
	r.Record("mismatch", "last", "", "", 1)
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	flush(t, r)
	list := recent(t, pool, 1000)
	if len(list) != 201 || list[0].Address != "last" || list[199].Address != "1-101" || list[200].Address != "first" {
		t.Errorf("not the newest 200 beside the first: %d, %s … %s", len(list), list[0].Address, list[len(list)-2].Address)
	}
	if c := r.Counts(); c != (postgres.RejectionCounts{Recorded: 452, Written: 201, Unwritten: 251}) {
		t.Errorf("%+v", c)
	}
}

// What comes while a flush fails stays in its order, and the limit on alike
// ones holds across it.
func TestRejectionsDuringAFlush(t *testing.T) {
	t.Parallel()
	var r *postgres.Rejections
	db := &scripted{exec: func(context.Context) error {
		for range 10 {
			r.Record("mismatch", "during", "", "", 1)
		}
		return errors.New("no database")
	}}
	r = postgres.NewRejections(db, zap.NewNop())
	for range 10 {
		r.Record("mismatch", "before", "", "", 1)
	}
	if _, err := r.Flush(t.Context()); err == nil {
		t.Fatal("no error")
	}
	r.Record("mismatch", "before", "", "", 1)
	r.Record("mismatch", "after", "", "", 1)
	db.exec = func(context.Context) error { return nil }
	if n, err := r.Flush(t.Context()); n != 11 || err != nil {
		t.Errorf("flushed %d, %v: want 5 before, 5 during and 1 after", n, err)
	}
	if c := r.Counts(); c != (postgres.RejectionCounts{Recorded: 22, Written: 11, Unwritten: 11}) {
		t.Errorf("%+v", c)
	}
}

func TestRunOfRejections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		var down atomic.Bool
		db := &scripted{exec: func(ctx context.Context) error {
			if down.Load() {
				<-ctx.Done() // a network that swallows everything
				return ctx.Err()
			}
			return nil
		}}
		r := postgres.NewRejections(db, zap.New(core))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		step := func(d time.Duration, want uint64, lines ...string) {
			t.Helper()
			time.Sleep(d) // on the test's clock
			synctest.Wait()
			if got := r.Counts().Written; got != want {
				t.Errorf("%d written, want %d", got, want)
			}
			var got []string
			for _, entry := range logs.TakeAll() {
				got = append(got, entry.Message)
			}
			if fmt.Sprint(got) != fmt.Sprint(lines) {
				t.Errorf("logged %q, want %q", got, lines)
			}
		}
		const (
			away = "rejections cannot be written; the newest are held in memory"
			back = "rejections are written again"
			more = "more deliveries were rejected than are written down"
		)
		r.Record("mismatch", "a", "", "", 1)
		step(4*time.Second, 0)
		step(2*time.Second, 1)
		for range 100 {
			r.Record("mismatch", "a", "", "", 1)
		}
		step(5*time.Second, 6, more)
		if n := db.calls(); n != 2 {
			t.Errorf("%d statements for two flushes", n)
		}
		step(10*time.Minute, 6) // an idle process only trims
		if n := db.calls(); n != 2+2*10 {
			t.Errorf("%d statements in ten idle minutes", n-2)
		}
		down.Store(true)
		r.Record("mismatch", "b", "", "", 1)
		step(5*time.Minute, 6, away) // once
		down.Store(false)
		step(5*time.Second, 7, back)
		r.Record("mismatch", "last", "", "", 1)
		cancel()
		<-ended
		step(0, 8)

		// A last flush into the void ends too.
		down.Store(true)
		r.Record("mismatch", "lost", "", "", 1)
		began := time.Now()
		r.Run(ctx)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("the end took %v", took)
		}
	})
}

// counting counts a database's statements.
type counting struct {
	postgres.DB
	mu sync.Mutex
	n  int
}

func (c *counting) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	return c.DB.Exec(ctx, sql, args...)
}

// scripted is a database that does what the test says.
type scripted struct {
	postgres.DB
	exec func(context.Context) error
	mu   sync.Mutex
	n    int
}

func (s *scripted) Exec(ctx context.Context, _ string, _ ...any) (pgconn.CommandTag, error) {
	s.mu.Lock()
	s.n++
	s.mu.Unlock()
	return pgconn.CommandTag{}, s.exec(ctx)
}

func (s *scripted) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func BenchmarkRecordInAFlood(b *testing.B) {
	r := postgres.NewRejections(nil, zap.NewNop())
	b.ReportAllocs()
	for b.Loop() {
		r.Record("mismatch", "203.0.113.5", "req", "forger", 14_000)
	}
}

func BenchmarkRecordFromEverywhere(b *testing.B) {
	r := postgres.NewRejections(nil, zap.NewNop())
	addresses := make([]string, 4096)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("2001:db8::%x", i)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		r.Record("mismatch", addresses[n%len(addresses)], "req-12345678", "forger/1.0", 14_000)
	}
}
