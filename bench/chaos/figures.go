package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"postcall/bench/rig"
)

// Figures is what a run with kills shows.
type Figures struct {
	Seed             uint64         `json:"seed"`
	Seconds          float64        `json:"seconds"`
	Rate             int            `json:"rate"`
	Postgres         string         `json:"postgres"`
	KillsIngest      int            `json:"kills_ingest"`
	KillsPostgres    int            `json:"kills_postgres"`
	StartsIngest     int64          `json:"starts_ingest"`
	SentTwice        int            `json:"sent_twice"`
	Answers          map[string]int `json:"answers"`
	P50MS            float64        `json:"p50_ms"` // of acknowledged deliveries, kills included
	P99MS            float64        `json:"p99_ms"`
	MaxMS            float64        `json:"max_ms"`
	Drained          bool           `json:"drained"`
	DrainSeconds     float64        `json:"drain_seconds"`
	JobsWithoutEvent int            `json:"jobs_without_event"`
	SpoolLeft        []string       `json:"left_in_spool_directory"`
	Comparison
	// Sight is nil without --prometheus.
	Sight *Sight `json:"prometheus,omitempty"`

	starts atomic.Int64
}

// acknowledgedIn takes over how long acknowledgements took.
func (f *Figures) acknowledgedIn(l *load) {
	f.StartsIngest = f.starts.Load()
	var took []time.Duration
	for n := range l.sent {
		if d := l.sent[n].took.Load(); d > 0 {
			took = append(took, time.Duration(d))
		}
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	f.P50MS, f.P99MS, f.MaxMS = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.99)), ms(took[len(took)-1])
}

// Holds reports whether the run is a success: nothing wrong, and something
// shown at all.
func (f *Figures) Holds() bool {
	return f.Comparison.Holds() && f.JobsWithoutEvent == 0 && f.Drained && f.Acknowledged > 0 &&
		(f.Sight == nil || f.Sight.Holds())
}

// Print writes the figures as a table.
func (f *Figures) Print(w io.Writer) {
	fmt.Fprintf(w, "%.0f s at %d deliveries a second of %d bytes; %s, fsync on; --seed %d\n\n", f.Seconds, f.Rate, rig.BodySize, f.Postgres, f.Seed)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, value any, note string) { fmt.Fprintf(t, "%s\t%v\t%s\n", name, value, note) }
	line("killed with -9", f.KillsIngest+f.KillsPostgres, fmt.Sprintf("ingest %d times (started %d times), PostgreSQL %d times", f.KillsIngest, f.StartsIngest, f.KillsPostgres))
	line("sent", f.Sent, fmt.Sprintf("%d of them twice", f.SentTwice))
	line("acknowledged", f.Acknowledged, fmt.Sprintf("p50 %.1f ms, p99 %.0f ms, max %.0f ms", f.P50MS, f.P99MS, f.MaxMS))
	line("  by the spool", f.Spooled, "")
	line("not acknowledged", f.Unanswered, fmt.Sprintf("%d of them are there all the same", f.Unasked))
	line("events", f.Stored, fmt.Sprintf("%d of them drained from the spool", f.Comparison.Drained))
	if f.Drained {
		line("time to drain", fmt.Sprintf("%.1f s", f.DrainSeconds), "after the last answer")
	} else {
		line("time to drain", "too long", "")
	}
	line("lost", f.Lost, "acknowledged and not there")
	line("doubled", f.Doubled, "")
	line("altered", f.Altered, "not what was sent")
	line("unknown", f.Unknown, "never sent")
	line("jobs missing", f.JobsMissing, "")
	line("jobs doubled", f.JobsDoubled, "")
	line("jobs without an event", f.JobsWithoutEvent, "")
	_ = t.Flush()
	fmt.Fprintf(w, "\nanswers: %s\n", words(f.Answers))
	if len(f.SpoolLeft) > 0 {
		fmt.Fprintf(w, "left in the spool's directory: %s\n", strings.Join(f.SpoolLeft, ", "))
	}
	if s := f.Sight; s != nil {
		fmt.Fprintf(w, "Prometheus: %d of the dashboard's %d queries return data; fired: %s; fire still: %s\n",
			s.Queries-len(s.Empty), s.Queries, names(s.Fired), names(s.Late))
		for _, e := range s.Empty {
			fmt.Fprintln(w, "  no data:", e)
		}
	}
	if f.Holds() {
		fmt.Fprintln(w, "\nnothing lost, nothing doubled")
	}
}

func names(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// words lists counts, the same ones always in one order.
func words(counts map[string]int) string {
	list := make([]string, 0, len(counts))
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, fmt.Sprintf("%s × %d", word, counts[word]))
	}
	return strings.Join(list, ", ")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
