package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/bench/rig"
	"postcall/pkg/app"
	"postcall/pkg/archive"
	"postcall/pkg/config"
	"postcall/pkg/queue"
)

// Measured is what was found on one database.
type Measured struct {
	Archive int     `json:"archive"` // analysed calls in it beforehand
	MiB     float64 `json:"mib"`     // its size then
	Latency Latency `json:"latency"`
	Drains  []Drain `json:"drains"`
	NoOps   []Drain `json:"no_ops"`
}

// Ratio is how fast a backlog is worked off, to River's jobs that do nothing:
// of the medians.
func (m *Measured) Ratio() float64 { return median(m.Drains) / median(m.NoOps) }

func median(list []Drain) float64 {
	rates := make([]float64, len(list))
	for i, d := range list {
		rates[i] = d.PerSecond
	}
	return rig.Median(rates)
}

// Latency is from the moment at which a delivery was sent to the moment at which
// its analysis could be read, looked for every few milliseconds.
type Latency struct {
	Rate int     `json:"rate"`
	Sent int     `json:"sent"`
	P50  float64 `json:"p50_ms"`
	P95  float64 `json:"p95_ms"`
	Max  float64 `json:"max_ms"`
}

// Drain is how fast jobs were worked off.
type Drain struct {
	Jobs      int     `json:"jobs"`
	PerSecond float64 `json:"per_second"`
	// Exported is when the last result was in crm.md, in seconds from the start;
	// 0 for jobs that do nothing.
	Exported float64 `json:"exported_s,omitempty"`
	// Indexed is when lists and searches found the last result.
	Indexed float64 `json:"indexed_s,omitempty"`
}

const (
	connections = 16
	lookEvery   = 4 * time.Millisecond
)

// measure does everything on one database.
func (b *bench) measure(ctx context.Context, archive int) (_ *Measured, err error) {
	name, m := "empty", &Measured{Archive: archive}
	if archive > 0 {
		name = "full"
	}
	b.step("filling the " + name + " database")
	url, err := b.postgres.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("connecting to the %s database: %w", name, err)
	}
	defer pool.Close()
	if err := fill(ctx, pool, archive); err != nil {
		return nil, err
	}
	if err := pool.QueryRow(ctx, `select pg_database_size(current_database()) / 1048576.0`).Scan(&m.MiB); err != nil {
		return nil, fmt.Errorf("looking at the %s database: %w", name, err)
	}
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a place for files: %w", err)
	}
	// All deliveries come from one address here, and more of them than one may
	// send.
	ingest, err := rig.NewIngest(ctx, b.ingest, dir, "DATABASE_URL="+url, "WEBHOOK_RATE_RPS=1000000", "WEBHOOK_RATE_BURST=1000000")
	if err != nil {
		return nil, err
	}
	if err := ingest.Start(ctx); err != nil {
		return nil, errors.Join(err, ingest.Stop())
	}
	defer func() { err = errors.Join(err, ingest.Stop()) }()
	h := &house{bench: b, pool: pool, url: url, dir: dir, ingest: ingest}
	b.step(fmt.Sprintf("%d a second, %s", b.rate, name))
	if m.Latency, err = h.latency(ctx); err != nil {
		return m, err
	}
	for range b.rounds {
		b.step("a backlog, " + name)
		drain, err := h.drain(ctx)
		if err != nil {
			return m, err
		}
		b.step("jobs that do nothing, " + name)
		idle, err := h.noOps(ctx)
		if err != nil {
			return m, err
		}
		m.Drains, m.NoOps = append(m.Drains, drain), append(m.NoOps, idle)
	}
	return m, nil
}

// house is an installation on one database.
type house struct {
	*bench
	pool   *pgxpool.Pool
	url    string
	dir    string
	ingest *rig.Ingest
}

// work runs a worker until the function returns.
func (h *house) work(ctx context.Context, f func(context.Context) error) error {
	c, err := config.LoadWorker(ctx, config.Map(map[string]string{
		"DATABASE_URL": h.url, "ANALYZER": "openai", "OPENAI_API_KEY": key, "OPENAI_BASE_URL": h.model, "ANALYZE_MODEL": "bench",
		"ANALYZE_MAX_CONCURRENCY": strconv.Itoa(h.concurrency), "CRM_MD_PATH": filepath.Join(h.dir, "crm.md"),
	}, nil))
	if err != nil {
		return fmt.Errorf("configuring a worker: %w", err)
	}
	w, err := app.NewWorker(ctx, c, zap.NewNop())
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- w.Serve(serving) }()
	err = f(ctx)
	stop()
	return errors.Join(err, <-served)
}

// latency sends at the rate and sees when each analysis is there.
func (h *house) latency(ctx context.Context) (l Latency, err error) {
	n := int(h.steady.Seconds() * float64(h.rate))
	l = Latency{Rate: h.rate, Sent: n}
	err = h.work(ctx, func(ctx context.Context) error {
		if _, err := h.send(ctx, h.rate, h.rate); err != nil { // a second to warm up
			return err
		}
		if err := h.settled(ctx, "analyze"); err != nil {
			return err
		}
		if err := h.postgres.Checkpoint(ctx); err != nil {
			return err
		}
		var last int64
		if err := h.pool.QueryRow(ctx, `select coalesce(max(id), 0) from analyses`).Scan(&last); err != nil {
			return fmt.Errorf("looking at the analyses: %w", err)
		}
		g, both := errgroup.WithContext(ctx)
		var sent map[int64]time.Time
		g.Go(func() (err error) {
			sent, err = h.send(both, n, h.rate)
			return err
		})
		seen := make(map[int64]time.Time, n)
		g.Go(func() error { return h.watch(both, last, n, seen) })
		if err := g.Wait(); err != nil {
			return err
		}
		took := make([]time.Duration, 0, n)
		for id, at := range seen {
			began, ours := sent[id]
			if !ours {
				return fmt.Errorf("event %d was analysed and never sent", id)
			}
			took = append(took, at.Sub(began))
		}
		slices.Sort(took)
		l.P50, l.P95, l.Max = ms(rig.Quantile(took, 0.5)), ms(rig.Quantile(took, 0.95)), ms(took[len(took)-1])
		return h.settled(ctx, queue.TargetQueue("markdown"))
	})
	return l, err
}

// watch notes when the analysis of each of n events can be read first.
// They are those behind the analysis first.
func (h *house) watch(ctx context.Context, first int64, n int, seen map[int64]time.Time) error {
	last := first
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(seen) < n {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d calls are analysed: %w", len(seen), n, context.Cause(ctx))
		case <-tick.C:
		}
		// A row with a smaller number may become visible after one with a larger.
		rows, err := h.pool.Query(ctx, `select id, event_id from analyses where id > $1 order by id`, max(first, last-100))
		if err != nil {
			return fmt.Errorf("looking for analyses: %w", err)
		}
		now := time.Now()
		for rows.Next() {
			var id, event int64
			if err := rows.Scan(&id, &event); err != nil {
				return fmt.Errorf("looking for analyses: %w", err)
			}
			if _, known := seen[event]; !known {
				seen[event] = now
			}
			last = max(last, id)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("looking for analyses: %w", err)
		}
	}
	return nil
}

// send posts n deliveries, at a rate unless that is 0, and gives the moment at
// which each event's was sent.
func (h *house) send(ctx context.Context, n, rate int) (map[int64]time.Time, error) {
	var mu sync.Mutex
	sent := make(map[int64]time.Time, n)
	numbers := make(chan uint64)
	g, ctx := errgroup.WithContext(ctx)
	for range connections {
		g.Go(func() error {
			conn, err := rig.Dial(ctx, h.ingest.Address)
			if err != nil {
				return err
			}
			defer conn.Close() //nolint:errcheck // nothing is written any more
			for number := range numbers {
				body := h.calls.Transcript(number)
				signature := rig.Sign(body)
				at := time.Now()
				status, answer, err := conn.Deliver(body, signature)
				if err != nil {
					return err
				}
				var event struct {
					ID int64 `json:"event_id"`
				}
				if err := json.Unmarshal(answer, &event); err != nil || status != http.StatusOK || event.ID == 0 {
					return fmt.Errorf("a delivery was answered %d: %s", status, answer)
				}
				mu.Lock()
				sent[event.ID] = at
				mu.Unlock()
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(numbers)
		began := time.Now()
		for i := range n {
			if rate > 0 {
				due := time.NewTimer(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
				select {
				case <-due.C:
				case <-ctx.Done():
					due.Stop()
					return ctx.Err()
				}
			}
			select {
			case numbers <- h.next:
				h.next++
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return sent, g.Wait()
}

// settled waits until no job of a queue is to be worked any more.
func (h *house) settled(ctx context.Context, name string) error {
	for {
		var waiting bool
		err := h.pool.QueryRow(ctx, `
			select exists (select from river_job
				where queue = $1 and state in ('available', 'running', 'retryable', 'scheduled', 'pending'))`, name).Scan(&waiting)
		if err != nil {
			return fmt.Errorf("looking at the jobs: %w", err)
		}
		if !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the queue %s: %w", name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// drain has a backlog worked off.
func (h *house) drain(ctx context.Context) (d Drain, err error) {
	sent, err := h.send(ctx, h.backlog, 0)
	if err != nil {
		return d, err
	}
	if err := h.postgres.Checkpoint(ctx); err != nil {
		return d, err
	}
	err = h.work(ctx, func(ctx context.Context) error {
		began := time.Now()
		if err := h.settled(ctx, queue.QueueAnalyze); err != nil {
			return err
		}
		d = Drain{Jobs: h.backlog, PerSecond: float64(h.backlog) / time.Since(began).Seconds()}
		if err := h.settled(ctx, queue.TargetQueue("markdown")); err != nil {
			return err
		}
		d.Exported = time.Since(began).Seconds()
		if err := h.indexed(ctx); err != nil {
			return err
		}
		d.Indexed = time.Since(began).Seconds()
		return nil
	})
	if err != nil {
		return d, err
	}
	ids := make([]int64, 0, len(sent))
	for id := range sent {
		ids = append(ids, id)
	}
	var wrong int
	if err := h.pool.QueryRow(ctx, `
		select count(*) from unnest($1::bigint[]) as sent (event)
		where (select count(*) from analyses where event_id = event) <> 1
			or (select count(*) from crm_dispatches where event_id = event and status = 'delivered') <> 1
			or (select analysis_state from webhook_events where id = event) <> 'done'`, ids).Scan(&wrong); err != nil {
		return d, fmt.Errorf("counting what came of the backlog: %w", err)
	}
	if wrong > 0 || len(ids) != h.backlog {
		return d, fmt.Errorf("%d of %d calls were not analysed and handed on exactly once", wrong, h.backlog)
	}
	return d, nil
}

// indexed waits until no call is due to be indexed.
func (h *house) indexed(ctx context.Context) error {
	for {
		switch due, _, err := archive.Due(ctx, h.pool); {
		case err != nil:
			return err
		case due == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("calls are still due to be indexed: %w", context.Cause(ctx))
		case <-time.After(lookEvery):
		}
	}
}

// nothing is a job that does nothing.
type nothing[T river.JobArgs] struct {
	river.WorkerDefaults[T]
}

func (nothing[T]) Work(context.Context, *river.Job[T]) error { return nil }

// noOps has as many jobs of River worked that do nothing, by a client with the
// worker's settings.
func (h *house) noOps(ctx context.Context) (d Drain, err error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, nothing[queue.Analyze]{})
	// What the client orders of itself does nothing either.
	river.AddWorker(workers, nothing[queue.Reconcile]{})
	river.AddWorker(workers, nothing[queue.Retention]{})
	river.AddWorker(workers, nothing[queue.CheckAlerts]{})
	client, err := queue.NewWorker(h.pool, queue.Options{Workers: workers, Analyses: h.concurrency, Timeout: time.Minute, SoftStop: 10 * time.Second})
	if err != nil {
		return d, err
	}
	const batch = 1000
	for from := 0; from < h.backlog; from += batch {
		var params []river.InsertManyParams
		for i := from; i < min(from+batch, h.backlog); i++ {
			// No event has a negative number: nothing else looks at these.
			params = append(params, river.InsertManyParams{Args: queue.Analyze{EventID: -1 - int64(i)}})
		}
		if _, err := client.InsertManyFast(ctx, params); err != nil {
			return d, fmt.Errorf("inserting jobs: %w", err)
		}
	}
	if err := h.postgres.Checkpoint(ctx); err != nil {
		return d, err
	}
	began := time.Now()
	if err := client.Start(ctx); err != nil {
		return d, fmt.Errorf("starting River: %w", err)
	}
	err = h.settled(ctx, queue.QueueAnalyze)
	d = Drain{Jobs: h.backlog, PerSecond: float64(h.backlog) / time.Since(began).Seconds()}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return d, errors.Join(err, client.Stop(stopping))
}
