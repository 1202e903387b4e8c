package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// goal is how fast a backlog should be worked off, to River's jobs that do
// nothing.
const goal = 0.15

// Report is what a run found.
type Report struct {
	Began       time.Time  `json:"began"`
	Processors  int        `json:"processors"`
	Postgres    string     `json:"postgres"`
	FsyncMS     float64    `json:"fsync_ms"`
	BodyBytes   int        `json:"body_bytes"`
	Backlog     int        `json:"backlog"`
	Concurrency int        `json:"concurrency"`
	Measured    []Measured `json:"measured"`
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%d processors shared by all; %s, fsync takes %.2f ms; bodies of %d bytes; %d analyses at once\n\n",
		r.Processors, r.Postgres, r.FsyncMS, r.BodyBytes, r.Concurrency)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "analysed calls before\tMiB\trate\tp50 ms\tp95 ms\tmax ms\tbacklog\tanalysed/s\tof them the median\tRiver no-op/s\tratio\tgoal")
	for _, m := range r.Measured {
		l := m.Latency
		fmt.Fprintf(t, "%d\t%.0f\t%d/s\t%.0f\t%.0f\t%.0f\t", m.Archive, m.MiB, l.Rate, l.P50, l.P95, l.Max)
		if len(m.Drains) == 0 {
			fmt.Fprintln(t)
			continue
		}
		verdict := "missed"
		if m.Ratio() >= goal {
			verdict = "met"
		}
		fmt.Fprintf(t, "%d\t%s\t%.0f\t%s\t%.2f\t≥ %.2f %s\n", r.Backlog, rates(m.Drains), median(m.Drains), rates(m.NoOps), m.Ratio(), goal, verdict)
	}
	_ = t.Flush() // as with every line here, nobody is left to tell
	for _, m := range r.Measured {
		for _, d := range m.Drains {
			fmt.Fprintf(w, "with %d before: %d analysed in %.1f s, in crm.md after %.1f s, all findable after %.1f s\n", m.Archive, d.Jobs, float64(d.Jobs)/d.PerSecond, d.Exported, d.Indexed)
		}
	}
}

func rates(list []Drain) string {
	texts := make([]string, len(list))
	for i, d := range list {
		texts[i] = strconv.FormatFloat(d.PerSecond, 'f', 0, 64)
	}
	return strings.Join(texts, " ")
}
