package receive

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// Sizes of a Committer.
const (
	// committers is how many transactions are under way at once: while one
	// waits for the disk, the others gather what arrives.
	committers = 3
	// maxShared is how many events share a transaction at most.
	maxShared = 64
	// maxSharedBytes is from how many bytes on a transaction takes no further
	// event: one large body should not hold up many small ones.
	maxSharedBytes = 512 << 10
	// maxWaiting is how many events may wait for a transaction. Beyond it the
	// database is slower than what arrives.
	maxWaiting = 1024
	// pause is how long the database is left alone after it did not answer.
	pause = 250 * time.Millisecond
)

// CommitterOptions are what a Committer works with.
type CommitterOptions struct {
	Pool  *pgxpool.Pool
	Queue *queue.Client
	// MaxAttempts is how often an analysis is tried.
	MaxAttempts int
	// Timeout bounds a transaction, the wait for a connection included.
	Timeout time.Duration
	Metrics *Metrics
	Log     *zap.Logger
}

// Committer stores events together with their jobs. Events that arrive while
// others are being committed share the next transaction; one that arrives
// alone is committed at once.
type Committer struct {
	CommitterOptions

	waiting chan *commit

	mu        sync.Mutex
	restUntil time.Time // the database is not asked before
}

// commit is an event on its way into a transaction.
type commit struct {
	event *call.Event
	trace string       // where its delivery stands in its trace, for its job
	done  chan outcome // buffered: nobody may be waiting any more
}

type outcome struct {
	kept Kept
	err  error
}

// NewCommitter sets a Committer up; Run must be called.
func NewCommitter(o CommitterOptions) *Committer {
	return &Committer{CommitterOptions: o, waiting: make(chan *commit, maxWaiting)}
}

// Run commits until the context ends, then what is still waiting.
func (c *Committer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range committers {
		wg.Go(func() { c.work(ctx) })
	}
	wg.Wait()
}

func (c *Committer) work(ctx context.Context) {
	// What was accepted is finished when the process stops.
	finishing := context.WithoutCancel(ctx)
	for {
		select {
		case first := <-c.waiting:
			c.share(finishing, c.gather(first))
		case <-ctx.Done():
			for {
				select {
				case first := <-c.waiting:
					c.share(finishing, c.gather(first))
				default:
					return
				}
			}
		}
	}
}

// gather takes what is waiting, without waiting for more.
func (c *Committer) gather(first *commit) []*commit {
	list := []*commit{first}
	bytes := len(first.event.Payload)
	for len(list) < maxShared && bytes < maxSharedBytes {
		select {
		case next := <-c.waiting:
			list = append(list, next)
			bytes += len(next.event.Payload)
		default:
			return list
		}
	}
	return list
}

// Commit stores an event and, if its state is queued, its job. It returns
// after the transaction has been committed. An Unavailable error says that the
// database did not answer in time: the event may or may not be there. Any other
// error is the database's about this event alone.
func (c *Committer) Commit(ctx context.Context, e *call.Event) (Kept, error) {
	if c.resting() {
		return Kept{}, call.Errorf(call.Unavailable, "the database has just failed to answer")
	}
	item := &commit{event: e, trace: queue.Traceparent(ctx), done: make(chan outcome, 1)}
	select {
	case c.waiting <- item:
	default:
		return Kept{}, call.Errorf(call.Unavailable, "%d events are waiting for the database", maxWaiting)
	}
	select {
	case o := <-item.done:
		return o.kept, o.err
	case <-ctx.Done():
		return Kept{}, call.Errorf(call.Unavailable, "waiting for the database: %w", context.Cause(ctx))
	}
}

// share commits a list. If the database refuses what one of them holds, each
// is committed by itself, so that a bad one does not take its neighbours with
// it.
func (c *Committer) share(ctx context.Context, list []*commit) {
	kept, err := c.transaction(ctx, list)
	if len(list) > 1 && refused(err) {
		for _, item := range list {
			c.share(ctx, []*commit{item})
		}
		return
	}
	for i, item := range list {
		o := outcome{err: err}
		if err == nil {
			o.kept = kept[i]
		}
		item.done <- o
	}
}

func (c *Committer) transaction(ctx context.Context, list []*commit) (kept []Kept, err error) {
	if c.resting() {
		return nil, call.Errorf(call.Unavailable, "the database has just failed to answer")
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	events := make([]*call.Event, len(list))
	for i, item := range list {
		events[i] = item.event
	}
	began := time.Now()
	err = pgx.BeginFunc(ctx, c.Pool, func(tx pgx.Tx) error {
		if kept, err = postgres.InsertEvents(ctx, tx, events); err != nil {
			return err
		}
		var jobs []queue.AnalyzeJob
		for i, e := range events {
			if e.State == call.StateQueued && !kept[i].Duplicate && !kept[i].Erased {
				priority := 1
				if e.Source == call.SourceImport { // calls of days ago let those of now pass
					priority = 3
				}
				jobs = append(jobs, queue.AnalyzeJob{
					Args:     queue.Analyze{EventID: kept[i].EventID, Trigger: call.TriggerAuto},
					Metadata: queue.Metadata{RequestID: e.RequestID, ConversationID: e.ConversationID, Trace: list[i].trace},
					Priority: priority,
				})
			}
		}
		if len(jobs) == 0 {
			return nil
		}
		return queue.InsertAnalyses(ctx, c.Queue, tx, jobs, c.MaxAttempts)
	})
	switch {
	case err == nil:
		c.Metrics.shared.Observe(float64(len(events)))
		c.Metrics.commit.Observe(time.Since(began).Seconds())
		return kept, nil
	case refused(err):
		return nil, err
	}
	if ctx.Err() != nil || unreachable(err) {
		c.rest()
	}
	return nil, call.Errorf(call.Unavailable, "committing %d events: %w", len(events), err)
}

// refused reports whether the database answered that it cannot hold this data:
// SQLSTATE classes 22 (data exception), 23 (integrity) and 54 (program limit).
func refused(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code[:2] == "22" || e.Code[:2] == "23" || e.Code[:2] == "54")
}

// unreachable reports whether there was no answer of the server at all.
func unreachable(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return !answered
}

// rest leaves a database that does not answer alone for a moment: deliveries
// go to the spool without each waiting for the same time-out. Failing fast is
// safe, since nothing is refused by it.
func (c *Committer) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restUntil = time.Now().Add(pause)
}

func (c *Committer) resting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.restUntil)
}
