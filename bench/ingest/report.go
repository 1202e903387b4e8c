package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Report is all figures of a run.
type Report struct {
	Began      time.Time   `json:"began"`
	Processors int         `json:"processors"`
	Postgres   string      `json:"postgres"`
	FsyncMS    float64     `json:"fsync_ms"`
	BodyBytes  int         `json:"body_bytes"`
	Throughput *Comparison `json:"throughput,omitempty"`
	Latency    []Latency   `json:"latency,omitempty"`
	Full       *Full       `json:"full,omitempty"`
	PeakMiB    float64     `json:"peak_mib"` // of ingest, transcripts only
	Audio      *Audio      `json:"audio,omitempty"`
	Notes      []string    `json:"notes,omitempty"`
}

// Comparison is ingest and pgbench in turns.
type Comparison struct {
	Ingest  []Throughput `json:"ingest"`
	Pgbench []Throughput `json:"pgbench"`
	Ratio   float64      `json:"ratio"` // of the medians
}

// The goals of the design.
const (
	goalRatio      = 1.0
	goalPeakMiB    = 64
	goalAudioMiB   = 96
	goalFullShare  = 0.9
	goalP99At200   = 3
	goalP99At1000  = 10
	goalP99Unnamed = 0 // of a rate that has none
)

// Print writes the figures as tables.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%d processors for sender, ingest and PostgreSQL together; %s, fsync on (%.2f ms a page); bodies of %d bytes\n",
		r.Processors, r.Postgres, r.FsyncMS, r.BodyBytes)
	if r.Throughput != nil {
		r.Throughput.print(w)
	}
	if r.Latency != nil {
		fmt.Fprintf(w, "\nb. latency in ms, open loop\n")
		printLatency(w, []string{""}, r.Latency)
	}
	if r.Full != nil {
		r.Full.print(w)
	}
	if r.PeakMiB > 0 || r.Audio != nil {
		fmt.Fprintf(w, "\nd. peak memory of ingest\n")
	}
	if r.PeakMiB > 0 {
		fmt.Fprintf(w, "  transcripts: %.1f MiB, goal %s\n", r.PeakMiB, atMost(r.PeakMiB, goalPeakMiB))
	}
	if a := r.Audio; a != nil {
		fmt.Fprintf(w, "  %d audio bodies of %.0f MiB at once: %.1f MiB, goal %s; %d failed, %.1f s, %.0f MiB/s\n",
			a.Bodies, a.BodyMiB, a.PeakMiB, atMost(a.PeakMiB, goalAudioMiB), a.Failed, a.Seconds, a.PerSecond)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "\n%s\n", note)
	}
}

// table lays out what is written to it in columns.
func table(w io.Writer, rows func(w io.Writer)) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	rows(t)
	_ = t.Flush() // as with all output for people
}

// side is one of two that are compared.
type side struct {
	name string
	list []Throughput
	mean bool // p50 is a mean, and there is no p99
}

func (c *Comparison) print(w io.Writer) {
	fmt.Fprintf(w, "\na. throughput; under sender to postgres the processors that each of them took\n")
	printThroughput(w,
		side{name: fmt.Sprintf("ingest, %d connections", connections), list: c.Ingest},
		side{name: fmt.Sprintf("pgbench, %d connections", pgbenchConnections), list: c.Pgbench, mean: true})
	fmt.Fprintf(w, "  medians %.0f and %.0f: ratio %.2f, goal %.1f: %s\n",
		medianRate(c.Ingest), medianRate(c.Pgbench), c.Ratio, goalRatio, met(c.Ratio >= goalRatio))
}

// printThroughput prints the measurements in the order in which they were made.
func printThroughput(w io.Writer, sides ...side) {
	table(w, func(w io.Writer) {
		fmt.Fprintf(w, "\tdeliveries/s\tp50 ms\tp99 ms\tspooled\tfailed\tsender\tingest\tpostgres\tWAL bytes each\t\n")
		for round := range sides[0].list {
			for _, s := range sides {
				t := s.list[round]
				p50, p99 := fmt.Sprintf("%.1f", t.P50MS), fmt.Sprintf("%.1f", t.P99MS)
				if s.mean {
					p50, p99 = "mean "+p50, "–"
				}
				fmt.Fprintf(w, "%s\t%.0f\t%s\t%s\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.0f\t\n",
					s.name, t.PerSecond, p50, p99, t.Spooled, t.Failed, t.Sender, t.Ingest, t.Postgres, t.WALPerRecord)
			}
		}
	})
}

// printLatency prints lists of the same rates, each rate's lines together.
func printLatency(w io.Writer, names []string, lists ...[]Latency) {
	table(w, func(w io.Writer) {
		fmt.Fprintf(w, "\t\tsent\tfailed\tp50\tp99\tp99.9\tmax\tfrom due: p50\tp99\tgoal for p99\t\n")
		for i := range lists[len(lists)-1] {
			for n, list := range lists {
				l := list[i]
				fmt.Fprintf(w, "%d/s\t%s\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t\n",
					l.Rate, names[n], l.Sent, l.Failed, l.P50, l.P99, l.P999, l.Max, l.LateP50, l.LateP99, atMost(l.P99, goalP99(l.Rate)))
			}
		}
	})
}

func goalP99(rate int) float64 {
	switch rate {
	case 200:
		return goalP99At200
	case 1000:
		return goalP99At1000
	default:
		return goalP99Unnamed
	}
}

func (f *Full) print(w io.Writer) {
	fmt.Fprintf(w, "\nc. full: %d events (small payloads) and %d waiting jobs, %.0f MiB\n", f.Events, f.Jobs, f.MiB)
	if f.Ratio > 0 { // unless it was cut short
		printThroughput(w, side{name: "empty", list: f.Empty}, side{name: "full", list: f.Full})
		fmt.Fprintf(w, "  medians %.0f and %.0f: ratio %.2f, goal %.1f: %s\n",
			medianRate(f.Empty), medianRate(f.Full), f.Ratio, goalFullShare, met(f.Ratio >= goalFullShare))
	}
	printLatency(w, []string{"empty", "full"}, f.EmptyLatency, f.FullLatency)
	for i, full := range f.FullLatency {
		empty := f.EmptyLatency[i]
		fmt.Fprintf(w, "  %d/s, full to empty: p50 ×%.2f, p99 ×%.2f\n", full.Rate, full.P50/empty.P50, full.P99/empty.P99)
	}
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "missed"
}

func atMost(value, goal float64) string {
	if goal <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f: %s", goal, met(value <= goal))
}
