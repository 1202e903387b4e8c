package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"postcall/bench/rig"
	"postcall/pkg/elevenlabs"
)

// Latency is a measurement at a fixed rate, in milliseconds from the moment at
// which a delivery was sent. Late are the quantiles from the moment at which it
// was due: they hold what the sender itself was behind, on processors that it
// shares with what it measures.
type Latency struct {
	Rate    int     `json:"rate"`
	Sent    int     `json:"sent"`
	Failed  int     `json:"failed"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p999_ms"`
	Max     float64 `json:"max_ms"`
	LateP50 float64 `json:"due_p50_ms"`
	LateP99 float64 `json:"due_p99_ms"`
}

// latency is part b.
func (b *bench) latency(ctx context.Context) (err error) {
	r, err := b.start(ctx, "latency")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.stop(r))
		if err == nil {
			err = b.postgres.Drop(ctx, r.database)
		}
	}()
	for _, rate := range b.rates {
		l, err := b.atRate(ctx, r, rate, "")
		if err != nil {
			return err
		}
		b.report.Latency = append(b.report.Latency, l)
	}
	return nil
}

// atRate measures at one rate. The loop is open: vegeta takes as many
// connections as it needs to send each delivery when it is due.
func (b *bench) atRate(ctx context.Context, r *receiver, rate int, where string) (l Latency, err error) {
	b.step(fmt.Sprintf("%d a second%s", rate, where))
	if _, err := b.attack(ctx, r, rate, warmUp); err != nil {
		return l, err
	}
	if err := b.postgres.Checkpoint(ctx); err != nil {
		return l, err
	}
	results, err := b.attack(ctx, r, rate, b.steady)
	if err != nil {
		return l, err
	}
	return summarise(rate, results), nil
}

func (b *bench) attack(ctx context.Context, r *receiver, rate int, d time.Duration) ([]vegeta.Result, error) {
	var next atomic.Uint64
	next.Store(b.next)
	target := func(t *vegeta.Target) error {
		t.Method, t.URL, t.Body = http.MethodPost, r.URL(), b.calls.Transcript(next.Add(1))
		t.Header = http.Header{"Content-Type": {"application/json"}, elevenlabs.SignatureHeader: {rig.Sign(t.Body)}}
		return nil
	}
	attacker := vegeta.NewAttacker(vegeta.Timeout(10 * time.Second))
	stop := context.AfterFunc(ctx, func() { attacker.Stop() })
	defer stop()
	results := make([]vegeta.Result, 0, rate*int(d.Seconds())+1)
	for result := range attacker.Attack(target, vegeta.Rate{Freq: rate, Per: time.Second}, d, "") {
		result.Body, result.Headers = nil, nil
		results = append(results, *result)
	}
	b.next = next.Load()
	return results, ctx.Err()
}

// summarise sorts the results.
func summarise(rate int, results []vegeta.Result) (l Latency) {
	l = Latency{Rate: rate, Sent: len(results)}
	if len(results) == 0 {
		return l
	}
	slices.SortFunc(results, func(x, y vegeta.Result) int { return int(int64(x.Seq) - int64(y.Seq)) })
	var (
		began     = results[0].Timestamp
		interval  = time.Second / time.Duration(rate)
		took, due []time.Duration
	)
	for _, result := range results {
		if result.Code != http.StatusOK {
			l.Failed++
		}
		took = append(took, result.Latency)
		due = append(due, result.Timestamp.Add(result.Latency).Sub(began.Add(time.Duration(result.Seq)*interval)))
	}
	slices.Sort(took)
	slices.Sort(due)
	l.P50, l.P99, l.P999 = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.99)), ms(rig.Quantile(took, 0.999))
	l.Max = ms(took[len(took)-1])
	l.LateP50, l.LateP99 = ms(rig.Quantile(due, 0.5)), ms(rig.Quantile(due, 0.99))
	return l
}
