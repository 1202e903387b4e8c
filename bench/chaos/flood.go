package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"postcall/bench/rig"
	"postcall/pkg/elevenlabs"
)

// Sizes of the flood.
const (
	sequential = 200
	forged     = 10_000
	genuine    = 200
	flooders   = 32 // forged deliveries under way at once

	forgerAddress = "198.51.100.7"
	otherAddress  = "203.0.113.20"
)

// Flood is what a run with forged deliveries shows.
type Flood struct {
	SequentialSent   int            `json:"sequential_sent"`
	SequentialStored int            `json:"sequential_stored"`
	Sequential       map[string]int `json:"sequential_answers"`
	ForgedSent       int            `json:"forged_sent"`
	ForgedStored     int            `json:"forged_stored"`
	Forged           map[string]int `json:"forged_answers"`
	ForgedPerSecond  float64        `json:"forged_per_second"`
	GenuineSent      int            `json:"genuine_sent"`
	GenuineStored    int            `json:"genuine_stored"`
	Genuine          map[string]int `json:"genuine_answers"`
	GenuineP50MS     float64        `json:"genuine_p50_ms"`
	GenuineP99MS     float64        `json:"genuine_p99_ms"`
	GenuineMaxMS     float64        `json:"genuine_max_ms"`
}

// Holds reports whether every genuine delivery is there and no forged one.
func (f *Flood) Holds() bool {
	return f.SequentialStored == f.SequentialSent && f.GenuineStored == f.GenuineSent && f.ForgedStored == 0 && f.GenuineSent > 0
}

// flood sends genuine deliveries one after the other, then forged ones from one
// address with genuine ones among them: half of these from the forger's own
// address, as behind one proxy of a provider, half from another.
func flood(ctx context.Context, c *cobra.Command, o options, i *installation) error {
	if err := i.Start(ctx); err != nil {
		return err
	}
	var (
		calls                = rig.NewCalls(o.seed)
		one, forger, senders = newClient(i.URL()), newClient(i.URL()), newClient(i.URL())
		f                    = &Flood{SequentialSent: sequential, ForgedSent: forged, GenuineSent: genuine}
		bar                  = rig.Bar(c.ErrOrStderr(), sequential+forged, "one after the other")
		number               = func(kind, n int) uint64 { return uint64(kind*1_000_000 + n) }
	)
	for n := range sequential {
		body := calls.Transcript(number(1, n))
		one.post(ctx, body, rig.Sign(body), otherAddress)
		_ = bar.Add(1) // drawing is all that can fail
	}
	bar.Describe("flooding")
	var (
		g    errgroup.Group
		mu   sync.Mutex
		took []time.Duration
	)
	g.SetLimit(flooders)
	began := time.Now()
	for n := range forged {
		g.Go(func() error {
			body := calls.Transcript(number(2, n))
			forger.post(ctx, body, elevenlabs.Sign("wsec_of_somebody_else", time.Now(), body), forgerAddress)
			return bar.Add(1)
		})
		if n%(forged/genuine) != 0 {
			continue
		}
		from := forgerAddress
		if n%(2*forged/genuine) == 0 {
			from = otherAddress
		}
		g.Go(func() error {
			body := calls.Transcript(number(3, n))
			a := senders.post(ctx, body, rig.Sign(body), from)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, a.took)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	f.ForgedPerSecond = forged / time.Since(began).Seconds()
	_ = bar.Finish()
	slices.Sort(took)
	f.GenuineP50MS, f.GenuineP99MS, f.GenuineMaxMS = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.99)), ms(rig.Quantile(took, 1))
	f.Sequential, f.Forged, f.Genuine = one.answers, forger.answers, senders.answers
	if _, err := i.settle(ctx, o.drain); err != nil {
		return err
	}
	if err := i.Stop(); err != nil {
		return err
	}
	rows, _, err := i.read(ctx)
	if err != nil {
		return err
	}
	f.count(calls, rows, number)
	f.Print(c.OutOrStdout())
	if err := rig.WriteJSON(o.jsonPath, f); err != nil {
		return err
	}
	if !f.Holds() {
		return fmt.Errorf("%w; the end of ingest's log:\n%s", errFailed, i.LogTail())
	}
	return nil
}

// count sorts what is there into the three kinds; only events that are there
// once, with one job, count.
func (f *Flood) count(calls *rig.Calls, rows []row, number func(kind, n int) uint64) {
	good, there := map[string]int{}, map[string]bool{}
	for _, r := range rows {
		there[r.id] = true
		good[r.id] += r.jobs
	}
	stored := func(kind, n int) bool { return good[calls.ID(number(kind, n))] == 1 }
	for n := range sequential {
		if stored(1, n) {
			f.SequentialStored++
		}
	}
	for n := range forged {
		if there[calls.ID(number(2, n))] {
			f.ForgedStored++
		}
		if n%(forged/genuine) == 0 && stored(3, n) {
			f.GenuineStored++
		}
	}
}

// Print writes the figures as a table.
func (f *Flood) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "deliveries\tsent\tstored\tanswers\n")
	fmt.Fprintf(t, "one after the other\t%d\t%d\t%s\n", f.SequentialSent, f.SequentialStored, words(f.Sequential))
	fmt.Fprintf(t, "forged, from one address\t%d\t%d\t%s; %.0f a second\n", f.ForgedSent, f.ForgedStored, words(f.Forged), f.ForgedPerSecond)
	fmt.Fprintf(t, "genuine, beside them\t%d\t%d\t%s; p50 %.1f ms, p99 %.1f ms, max %.1f ms\n", f.GenuineSent, f.GenuineStored,
		words(f.Genuine), f.GenuineP50MS, f.GenuineP99MS, f.GenuineMaxMS)
	_ = t.Flush()
}
