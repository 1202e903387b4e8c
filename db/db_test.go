package db_test

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"postcall/db"
	"postcall/pkg/pgtest"
)

//go:embed testdata/node_service.sql
var nodeService string

func TestMain(m *testing.M) { pgtest.Main(m) }

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestUpDownUp(t *testing.T) {
	t.Parallel()
	pool := pgtest.Empty(t)
	ctx := t.Context()
	up, err := db.UpTo(ctx, pool, 0)
	if err != nil {
		t.Fatal(err)
	}
	if current, err := db.Current(ctx, pool); err != nil || !current {
		t.Fatalf("current after up: %v, %v", current, err)
	}
	if version, err := db.Version(ctx, pool); err != nil || version != db.Newest() || version != up[len(up)-1].Version {
		t.Errorf("version %d after up, the newest is %d, %v", version, db.Newest(), err)
	}
	schema := columns(t, pool)
	for range up {
		if _, err := db.Down(ctx, pool); err != nil {
			t.Fatal(err)
		}
	}
	if down, err := db.Down(ctx, pool); err != nil || len(down) != 0 {
		t.Errorf("nothing is left to revert: %v, %v", down, err)
	}
	if version, err := db.Version(ctx, pool); err != nil || version != 0 {
		t.Errorf("version %d after down, %v", version, err)
	}
	if err := db.Up(ctx, pool); err != nil {
		t.Fatal(err)
	}
	if again := columns(t, pool); !slices.Equal(schema, again) {
		t.Errorf("the schema after down and up differs:\n%v\n%v", schema, again)
	}
	if more, err := db.UpTo(ctx, pool, 0); err != nil || len(more) != 0 {
		t.Errorf("a second up applied %v, %v", more, err)
	}
}

// Two processes that start at once do not collide: every migration is applied
// once.
func TestConcurrentUp(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t).Config().ConnString()
	applied := make([]int, 4)
	var g errgroup.Group
	for i := range applied {
		g.Go(func() error {
			pool, err := pgxpool.New(t.Context(), url)
			if err != nil {
				return err
			}
			defer pool.Close()
			list, err := db.UpTo(t.Context(), pool, 0)
			applied[i] = len(list)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, n := range applied {
		sum += n
	}
	if all, err := db.Status(t.Context(), pgtest.Empty(t)); err != nil || sum != len(all) {
		t.Errorf("4 processes applied %v migrations, %d in all expected, %v", applied, len(all), err)
	}
}

// River may have been installed by its own tool before.
func TestUpWithRiverThere(t *testing.T) {
	t.Parallel()
	pool := pgtest.Empty(t)
	if _, err := db.UpTo(t.Context(), pool, 1); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, `drop table goose_db_version`)
	if err := db.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
}

func TestNodeServiceMigratesInPlace(t *testing.T) {
	t.Parallel()
	pool := pgtest.Empty(t)
	exec(t, pool, nodeService)
	tables := []string{"webhook_events", "analyses", "crm_dispatches"}
	before := map[string][]string{}
	for _, table := range tables {
		before[table] = rowsAsText(t, pool, table, nodeColumns[table])
	}
	if err := db.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	same := func(when string) {
		t.Helper()
		for _, table := range tables {
			if got := rowsAsText(t, pool, table, nodeColumns[table]); !slices.Equal(got, before[table]) {
				t.Errorf("%s: %s changed\n got %v\nwant %v", when, table, got, before[table])
			}
		}
	}
	same("after up")

	type row struct {
		ID          int64
		DedupKey    string
		DuplicateOf *int64
		State       string
		Deliveries  int
	}
	rows, err := pool.Query(t.Context(), `select id, dedup_key, duplicate_of, analysis_state, deliveries from webhook_events order by id`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		t.Fatal(err)
	}
	id := func(n int64) *int64 { return &n }
	want := []row{
		{10, "call:post_call_transcription:conv_1:1739537297", nil, "done", 3},
		{11, "duplicate:11:call:post_call_transcription:conv_1:1739537297", id(10), "skipped", 1},
		{12, "duplicate:12:call:post_call_transcription:conv_1:1739537297", id(10), "done", 1},
		{13, "call:post_call_audio:conv_1:1739537301", nil, "none", 1},
		{14, "id:evt_secret_rotate", nil, "none", 2},
		{15, "duplicate:15:id:evt_secret_rotate", id(14), "skipped", 1},
	}
	for i, w := range want {
		if fmt.Sprint(w.ID, w.DedupKey, deref(w.DuplicateOf), w.State, w.Deliveries) !=
			fmt.Sprint(got[i].ID, got[i].DedupKey, deref(got[i].DuplicateOf), got[i].State, got[i].Deliveries) {
			t.Errorf("row %d:\n got %+v\nwant %+v", w.ID, got[i], w)
		}
	}
	// Two empty bodies were the same delivery as far as anybody can tell.
	if deref(got[7].DuplicateOf) != 16 || got[8].DuplicateOf != nil || got[9].DuplicateOf != nil {
		t.Errorf("rows without any id: %+v", got[6:])
	}

	// What lists read is made of the old rows: of each event once, with the
	// newest analysis that is one.
	listed := rowsAsText(t, pool, "calls join (select event_id as id from calls) rows on rows.id = event_id", "event_id, at, state, quality, topic")
	if want := []string{
		"(10,\"2025-02-14 12:48:17+00\",done,4,Квартира)", "(13,\"2025-02-14 12:48:21+00\",none,,)",
		"(14,\"2025-02-15 06:13:20+00\",none,,)", "(16,\"2025-02-15 06:13:22+00\",none,,)",
		"(18,\"2025-02-15 06:13:24+00\",none,,)", "(19,\"2025-02-15 06:13:25+00\",none,,)",
	}; !slices.Equal(listed, want) {
		t.Errorf("listed are\n%v, want\n%v", listed, want)
	}
	found := rowsAsText(t, pool, "(select event_id as id from calls where said @@ to_tsquery('russian', 'клиентом') or said @@ to_tsquery('russian', 'ольге')) found", "id")
	if !slices.Equal(found, []string{"(10)", "(14)"}) {
		t.Errorf("found by words: %v", found)
	}

	// The new key stands.
	_, err = pool.Exec(t.Context(), `insert into webhook_events (event_type, event_timestamp, payload, dedup_key)
		values ('post_call_transcription', 1, '{}', 'id:evt_secret_rotate')`)
	if err == nil {
		t.Error("a second event with the same key was taken")
	}
	all, err := db.Status(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for range all {
		if _, err := db.Down(context.WithoutCancel(t.Context()), pool); err != nil {
			t.Fatal(err)
		}
	}
	same("after down")
	if err := db.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	same("after down and up")
}

var nodeColumns = map[string]string{
	"webhook_events": "id, event_type, event_timestamp, agent_id, conversation_id, status, has_audio, has_user_audio, has_response_audio, payload, processed, processed_at, processor_note, received_at",
	"analyses":       "id, event_id, model, result, created_at",
	"crm_dispatches": "id, event_id, payload, response_text, status, created_at",
}

func rowsAsText(t *testing.T, pool *pgxpool.Pool, table, columns string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), fmt.Sprintf(`select (row(%s))::text from %s order by id`, columns, table))
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func columns(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		select table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
		from information_schema.columns where table_schema = 'public' order by 1`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func deref(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// A service that runs as another role than the one that migrates keeps no right
// to change the audit log, and forgets old entries by the one function only.
func TestAuditLogRights(t *testing.T) {
	t.Parallel()
	pool := pgtest.Empty(t)
	ctx := t.Context()
	if _, err := db.UpTo(ctx, pool, 5); err != nil {
		t.Fatal(err)
	}
	name := "service_" + pool.Config().ConnConfig.Database
	role := pgx.Identifier{name}.Sanitize()
	if _, err := pool.Exec(ctx, `create role `+role); err != nil {
		t.Skipf("this database's user may not make roles: %v", err)
	}
	t.Cleanup(func() {
		for _, sql := range []string{`drop owned by ` + role, `drop role ` + role} {
			if _, err := pool.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	exec(t, pool, `grant all on audit_log to `+role)
	if err := db.Up(ctx, pool); err != nil {
		t.Fatal(err)
	}
	for right, want := range map[string]bool{"select": true, "insert": true, "update": false, "delete": false, "truncate": false} {
		var has bool
		if err := pool.QueryRow(ctx, `select has_table_privilege($1, 'audit_log', $2)`, name, right).Scan(&has); err != nil || has != want {
			t.Errorf("%s: %t, %v", right, has, err)
		}
	}
	exec(t, pool, `insert into audit_log (at, actor, role, action, outcome) select now() - n * interval '40 days', 'x', 'x', 'x', 'x' from generate_series(0, 2) n`)
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local role `+role); err != nil {
			return err
		}
		var forgotten, left int
		err := tx.QueryRow(ctx, `select audit_log_forget('60 days')`).Scan(&forgotten)
		if err == nil {
			err = tx.QueryRow(ctx, `select count(*) from audit_log`).Scan(&left)
		}
		if forgotten != 1 || left != 2 {
			t.Errorf("%d forgotten, %d left", forgotten, left)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
