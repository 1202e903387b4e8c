package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A small run goes the whole way, on an empty database and on one that holds
// calls, and counts what it says that it counts.
func TestSketch(t *testing.T) {
	t.Parallel()
	out, report := new(bytes.Buffer), filepath.Join(t.TempDir(), "report.json")
	c := command()
	c.SetArgs([]string{"--archive", "300", "--backlog", "40", "--rate", "10", "--steady", "1s", "--rounds", "1", "--json", report})
	c.SetOut(out)
	c.SetErr(new(bytes.Buffer))
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Measured) != 2 || r.Measured[0].Archive != 0 || r.Measured[1].Archive != 300 {
		t.Fatalf("measured were %s", text)
	}
	for _, m := range r.Measured {
		l := m.Latency
		if l.Sent != 10 || l.P50 <= 0 || l.P95 < l.P50 || l.Max < l.P95 {
			t.Errorf("latency is %+v", l)
		}
		if len(m.Drains) != 1 || len(m.NoOps) != 1 {
			t.Fatalf("%d drains, %d of jobs that do nothing", len(m.Drains), len(m.NoOps))
		}
		if d := m.Drains[0]; d.Jobs != 40 || d.PerSecond <= 0 || d.Exported < 40/d.PerSecond || d.Indexed < d.Exported {
			t.Errorf("the backlog is %+v", d)
		}
		if n := m.NoOps[0]; n.Jobs != 40 || n.PerSecond <= 0 || n.Exported != 0 {
			t.Errorf("the jobs that do nothing are %+v", n)
		}
		if m.Ratio() != m.Drains[0].PerSecond/m.NoOps[0].PerSecond {
			t.Errorf("the ratio is %v", m.Ratio())
		}
	}
	if !strings.Contains(out.String(), "with 300 before: 40 analysed") {
		t.Errorf("printed was\n%s", out)
	}
}

func TestWrongFlags(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"--rate=0", "--backlog=0", "--concurrency=0", "--rounds=0", "--steady=1ms", "--archive=-1"} {
		c := command()
		c.SetArgs([]string{flag})
		c.SetOut(new(bytes.Buffer))
		c.SetErr(new(bytes.Buffer))
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "must be") {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
