package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"postcall/bench/rig"
)

// Throughput is one measurement.
type Throughput struct {
	Deliveries int     `json:"deliveries"`
	PerSecond  float64 `json:"per_second"`
	Spooled    int     `json:"spooled"`
	Failed     int     `json:"failed"`
	// Of the answers, in the closed loop of 64 connections.
	P50MS float64 `json:"p50_ms"`
	P99MS float64 `json:"p99_ms"`
	Usage
}

// Usage is what a measurement took of the machine, in processors (2 is two of
// them all the time) and bytes.
type Usage struct {
	Sender       float64 `json:"sender_processors"` // ours, or pgbench
	Ingest       float64 `json:"ingest_processors"`
	Postgres     float64 `json:"postgres_processors"`
	WALPerRecord float64 `json:"wal_bytes_per_delivery"`
}

// throughput is part a.
func (b *bench) throughput(ctx context.Context) error {
	pgbench, err := findPgbench()
	if err != nil {
		return err
	}
	result := &Comparison{}
	for round := range b.rounds {
		b.step("ingest")
		ours, err := b.fresh(ctx, "ours", round == b.rounds-1)
		if err != nil {
			return err
		}
		b.step("pgbench")
		theirs, err := b.pgbench(ctx, pgbench)
		if err != nil {
			return err
		}
		result.Ingest, result.Pgbench = append(result.Ingest, ours), append(result.Pgbench, theirs)
	}
	result.Ratio = medianRate(result.Ingest) / medianRate(result.Pgbench)
	b.report.Throughput = result
	return nil
}

func medianRate(list []Throughput) float64 {
	rates := make([]float64, len(list))
	for i, t := range list {
		rates[i] = t.PerSecond
	}
	return rig.Median(rates)
}

// fresh measures ingest on a database of its own, profiled if that is wanted.
func (b *bench) fresh(ctx context.Context, database string, profiled bool) (t Throughput, err error) {
	var env []string
	profiled = profiled && b.pprof != ""
	var debug string
	if profiled {
		if debug, err = debugAddress(ctx); err != nil {
			return t, err
		}
		env = append(env, "METRICS_ADDR="+debug)
	}
	r, err := b.start(ctx, database, env...)
	if err != nil {
		return t, err
	}
	defer func() {
		err = errors.Join(err, b.stop(r))
		if err == nil {
			err = b.postgres.Drop(ctx, database)
		}
	}()
	if !profiled {
		return b.hammer(ctx, r)
	}
	note := make(chan string, 1)
	go func() { note <- profile(ctx, debug, b.duration, b.pprof) }()
	t, err = b.hammer(ctx, r)
	b.report.Notes = append(b.report.Notes, <-note)
	return t, err
}

// answer is how one delivery went.
type answer struct {
	status  int // 0 for none
	spooled bool
	began   time.Time
	took    time.Duration
}

// hammer sends from 64 connections, each its next delivery as soon as the last
// one was answered, and checks that everything acknowledged is there.
func (b *bench) hammer(ctx context.Context, r *receiver) (t Throughput, err error) {
	before, err := b.count(ctx, r.database)
	if err != nil {
		return t, err
	}
	var (
		wg      sync.WaitGroup
		next    atomic.Uint64
		answers [connections][]answer
		begins  = time.Now().Add(warmUp)
		ends    = begins.Add(b.duration)
	)
	next.Store(b.next)
	for n := range connections {
		wg.Go(func() { answers[n] = b.sendUntil(ctx, r.Address, &next, ends) })
	}
	if err := sleepUntil(ctx, begins); err != nil {
		wg.Wait()
		return t, err
	}
	began, err := b.look(ctx, r.Pid())
	if err == nil {
		err = sleepUntil(ctx, ends)
	}
	if err != nil {
		wg.Wait()
		return t, err
	}
	ended, err := b.look(ctx, r.Pid())
	wg.Wait()
	if err != nil {
		return t, err
	}
	b.next = next.Load()
	var (
		took         []time.Duration
		acknowledged int
	)
	for _, list := range answers {
		for _, a := range list {
			ok := a.status == http.StatusOK
			if ok && !a.spooled {
				acknowledged++
			}
			done := a.began.Add(a.took)
			switch {
			case done.Before(begins) || done.After(ends):
			case !ok:
				t.Failed++
			default:
				t.Deliveries++
				took = append(took, a.took)
				if a.spooled {
					t.Spooled++
				}
			}
		}
	}
	if t.Deliveries == 0 {
		return t, fmt.Errorf("nothing was acknowledged: %s", r.LogTail())
	}
	slices.Sort(took)
	t.PerSecond = float64(t.Deliveries) / b.duration.Seconds()
	t.P50MS, t.P99MS = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.99))
	t.Usage = usage(began, ended, t.PerSecond)
	after, err := b.count(ctx, r.database)
	if err != nil {
		return t, err
	}
	if stored := after - before; stored < acknowledged {
		return t, fmt.Errorf("%d deliveries were acknowledged as stored and %d are there", acknowledged, stored)
	}
	return t, nil
}

// sendUntil sends one delivery after the other over one connection.
func (b *bench) sendUntil(ctx context.Context, address string, next *atomic.Uint64, ends time.Time) (answers []answer) {
	var conn *rig.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	for ctx.Err() == nil && time.Now().Before(ends) {
		if conn == nil {
			c, err := rig.Dial(ctx, address)
			if err != nil {
				answers = append(answers, answer{began: time.Now()})
				_ = sleepUntil(ctx, time.Now().Add(100*time.Millisecond))
				continue
			}
			conn = c
		}
		body := b.calls.Transcript(next.Add(1))
		signature := rig.Sign(body)
		a := answer{began: time.Now()}
		status, text, err := conn.Deliver(body, signature)
		a.took = time.Since(a.began)
		if err != nil {
			_ = conn.Close()
			conn = nil
		} else {
			a.status, a.spooled = status, bytes.Contains(text, []byte(`"spooled":true`))
		}
		answers = append(answers, a)
	}
	return answers
}

// count is how many events of a database have their job.
func (b *bench) count(ctx context.Context, database string) (n int, err error) {
	conn, err := pgx.Connect(ctx, b.postgres.URL(database))
	if err != nil {
		return 0, fmt.Errorf("connecting to count: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var jobs int
	err = conn.QueryRow(ctx, `
		select (select count(*) from webhook_events where analysis_state = 'queued'),
			(select count(*) from river_job where kind = 'analyze')`).Scan(&n, &jobs)
	if err != nil {
		return 0, fmt.Errorf("counting events: %w", err)
	}
	if n != jobs {
		return 0, fmt.Errorf("%d events are queued and there are %d jobs", n, jobs)
	}
	return n, nil
}

// view is what the machine had done at a moment.
type view struct {
	at                       time.Time
	sender, ingest, postgres time.Duration
	written                  int64
}

func (b *bench) look(ctx context.Context, ingest int) (v view, err error) {
	if v.written, err = b.postgres.Written(ctx); err != nil {
		return v, err
	}
	v.at, v.sender, v.postgres = time.Now(), rig.CPU(os.Getpid()), rig.TreeCPU(b.postgres.Pid())
	if ingest != 0 {
		v.ingest = rig.CPU(ingest)
	}
	return v, nil
}

func usage(from, to view, perSecond float64) Usage {
	wall := to.at.Sub(from.at).Seconds()
	return Usage{
		Sender:       (to.sender - from.sender).Seconds() / wall,
		Ingest:       (to.ingest - from.ingest).Seconds() / wall,
		Postgres:     (to.postgres - from.postgres).Seconds() / wall,
		WALPerRecord: float64(to.written-from.written) / wall / perSecond,
	}
}

func sleepUntil(ctx context.Context, t time.Time) error {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
