package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	said := func(s string) (d [32]byte) { copy(d[:], s); return d }
	d := func(id string, acknowledged, spooled bool) delivery {
		return delivery{id: id, said: said(id), acknowledged: acknowledged, spooled: spooled}
	}
	r := func(id string, jobs int) row { return row{id: id, said: said(id), jobs: jobs, source: "webhook"} }
	tests := []struct {
		name  string
		sent  []delivery
		rows  []row
		want  Comparison
		holds bool
	}{
		{"nothing", nil, nil, Comparison{}, true},
		{"as it should be",
			[]delivery{d("a", true, false), d("b", true, true), d("c", false, false), d("d", false, false)},
			[]row{r("a", 1), {id: "b", said: said("b"), jobs: 1, source: "spool"}, r("d", 1)},
			Comparison{Sent: 4, Acknowledged: 2, Spooled: 1, Unanswered: 2, Stored: 3, Drained: 1, Unasked: 1}, true},
		{"lost", []delivery{d("a", true, false), d("b", true, true)}, []row{r("a", 1)},
			Comparison{Sent: 2, Acknowledged: 2, Spooled: 1, Stored: 1, Lost: 1}, false},
		{"doubled, however often", []delivery{d("a", true, false)}, []row{r("a", 1), r("a", 1), r("a", 1)},
			Comparison{Sent: 1, Acknowledged: 1, Stored: 3, Doubled: 1}, false},
		{"doubled without an answer", []delivery{d("a", false, false)}, []row{r("a", 1), r("a", 1)},
			Comparison{Sent: 1, Unanswered: 1, Unasked: 1, Stored: 2, Doubled: 1}, false},
		{"no job", []delivery{d("a", true, false)}, []row{r("a", 0)},
			Comparison{Sent: 1, Acknowledged: 1, Stored: 1, JobsMissing: 1}, false},
		{"two jobs, without an answer", []delivery{d("a", false, false)}, []row{r("a", 2)},
			Comparison{Sent: 1, Unanswered: 1, Unasked: 1, Stored: 1, JobsDoubled: 1}, false},
		{"torn", []delivery{d("a", true, true)}, []row{{id: "a", said: said("A"), jobs: 1}},
			Comparison{Sent: 1, Acknowledged: 1, Spooled: 1, Stored: 1, Altered: 1}, false},
		{"never sent", []delivery{d("a", false, false)}, []row{r("", 1)},
			Comparison{Sent: 1, Unanswered: 1, Stored: 1, Unknown: 1}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := compare(tt.sent, tt.rows)
			if got != tt.want || got.Holds() != tt.holds {
				t.Errorf("\n got %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	good := func() *Figures { return &Figures{Drained: true, Comparison: Comparison{Acknowledged: 1}} }
	if !good().Holds() {
		t.Error("a good run fails")
	}
	for name, spoil := range map[string]func(*Figures){
		"not drained":          func(f *Figures) { f.Drained = false },
		"nothing acknowledged": func(f *Figures) { f.Acknowledged = 0 },
		"lost":                 func(f *Figures) { f.Lost = 1 },
		"a job of nothing":     func(f *Figures) { f.JobsWithoutEvent = 1 },
	} {
		f := good()
		spoil(f)
		var out bytes.Buffer
		f.Print(&out)
		if f.Holds() || strings.Contains(out.String(), "nothing lost") {
			t.Errorf("%s passes:\n%s", name, out.String())
		}
	}
}

// The same seed kills at the same times, and each process at its own.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	draw := func(seed, process uint64) (list []time.Duration) {
		for next := lifetimes(seed, process, 4*time.Second); len(list) < 1000; {
			list = append(list, next())
		}
		return list
	}
	first := draw(7, 1)
	if fmt.Sprint(first) != fmt.Sprint(draw(7, 1)) {
		t.Error("a seed does not repeat its schedule")
	}
	if fmt.Sprint(first) == fmt.Sprint(draw(7, 2)) || fmt.Sprint(first) == fmt.Sprint(draw(8, 1)) {
		t.Error("two schedules are one")
	}
	var sum time.Duration
	for _, d := range first {
		sum += d
		if d < 2*time.Second || d >= 6*time.Second {
			t.Errorf("a life of %v", d)
		}
	}
	if average := sum / 1000; average < 3800*time.Millisecond || average > 4200*time.Millisecond {
		t.Errorf("%v on average", average)
	}
}

// Only a whole 200 of ingest's acknowledges.
func TestAcknowledged(t *testing.T) {
	t.Parallel()
	answers := map[string]struct {
		status             int
		body               string
		acknowledged, file bool
	}{
		"kept":        {200, `{"status":"ok","event_id":1,"duplicate":false}`, true, false},
		"spooled":     {200, `{"status":"ok","event_id":null,"duplicate":false,"spooled":true}`, true, true},
		"unavailable": {503, `{"status":"ok"}`, false, false},
		"limited":     {429, `{}`, false, false},
		"not ingest":  {200, `<html>`, false, false},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _ := io.ReadAll(r.Body)
		w.WriteHeader(answers[string(name)].status)
		_, _ = io.WriteString(w, answers[string(name)].body)
	}))
	defer server.Close()
	c := newClient(server.URL)
	for name, want := range answers {
		a := c.post(t.Context(), []byte(name), "", "")
		if a.acknowledged() != want.acknowledged || a.spooled != want.file {
			t.Errorf("%s: %+v", name, a)
		}
	}
	server.Close()
	c.http.CloseIdleConnections()
	if a := c.post(t.Context(), []byte("kept"), "", ""); a.acknowledged() {
		t.Error("acknowledged by nobody")
	}
	if got := words(c.answers); !strings.Contains(got, "connection refused × 1") || !strings.Contains(got, "200 that is no answer of ingest's × 1") {
		t.Error(got)
	}
}

func TestFailure(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"connection refused": fmt.Errorf("dial: %w", syscall.ECONNREFUSED),
		"connection reset":   fmt.Errorf("read: %w", syscall.ECONNRESET),
		"connection closed":  io.ErrUnexpectedEOF,
		"no answer in time":  context.DeadlineExceeded,
		"another failure: x": errors.New("x"),
	} {
		if got := failure(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// A run that was watched holds only if the rules fired when they should, and
// no longer, and the dashboard had something to show.
func TestSight(t *testing.T) {
	t.Parallel()
	fired := []string{"PostcallDatabaseAway", "PostcallSpooling"}
	for name, tt := range map[string]struct {
		sight Sight
		holds bool
	}{
		"as it should be": {Sight{Queries: 54, Fired: fired}, true},
		"no dashboard":    {Sight{Fired: fired}, false},
		"no data":         {Sight{Queries: 54, Fired: fired, Empty: []string{"x"}}, false},
		"silent":          {Sight{Queries: 54, Fired: fired[:1]}, false},
		"without end":     {Sight{Queries: 54, Fired: fired, Late: fired[:1]}, false},
	} {
		f := &Figures{Drained: true, Comparison: Comparison{Acknowledged: 1}, Sight: &tt.sight}
		if f.Holds() != tt.holds {
			t.Errorf("%s: holds is %v", name, f.Holds())
		}
	}
}
