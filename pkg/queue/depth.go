package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// MaxDepth is where counting ends: the figures cost the same however much
// waits.
const MaxDepth = 100_000

// Depth is how a queue stands. A call's jobs have a queue for each kind, of the
// same name.
type Depth struct {
	Queue  string
	Paused bool
	// Jobs by state, each counted up to MaxDepth.
	Available, Scheduled, Retryable, Running, Discarded int64
	// OldestSeconds is how long the longest waiting job could have run already.
	OldestSeconds float64
}

// Depths reads how the queues stand. River's index on state, queue, priority
// and time gives all of it.
func Depths(ctx context.Context, pool *pgxpool.Pool) ([]Depth, error) {
	rows, err := pool.Query(ctx, `
		with queues as (
			select name, paused_at is not null as paused from river_queue
			union all
			select 'analyze', false where not exists (select from river_queue where name = 'analyze'))
		select q.name, q.paused, n.available, n.scheduled, n.retryable, n.running, n.discarded,
			greatest(0, coalesce(extract(epoch from now() - o.oldest), 0))::float8
		from queues q
		cross join lateral (
			select
				(select count(*) from (select from river_job where state = 'available' and queue = q.name limit $1) j) as available,
				(select count(*) from (select from river_job where state = 'scheduled' and queue = q.name limit $1) j) as scheduled,
				(select count(*) from (select from river_job where state = 'retryable' and queue = q.name limit $1) j) as retryable,
				(select count(*) from (select from river_job where state = 'running' and queue = q.name limit $1) j) as running,
				(select count(*) from (select from river_job where state = 'discarded' and queue = q.name limit $1) j) as discarded
		) n
		cross join lateral (
			select min(first.scheduled_at) as oldest
			from generate_series(1, 4) p
			cross join lateral (
				select scheduled_at from river_job
				where state = 'available' and queue = q.name and priority = p
				order by scheduled_at limit 1) first
		) o
		order by q.name`, MaxDepth)
	if err != nil {
		return nil, fmt.Errorf("reading how the queues stand: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Depth])
	if err != nil {
		return nil, fmt.Errorf("reading how the queues stand: %w", err)
	}
	return list, nil
}

// DeadEvents counts the events whose analysis was given up, up to MaxDepth.
func DeadEvents(ctx context.Context, pool *pgxpool.Pool) (n int64, err error) {
	err = pool.QueryRow(ctx, `select count(*) from (select from webhook_events where analysis_state = 'dead' and duplicate_of is null limit $1) d`, MaxDepth).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting the dead letters: %w", err)
	}
	return n, nil
}

const (
	// fresh is how long what was read is given out again: many who fetch cost the
	// database no more than one.
	fresh = 5 * time.Second
	// depthTimeout bounds reading it.
	depthTimeout = 2 * time.Second
)

var (
	depthJobs = prometheus.NewDesc("postcall_queue_jobs",
		"Jobs by queue and state (available, scheduled, retryable, running, discarded), counted up to 100 000. The same for all processes: take the max.", []string{"queue", "state"}, nil)
	depthOldest = prometheus.NewDesc("postcall_queue_oldest_age_seconds",
		"How long the longest waiting job of a queue could have run already. The same for all processes.", []string{"queue"}, nil)
	depthPaused = prometheus.NewDesc("postcall_queue_paused",
		"Whether a queue is paused, by the workers or by hand. The same for all processes.", []string{"queue"}, nil)
	depthDead = prometheus.NewDesc("postcall_dead_letters",
		"What waits for a person: analyses that were given up, and jobs of targets that ran out of attempts; up to 100 000. The same for all processes.", []string{"kind"}, nil)
	depthUp = prometheus.NewDesc("postcall_queue_readable",
		"Whether the figures of the queues could be read: 0 while the database is away, and then there are none.", nil, nil)
)

// Collector gives Prometheus how the queues stand. It asks the database only
// when somebody fetches, and not more often than every five seconds.
type Collector struct {
	Pool *pgxpool.Pool
	Log  *zap.Logger

	mu    sync.Mutex
	read  time.Time
	list  []Depth
	dead  int64
	wrong error
}

// Describe implements prometheus.Collector.
func (*Collector) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{depthJobs, depthOldest, depthPaused, depthDead, depthUp} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	list, dead, err := c.stand()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	if err != nil {
		gauge(depthUp, 0)
		return
	}
	gauge(depthUp, 1)
	gauge(depthDead, float64(dead), QueueAnalyze)
	for _, d := range list {
		for state, n := range map[string]int64{
			"available": d.Available, "scheduled": d.Scheduled, "retryable": d.Retryable, "running": d.Running, "discarded": d.Discarded,
		} {
			gauge(depthJobs, float64(n), d.Queue, state)
		}
		gauge(depthOldest, d.OldestSeconds, d.Queue)
		paused := 0.0
		if d.Paused {
			paused = 1
		}
		gauge(depthPaused, paused, d.Queue)
		if d.Queue != QueueAnalyze && d.Queue != QueueMaintenance {
			gauge(depthDead, float64(d.Discarded), d.Queue)
		}
	}
}

// stand is how the queues stand, or stood a moment ago. A failure is remembered
// as long, so that a database in trouble is not asked by everybody.
func (c *Collector) stand() ([]Depth, int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) < fresh {
		return c.list, c.dead, c.wrong
	}
	ctx, cancel := context.WithTimeout(context.Background(), depthTimeout)
	defer cancel()
	list, err := Depths(ctx, c.Pool)
	var dead int64
	if err == nil {
		dead, err = DeadEvents(ctx, c.Pool)
	}
	if err != nil && c.wrong == nil {
		c.Log.Warn("the figures of the queues cannot be read", zap.Error(err))
	}
	c.read, c.list, c.dead, c.wrong = time.Now(), list, dead, err
	return list, dead, err
}
