package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"postcall/bench/rig"
)

const (
	// startTimeout bounds how long the first ingest may take until it answers.
	startTimeout = 30 * time.Second
	// restartPause is how long the supervisor waits before it starts ingest
	// again, as any supervisor does.
	restartPause = 50 * time.Millisecond
	// downtime is how long PostgreSQL stays away at most; the next kill of
	// ingest may well come meanwhile.
	downtime = 2 * time.Second
	// quiet is how long nothing may change until everything counts as settled.
	quiet = 2 * time.Second
)

// chaos is a run with kills.
func chaos(ctx context.Context, c *cobra.Command, o options, i *installation) (err error) {
	bar := rig.Bar(c.ErrOrStderr(), int(o.duration.Seconds()), "sending and killing")
	figures := &Figures{Seed: o.seed, Seconds: o.duration.Seconds(), Rate: o.rate, Postgres: i.postgres.Description()}
	var supervision, killing sync.WaitGroup
	defer supervision.Wait()
	supervised, dismiss := context.WithCancel(ctx)
	defer dismiss()
	failures := make(chan error, 2)
	supervision.Go(func() { failures <- i.supervise(supervised, figures) })
	if err := i.awaitFirst(ctx); err != nil {
		return err
	}

	load := newLoad(o, i.URL())
	sending, end := context.WithTimeout(ctx, o.duration)
	defer end()
	killing.Go(func() { figures.KillsIngest = i.killIngest(sending, o) })
	killing.Go(func() {
		kills, err := i.killPostgres(sending, ctx, o)
		figures.KillsPostgres = kills
		if err != nil {
			failures <- err
		}
	})
	load.run(sending, ctx, bar)
	killing.Wait()
	ended := time.Now()
	select {
	case err := <-failures:
		return err
	default:
	}

	bar.Describe("waiting for the spool")
	drained, err := i.settle(ctx, o.drain)
	if err != nil {
		return err
	}
	figures.Drained, figures.DrainSeconds = !drained.IsZero(), max(drained.Sub(ended).Seconds(), 0)
	if i.watched != nil {
		bar.Describe("waiting for the alerts to end")
		if figures.Sight, err = i.watched.sight(ctx); err != nil {
			return err
		}
	}
	dismiss()
	supervision.Wait()
	if err := i.Stop(); err != nil {
		return err
	}
	bar.Describe("comparing")
	rows, orphans, err := i.read(ctx)
	if err != nil {
		return err
	}
	_ = bar.Finish()
	figures.Comparison = compare(load.deliveries(), rows)
	figures.JobsWithoutEvent = orphans
	figures.Answers, figures.SentTwice = load.client.answers, load.sentTwice
	_, figures.SpoolLeft = i.SpoolBytes()
	figures.acknowledgedIn(load)
	figures.Print(c.OutOrStdout())
	if err := rig.WriteJSON(o.jsonPath, figures); err != nil {
		return err
	}
	if !figures.Holds() {
		return fmt.Errorf("%w; repeat the schedule with --seed %d; the end of ingest's log:\n%s", errFailed, o.seed, i.LogTail())
	}
	return nil
}

// supervise starts ingest again whenever it has ended, as a container's
// restart policy does. It leaves the last one running.
func (i *installation) supervise(ctx context.Context, figures *Figures) error {
	for {
		ended, err := i.Launch()
		if err != nil {
			return err
		}
		figures.starts.Add(1)
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		}
		if sleep(ctx, restartPause) != nil {
			return nil //nolint:nilerr // nobody needs it any more
		}
	}
}

func (i *installation) awaitFirst(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !i.Answers(ctx) {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("ingest does not answer: %s", i.LogTail())
		}
	}
	return nil
}

// lifetimes draws how long a process may live: half of the average to one and
// a half times it. Each process has a schedule of its own, so that one's does
// not depend on the other's.
func lifetimes(seed, process uint64, average time.Duration) func() time.Duration {
	random := rand.New(rand.NewPCG(seed, process)) //nolint:gosec // chance, repeatable on purpose
	return func() time.Duration { return average/2 + time.Duration(random.Int64N(int64(average))) }
}

func (i *installation) killIngest(ctx context.Context, o options) (kills int) {
	if o.everyIngest == 0 {
		return 0
	}
	for next := lifetimes(o.seed, 1, o.everyIngest); sleep(ctx, next()) == nil; {
		if i.Kill() {
			kills++
		}
	}
	return kills
}

// killPostgres kills until sending ends, and leaves the server running.
func (i *installation) killPostgres(sending, ctx context.Context, o options) (kills int, err error) {
	if o.everyPostgres == 0 {
		return 0, nil
	}
	next := lifetimes(o.seed, 2, o.everyPostgres)
	away := lifetimes(o.seed, 3, downtime)
	for sleep(sending, next()) == nil {
		if err := i.postgres.Kill(); err != nil {
			return kills, err
		}
		kills++
		_ = sleep(sending, away()-downtime/2)
		if err := i.postgres.Restart(ctx); err != nil {
			return kills, err
		}
	}
	return kills, nil
}

// settle waits until ingest answers, its spool is empty and no event has come
// for a while, and returns since when that is so: zero if it is not within the
// bound.
func (i *installation) settle(ctx context.Context, bound time.Duration) (since time.Time, err error) {
	last := int64(-1)
	for limit := time.Now().Add(bound); time.Now().Before(limit); {
		health, ok := i.Health(ctx)
		events, err := i.events(ctx)
		switch {
		case err != nil || !ok || !health.Drained() || events != last:
			since, last = time.Time{}, events
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > quiet:
			return since, nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

func (i *installation) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, i.postgres.URL(database))
	if err != nil {
		return nil, fmt.Errorf("connecting to compare: %w", err)
	}
	return conn, nil
}

func (i *installation) events(ctx context.Context) (n int64, err error) {
	conn, err := i.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, `select count(*) from webhook_events`).Scan(&n)
	return n, err
}

// read reads every event with its number of jobs, and how many jobs have no
// event.
func (i *installation) read(ctx context.Context) (rows []row, orphans int, err error) {
	conn, err := i.connect(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	result, err := conn.Query(ctx, `
		with jobs as (
			select (args ->> 'event_id')::bigint as event_id, count(*) as n
			from river_job where kind = 'analyze' group by 1)
		select coalesce(e.conversation_id, ''), e.source, coalesce(j.n, 0), coalesce(`+rig.SaidSQL+`, '')
		from webhook_events e left join jobs j on j.event_id = e.id`)
	if err != nil {
		return nil, 0, fmt.Errorf("reading what is there: %w", err)
	}
	rows, err = pgx.CollectRows(result, func(r pgx.CollectableRow) (found row, err error) {
		var said []byte
		err = r.Scan(&found.id, &found.source, &found.jobs, &said)
		copy(found.said[:], said)
		return found, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading what is there: %w", err)
	}
	err = conn.QueryRow(ctx, `
		select count(*) from river_job j
		where kind = 'analyze' and not exists (select from webhook_events e where e.id = (j.args ->> 'event_id')::bigint)`).Scan(&orphans)
	if err != nil {
		return nil, 0, fmt.Errorf("reading what is there: %w", err)
	}
	return rows, orphans, nil
}

// load is the deliveries of a run.
type load struct {
	options
	client    *client
	calls     *rig.Calls
	sent      []sent
	sentTwice int
}

// sent is a delivery on its way; it may be sent twice at once.
type sent struct {
	tried, acknowledged, spooled, direct atomic.Bool
	took                                 atomic.Int64 // until it was first acknowledged
}

func newLoad(o options, url string) *load {
	return &load{options: o, client: newClient(url), calls: rig.NewCalls(o.seed), sent: make([]sent, int(o.duration.Seconds()*float64(o.rate)))}
}

// run sends each delivery when it is due, whatever became of those before,
// until sending ends; ctx bounds the answers.
func (l *load) run(sending, ctx context.Context, bar *progressbar.ProgressBar) {
	var (
		wg     sync.WaitGroup
		random = rand.New(rand.NewPCG(l.seed, 4)) //nolint:gosec // chance, repeatable on purpose
		began  = time.Now()
	)
	for n := range l.sent {
		if sleep(sending, time.Until(began.Add(time.Duration(n)*time.Second/time.Duration(l.rate)))) != nil {
			break
		}
		if n%l.rate == 0 {
			_ = bar.Add(1) // drawing is all that can fail
		}
		wg.Go(func() { l.deliver(ctx, n) })
		if random.Float64() >= l.twice {
			continue
		}
		l.sentTwice++
		var later time.Duration
		if random.IntN(2) == 1 {
			later = time.Duration(random.Int64N(int64(5 * time.Second)))
		}
		wg.Go(func() {
			if sleep(ctx, later) == nil {
				l.deliver(ctx, n)
			}
		})
	}
	wg.Wait()
}

func (l *load) deliver(ctx context.Context, n int) {
	s := &l.sent[n]
	s.tried.Store(true)
	body := l.calls.Transcript(uint64(n))
	a := l.client.post(ctx, body, rig.Sign(body), "")
	if !a.acknowledged() {
		return
	}
	s.acknowledged.Store(true)
	if a.spooled {
		s.spooled.Store(true)
	} else {
		s.direct.Store(true)
	}
	s.took.CompareAndSwap(0, int64(a.took))
}

// deliveries is what became of each delivery that was tried.
func (l *load) deliveries() []delivery {
	var list []delivery
	for n := range l.sent {
		s := &l.sent[n]
		if s.tried.Load() {
			list = append(list, delivery{
				id: l.calls.ID(uint64(n)), said: l.calls.Said(uint64(n)),
				acknowledged: s.acknowledged.Load(), spooled: s.spooled.Load() && !s.direct.Load(),
			})
		}
	}
	return list
}

func sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil || d <= 0 {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errors.New("the time is over")
	}
}
