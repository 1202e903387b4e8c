package app_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"postcall/pkg/access"
	"postcall/pkg/app"
	"postcall/pkg/bpmsofttest"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/privacy"
)

// person is somebody who called.
type person struct{ phone, conversation string }

var (
	olga = person{"+79991234567", "conv_olga_01k9erased000000001"}
	// Her second call: the line tells no number, what she said does.
	olga2 = person{"8 (999) 123-45-67", "conv_olga_01k9erased000000002"}
	ivan  = person{"+79997654321", "conv_ivan_01k9stays0000000001"}
)

// personBody is a call of a person, with the number where the telephony tells
// it, or in what was said and collected.
func personBody(t *testing.T, p person, onTheLine bool) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(callBody(p.conversation), &e); err != nil {
		t.Fatal(err)
	}
	data := e["data"].(map[string]any)
	if onTheLine {
		data["metadata"].(map[string]any)["phone_call"] = map[string]any{
			"direction": "inbound", "agent_number": "+74950000101", "external_number": p.phone, "type": "sip_trunking"}
	} else {
		data["transcript"] = append(data["transcript"].([]any), map[string]any{
			"role": "user", "message": "Мой номер " + p.phone + ", звоните.", "time_in_call_secs": 9})
		data["analysis"].(map[string]any)["data_collection_results"] = map[string]any{"phone": map[string]any{"value": p.phone}}
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func audioBody(p person) []byte {
	sound := append([]byte("ID3\x04\x00\x00\x00\x00\x00\x00"), bytes.Repeat([]byte{0xff, 0xfb, 0x90, 0x00}, 400)...)
	return fmt.Appendf(nil, `{"type": "post_call_audio", "event_timestamp": 1795000111, "data": {"agent_id": "agent_1", "conversation_id": %q, "full_audio": %q}}`,
		p.conversation, base64.StdEncoding.EncodeToString(append(sound, p.conversation...)))
}

// traces are all places in which a text of the database, the files or the log
// holds one of the needles, which are regular expressions.
func (i *installation) traces(logs []*observer.ObservedLogs, needles ...string) []string {
	i.t.Helper()
	re := regexp.MustCompile(strings.Join(needles, "|"))
	var found []string
	look := func(where, text string) {
		if m := re.FindString(text); m != "" {
			found = append(found, where+": "+m)
		}
	}
	rows, err := i.pool.Query(i.t.Context(), `
		select c.table_schema, c.table_name, c.column_name, c.data_type
		from information_schema.columns c
		join information_schema.tables t using (table_schema, table_name)
		where t.table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')`)
	if err != nil {
		i.t.Fatal(err)
	}
	type column struct{ Schema, Table, Column, Type string }
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		i.t.Fatal(err)
	}
	if len(columns) < 100 {
		i.t.Fatalf("only %d columns are looked at", len(columns))
	}
	for _, c := range columns {
		name, table := pgx.Identifier{c.Column}.Sanitize(), pgx.Identifier{c.Schema, c.Table}.Sanitize()
		value := name + "::text"
		if c.Type == "bytea" {
			value = "encode(" + name + ", 'hex')"
		}
		rows, err := i.pool.Query(i.t.Context(), "select "+value+" from "+table+" where "+name+" is not null")
		if err != nil {
			i.t.Fatal(err)
		}
		values, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			i.t.Fatal(err)
		}
		for _, v := range values {
			if c.Type == "bytea" {
				raw, err := hex.DecodeString(v)
				if err != nil {
					i.t.Fatal(err)
				}
				v = string(raw)
			}
			look(c.Table+"."+c.Column, v)
		}
	}
	// Audio, crm.md with its lock file, spool: all in one directory.
	if err := filepath.WalkDir(filepath.Dir(i.crm), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		look("name", path)
		b, err := os.ReadFile(path)
		look(path, string(b))
		return err
	}); err != nil {
		i.t.Fatal(err)
	}
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	for _, l := range logs {
		for _, line := range l.All() {
			b, err := encoder.EncodeEntry(line.Entry, line.Context)
			if err != nil {
				i.t.Fatal(err)
			}
			look("log", b.String())
		}
	}
	return found
}

var (
	// Any way to write the number, and both ids.
	phoneOfOlga = `9\D{0,3}9\D{0,3}9\D{0,3}1\D{0,3}2\D{0,3}3\D{0,3}4\D{0,3}5\D{0,3}6\D{0,3}7`
	callsOfOlga = `conv_olga_01k9erased00000000[12]`
)

// whole runs an installation in which everybody has called.
func whole(t *testing.T, env map[string]string) (*installation, []*observer.ObservedLogs) {
	t.Helper()
	stand := bpmsofttest.NewLanding(t, bpmsofttest.LandingOptions{ID: landingID, Domain: "https://flats.example"})
	all := map[string]string{
		"EXTERNAL_CRM_ENABLED": "true", "CRM_SERVICE_URL": stand.URL(), "CRM_LANDING_ID": landingID,
		"CRM_REFERER": "https://flats.example/", "CRM_ALLOW_HTTP": "true",
		"PRIVACY_KEY": "0123456789abcdef0123456789abcdef",
	}
	for k, v := range env {
		all[k] = v
	}
	i := install(t, nil, all)
	i.ingest()
	received := i.logs
	core, worked := observer.New(zapcore.DebugLevel)
	i.loggingWorker(zap.New(core))
	for _, body := range [][]byte{
		personBody(t, olga, true), audioBody(olga), personBody(t, olga2, false), personBody(t, ivan, true), audioBody(ivan),
		fmt.Appendf(nil, "not JSON, but signed: %s", olga.phone),
	} {
		i.send(body)
	}
	i.wait("3", `select count(*) from crm_dispatches where target = 'bpmsoft' and status <> 'sending'`)
	i.wait("3", `select count(*) from crm_dispatches where target = 'markdown' and status = 'delivered'`)
	i.wait("0", `select count(*) from river_job where state not in ('completed')  and kind <> 'reconcile' and kind <> 'retention'`)
	// People write into the file too.
	file, err := os.OpenFile(i.crm, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("Ольге 8-999-123 45 67 перезвонить\nИвану тоже\n"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return i, []*observer.ObservedLogs{received, worked}
}

func (i *installation) archive() *app.Archive {
	i.t.Helper()
	c, err := config.LoadPrivacy(i.t.Context(), config.Map(i.env, nil))
	if err != nil {
		i.t.Fatal(err)
	}
	a, err := app.OpenArchive(i.t.Context(), c, zap.NewNop())
	if err != nil {
		i.t.Fatal(err)
	}
	i.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			i.t.Error(err)
		}
	})
	return a
}

// Must show: after an erasure nothing anywhere holds the phone or the calls, the
// audit entry stands, the copy made before holds all, and nothing comes back.
func TestErasure(t *testing.T) {
	t.Parallel()
	i, logs := whole(t, nil)
	a := i.archive()
	by := privacy.Actor{Name: "dpo", Role: "admin"}
	s, err := privacy.NewSubject("8 999 123 45 67", "", "RU")
	if err != nil {
		t.Fatal(err)
	}
	// The search itself must be able to find.
	before := strings.Join(i.traces(logs, phoneOfOlga, callsOfOlga), "\n")
	for _, place := range []string{"webhook_events.payload", "analyses.result", "crm_dispatches.payload", "river_job.metadata", "call_audio.conversation_id", "crm.md", "webhook_events.raw_body"} {
		if !strings.Contains(before, place) {
			t.Errorf("nothing in %s to be erased:\n%s", place, before)
		}
	}
	if strings.Contains(before, "log: ") {
		t.Errorf("the log holds a person's data:\n%s", before)
	}

	var zipped bytes.Buffer
	copied, err := a.Copy(t.Context(), s, by, &zipped, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (privacy.Copied{Events: 4, Analyses: 2, Dispatches: 4, Recordings: 1}); copied != want {
		t.Errorf("copied %+v, want %+v", copied, want)
	}
	checkCopy(t, zipped.Bytes())

	looked, err := a.Erase(t.Context(), s, by, true, nil)
	if err != nil || looked.Events != 4 || len(i.traces(logs, phoneOfOlga)) == 0 {
		t.Fatalf("a dry run gave %+v, %v", looked, err)
	}
	r, err := a.Erase(t.Context(), s, by, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Events != 4 || r.Calls != 2 || r.Analyses != 2 || r.Recordings != 1 || r.Entries != 2 || r.Lines != 1 {
		t.Errorf("erased %+v", r)
	}
	if len(r.Elsewhere) != 1 || r.Elsewhere[0].Target != string(call.TargetBPMSoft) || !strings.Contains(strings.Join(r.ByHand, "\n"), "bpmsoft") {
		t.Errorf("nobody is told of BPMSoft's leads: %+v", r)
	}
	if left := i.traces(logs, phoneOfOlga, callsOfOlga); len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
	if got := i.text(`select string_agg(action || ' ' || outcome, ', ' order by id) from audit_log where target like 'phone %' and actor = 'dpo'`); got != "privacy.copy done, privacy.look done, privacy.erase done" {
		t.Errorf("audited: %s", got)
	}
	// Everybody else's is whole.
	for sql, want := range map[string]string{
		`select count(*) from webhook_events`:             "2",
		`select count(*) from analyses`:                   "1",
		`select count(*) from crm_dispatches`:             "2",
		`select count(*) from call_audio`:                 "1",
		`select count(*) from river_job where args ? 'x'`: "0",
	} {
		if got := i.text(sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	crm, err := os.ReadFile(i.crm)
	if err != nil {
		t.Fatal(err)
	}
	if i.entries() != 1 || !bytes.Contains(crm, []byte("Ивану тоже\n")) || !bytes.Contains(crm, []byte("[удалено по требованию]\n")) {
		t.Errorf("crm.md is\n%s", crm)
	}

	// Late deliveries of the erased calls are taken and thrown away, audio too.
	for _, body := range [][]byte{personBody(t, olga, true), audioBody(olga), audioBody(olga2), fmt.Appendf(nil, "not JSON, but signed: %s", olga.phone)} {
		if got := i.send(body); got.EventID != 0 {
			t.Errorf("an erased call is event %d again", got.EventID)
		}
	}
	if left := i.traces(logs, phoneOfOlga, callsOfOlga); len(left) > 0 {
		t.Errorf("came back:\n%s", strings.Join(left, "\n"))
	}
	// She may call again.
	again := i.send(personBody(t, person{olga.phone, "conv_olga_01k9calls_again00001"}, true))
	if again.EventID == 0 {
		t.Error("a new call of an erased person is not taken")
	}
	// Whoever asks again for what is done finds nothing and fails at nothing.
	again2, err := a.Erase(t.Context(), privacy.Subject{Conversation: olga.conversation}, by, false, nil)
	if err != nil || again2.Events != 0 {
		t.Errorf("erasing again gave %+v, %v", again2, err)
	}
}

// checkCopy looks for everything in a person's copy.
func checkCopy(t *testing.T, b []byte) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if files[filepath.Dir(f.Name)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	var data struct{ Events, Analyses, Sent, Recordings []map[string]any }
	if err := json.Unmarshal(files["."], &data); err != nil {
		t.Fatal(err)
	}
	if len(data.Events) != 4 || len(data.Analyses) != 2 || len(data.Sent) != 4 || len(data.Recordings) != 1 {
		t.Errorf("data.json has %d events, %d analyses, %d sent, %d recordings", len(data.Events), len(data.Analyses), len(data.Sent), len(data.Recordings))
	}
	for _, text := range []string{olga.phone, olga2.phone, olga.conversation, olga2.conversation, "Двухкомнатную"} {
		if !bytes.Contains(files["."], []byte(text)) {
			t.Errorf("data.json lacks %q", text)
		}
	}
	if !bytes.HasPrefix(files["audio"], []byte("ID3")) || !bytes.HasSuffix(files["audio"], []byte(olga.conversation)) {
		t.Errorf("the recording has %d bytes", len(files["audio"]))
	}
	if bytes.Contains(b, []byte(ivan.conversation)) || bytes.Contains(files["."], []byte(ivan.phone)) {
		t.Error("somebody else is in the copy")
	}
}

// By the API: admins order, the worker does it.
func TestErasureByAPI(t *testing.T) {
	t.Parallel()
	admin, err := access.NewToken("dpo", access.Admin)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := access.NewToken("olaf", access.Operator)
	if err != nil {
		t.Fatal(err)
	}
	i, logs := whole(t, map[string]string{"ADMIN_TOKENS": admin.Entry() + "," + operator.Entry()})
	ask := func(method, path, token, body string, header map[string]string, want int) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, i.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := i.post.Client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("%s %s: %d %s %v, want %d", method, path, resp.StatusCode, b, err, want)
		}
		return b
	}
	status := func(b []byte) (s privacy.Status) {
		t.Helper()
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	mine := `{"phone": "` + olga.phone + `", "dry_run": false}`
	ask(http.MethodPost, "/api/erase", operator.Plain, mine, nil, http.StatusForbidden)
	ask(http.MethodGet, "/api/subject-export", operator.Plain, "", map[string]string{"X-Subject-Phone": olga.phone}, http.StatusForbidden)
	for _, wrong := range []string{``, `{}`, `{"phone": "12"}`, `{"phone": "+79991234567", "conversation_id": "conv_123456"}`, `[`} {
		ask(http.MethodPost, "/api/erase", admin.Plain, wrong, nil, http.StatusBadRequest)
	}
	ask(http.MethodGet, "/api/erasures/999", admin.Plain, "", nil, http.StatusNotFound)
	ask(http.MethodGet, "/api/subject-export", admin.Plain, "", map[string]string{"X-Subject-Phone": "+79995550000"}, http.StatusNotFound)
	checkCopy(t, ask(http.MethodGet, "/api/subject-export", admin.Plain, "", map[string]string{"X-Subject-Phone": olga2.phone}, http.StatusOK))

	// Unless it is said otherwise, nothing is erased.
	look := status(ask(http.MethodPost, "/api/erase", admin.Plain, `{"phone": "`+olga.phone+`"}`, nil, http.StatusAccepted))
	i.wait("done", `select state from erasures where id = $1`, look.ID)
	if len(i.traces(logs, phoneOfOlga)) == 0 {
		t.Fatal("a dry run erased")
	}
	ordered := status(ask(http.MethodPost, "/api/erase", admin.Plain, mine, nil, http.StatusAccepted))
	i.wait("done", `select state from erasures where id = $1`, ordered.ID)
	done := status(ask(http.MethodGet, fmt.Sprintf("/api/erasures/%d", ordered.ID), admin.Plain, "", nil, http.StatusOK))
	var r privacy.Result
	if err := json.Unmarshal(done.Result, &r); err != nil || r.Events != 4 || r.Entries != 2 || len(r.ByHand) == 0 {
		t.Errorf("result %s, %v", done.Result, err)
	}
	if left := i.traces(logs, phoneOfOlga, callsOfOlga); len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
	if got := i.text(`select count(*) from audit_log where action = 'privacy.erase' and outcome = 'done' and actor = 'dpo' and request_id is not null`); got != "1" {
		t.Errorf("%s audit entries", got)
	}
	// The agents' own number is everybody's.
	own := status(ask(http.MethodPost, "/api/erase", admin.Plain, `{"phone": "+74950000101", "dry_run": false}`, nil, http.StatusAccepted))
	i.wait("refused", `select state from erasures where id = $1`, own.ID)
	i.wait("2", `select count(*) from webhook_events`)
}

// An erasure that is broken off anywhere is done by the next run.
func TestErasureGoesOn(t *testing.T) {
	t.Parallel()
	i, logs := whole(t, nil)
	by := privacy.Actor{Name: "dpo", Role: "admin"}
	s := privacy.Subject{Phone: olga.phone}
	a := i.archive()
	places := 0
	for n := 1; ; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := config.LoadPrivacy(ctx, config.Map(i.env, nil))
		if err != nil {
			t.Fatal(err)
		}
		broken, err := app.OpenArchive(ctx, c, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		step := 0
		ctx = context.WithValue(ctx, stepKey{}, func() {
			if step++; step == n {
				cancel()
			}
		})
		_, err = broken.Erase(&stepping{ctx}, s, by, false, nil)
		cancel()
		if cerr := broken.Close(); cerr != nil {
			t.Fatal(cerr)
		}
		if err == nil || i.text(`select count(*) from erasures where state = 'done'`) == "1" {
			break // or it was the answer that got lost
		}
		places++
		if n > 500 {
			t.Fatal("it never gets through")
		}
	}
	if places < 10 {
		t.Errorf("broken off at %d places only", places)
	}
	if _, err := a.Erase(t.Context(), s, by, false, nil); err != nil {
		t.Fatal(err)
	}
	if left := i.traces(logs, phoneOfOlga, callsOfOlga); len(left) > 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
	if i.entries() != 1 {
		t.Errorf("%d entries in crm.md", i.entries())
	}
}

type stepKey struct{}

// stepping is a context that counts how often it is asked whether it has ended,
// and ends at one of these times.
type stepping struct{ context.Context }

func (s *stepping) Err() error {
	s.Value(stepKey{}).(func())()
	return s.Context.Err()
}
