package throttle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

const (
	// writing is how long a request may take from its turn until it is on the
	// wire, a new connection included; afterwards it is given up. A process that
	// dies in its turn holds the others up for as long.
	writing = 5 * time.Second
	// travel is what is added to the gap because one request may take longer on
	// its way than the next: requests leave at least the gap apart, exactly, and
	// so arrive as long as no way is longer than the next by more than this.
	travel = 10 * time.Millisecond
	// holding is the longest time for which the others' lock is held only to
	// wait.
	holding = 250 * time.Millisecond
)

var errSlow = call.Errorf(call.Unavailable, "the request could not be sent within %s", writing)

// Transport sends requests through base, each in its turn: it leaves no sooner
// than the gap after the one before it has been written to its connection, by
// whichever process. The wait counts against the request's context.
func (t *Throttle) Transport(base http.RoundTripper) http.RoundTripper {
	if t.o.Gap <= 0 {
		return base
	}
	return &transport{throttle: t, base: base}
}

type transport struct {
	throttle *Throttle
	base     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	end, err := r.throttle.turn(req.Context())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close() // a RoundTripper must; nothing was read of it
		}
		return nil, err
	}
	// The context must outlive this function: it is the body's as well. It ends
	// with the request's own.
	ctx, cancel := context.WithCancelCause(req.Context())
	slow := time.AfterFunc(writing, func() { cancel(errSlow) })
	wrote := make(chan struct{})
	mark := sync.OnceFunc(func() {
		slow.Stop()
		close(wrote)
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-wrote
		end()
	}()
	trace := &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		if info.Err == nil { // else base may try again, still in this turn
			mark()
		}
	}}
	res, err := r.base.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	mark()
	<-ended
	if err != nil {
		cancel(err)
	}
	return res, err
}

// turn waits until a request may start. Nobody else's starts before end was
// called, and then not until the gap has passed.
//
// The queue is that of a lock in the database, in the order of asking and without
// polling, with one waiter of each process in it. Before the request leaves,
// the time of the next start is put off in a transaction of its own: if this
// process dies in its turn, the lock is gone at once and the gap still holds.
func (t *Throttle) turn(ctx context.Context) (end func(), err error) {
	select {
	case t.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	tx, err := t.queue(ctx)
	if err != nil {
		<-t.turns
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, call.Errorf(call.Unavailable, "waiting for the turn to ask: %w", err)
	}
	return func() {
		defer func() { <-t.turns }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writing)
		defer cancel()
		// Where this fails, or the lock was lost, what was put off before holds.
		err := put(ctx, tx, t.o.Name, t.o.Gap+travel)
		if err == nil {
			err = tx.Commit(ctx)
		}
		if err != nil {
			t.o.Log.Warn("a turn could not be ended; the next waits longer", zap.Error(errors.Join(err, rollback(ctx, tx))))
		}
	}, nil
}

// queue returns a transaction that holds the turn, and the time has come.
func (t *Throttle) queue(ctx context.Context) (_ pgx.Tx, err error) {
	for {
		tx, left, err := t.lock(ctx)
		if err != nil {
			return nil, err
		}
		if left > holding {
			// It would be held for nothing; whoever is first when the time has
			// come takes it.
			if err := tx.Rollback(ctx); err != nil {
				return nil, err
			}
			if err := sleep(ctx, left-holding/2); err != nil {
				return nil, err
			}
			continue
		}
		err = sleep(ctx, left)
		if err == nil {
			err = put(ctx, t.o.Pool, t.o.Name, writing+t.o.Gap)
		}
		if err == nil {
			return tx, nil
		}
		return nil, errors.Join(err, rollback(ctx, tx))
	}
}

// lock waits for the row's lock and says how long it is until the next start.
func (t *Throttle) lock(ctx context.Context) (_ pgx.Tx, left time.Duration, err error) {
	tx, err := t.o.Pool.Begin(ctx)
	if err != nil {
		return nil, 0, err
	}
	var b pgx.Batch
	// A process that stands still must not hold the others up for ever.
	b.Queue(fmt.Sprintf(`set local idle_in_transaction_session_timeout = %d`, (2*writing + holding).Milliseconds()))
	b.Queue(`select pg_advisory_xact_lock(hashtextextended('postcall turn ' || $1, 0))`, t.o.Name)
	// A statement of its own, so that it sees what was put before the lock came.
	b.Queue(`
		select coalesce((
			select greatest(extract(epoch from next_start - clock_timestamp()), 0)
			from throttle_starts where throttle = $1 and next_start > clock_timestamp()), 0)::float8`,
		t.o.Name).QueryRow(func(row pgx.Row) error {
		var seconds float64
		err := row.Scan(&seconds)
		left = time.Duration(seconds * float64(time.Second))
		return err
	})
	if err := tx.SendBatch(ctx, &b).Close(); err != nil {
		return nil, 0, errors.Join(err, rollback(ctx, tx))
	}
	return tx, left, nil
}

// put puts the next start off until so much later.
func put(ctx context.Context, db postgres.DB, name string, later time.Duration) error {
	_, err := db.Exec(ctx, `
		insert into throttle_starts (throttle, next_start) values ($1, clock_timestamp() + $2)
		on conflict (throttle) do update set next_start = excluded.next_start`, name, later)
	return err
}

func rollback(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writing)
	defer cancel()
	if err := tx.Rollback(ctx); !errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
