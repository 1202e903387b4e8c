// Package throttle bounds what all processes on one database do together: how
// many are at something at once (places), and how soon after one another they
// start (turns).
//
// A place is a lease in the database. Its holder renews it; the places of a
// process that died are free again when their leases have run out, not before:
// what it had asked for may still be under way on the other side. A holder that
// cannot renew in time gives up what it does, so that a place is never used by
// two. The only clock that is compared with a lease is the database's; a
// process only measures how long ago it asked for the lease.
//
// Waiting is cheap: of each process one waiter at a time asks, more and more
// rarely down to once a second, and within a process a place that becomes free
// goes to the next waiter without the database. So fifty processes that wait
// ask fifty times a second, all together. Nothing in it needs a session of its
// own: it works through a pooler in transaction mode.
package throttle

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/call"
)

// ErrBusy means that no place became free within the patience.
var ErrBusy = errors.New("every place is taken")

// ErrLost is the cause with which the context of a place ends whose lease
// could not be renewed.
var ErrLost = errors.New("the place was lost: its lease could not be renewed")

const (
	defaultLease    = 15 * time.Second
	defaultPatience = 10 * time.Second
	// linger is how long a place that nobody here waits for is kept before it is
	// given back: the next job is mostly there at once.
	linger = 100 * time.Millisecond
	// Bounds of the time between two questions for a place.
	firstAsk = 20 * time.Millisecond
	lastAsk  = time.Second
)

// Options set up a Throttle.
type Options struct {
	Pool *pgxpool.Pool
	// Name says which throttles are one: those of the same name on a database.
	Name string
	// Places is how many may be held at once. Where processes say different
	// numbers, the largest bounds them all together.
	Places int
	// Gap is the least time between two starts; 0 means none.
	Gap time.Duration
	// Lease is how long the place of a dead process stays taken; 0 means 15
	// seconds. A process that does not reach the database for nine tenths of it
	// loses its places.
	Lease time.Duration
	// Patience is how long Enter waits; 0 means 10 seconds.
	Patience time.Duration
	Log      *zap.Logger
}

// Throttle is one process's part. It is safe for concurrent use.
type Throttle struct {
	o      Options
	holder string

	asking chan struct{} // held by the one waiter that asks the database
	handed chan *place   // from one that leaves to one that waits
	kick   chan struct{} // has Run look at the places anew
	turns  chan struct{} // held by the one that takes a turn

	mu     sync.Mutex
	places map[int]*place
}

// place is a place that this process holds.
type place struct {
	number int
	until  time.Time               // of this process's clock: not to be used afterwards
	lost   context.CancelCauseFunc // nil while nobody uses it
	idle   time.Time               // since when nobody uses it
}

// New makes a throttle. Run must run while it is used.
func New(o Options) *Throttle {
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	return &Throttle{
		o: o, holder: strconv.Itoa(os.Getpid()) + "/" + rand.Text(),
		asking: make(chan struct{}, 1), handed: make(chan *place), kick: make(chan struct{}, 1),
		turns: make(chan struct{}, 1), places: map[int]*place{},
	}
}

// Patience is how long Enter waits at most.
func (t *Throttle) Patience() time.Duration { return t.o.Patience }

// Enter waits for a place, at most as long as the patience: ErrBusy afterwards.
// What is done in the place is done under the returned context, which ends with
// ErrLost when the place is lost. leave must be called; it does not block.
func (t *Throttle) Enter(ctx context.Context) (held context.Context, leave func(), err error) {
	p := t.idle()
	if p == nil {
		patience := time.NewTimer(t.o.Patience)
		defer patience.Stop()
		if p, err = t.wait(ctx, patience.C); err != nil {
			return nil, nil, err
		}
	}
	held, cancel := context.WithCancelCause(ctx)
	t.mu.Lock()
	p.lost = cancel
	if t.places[p.number] != p { // it was lost on the way here
		cancel(ErrLost)
	}
	t.mu.Unlock()
	return held, func() { t.leave(p); cancel(context.Canceled) }, nil
}

// idle takes a place that is held and not used.
func (t *Throttle) idle() *place {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.places {
		if !p.idle.IsZero() && time.Now().Before(p.until) {
			p.idle = time.Time{}
			return p
		}
	}
	return nil
}

// wait waits for a place: one that somebody here leaves, or one of the
// database's.
func (t *Throttle) wait(ctx context.Context, patience <-chan time.Time) (*place, error) {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case p := <-t.handed:
		return p, nil
	case <-patience:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for pause := firstAsk; ; pause = min(2*pause, lastAsk) {
		p, err := t.take(ctx)
		if p != nil || err != nil {
			return p, err
		}
		// By chance up to half as long again, so that processes do not ask in step.
		again := time.NewTimer(pause + mathrand.N(pause/2)) //nolint:gosec // chance spreads the load, it keeps no secret
		select {
		case p := <-t.handed:
			again.Stop()
			return p, nil
		case <-again.C:
		case <-patience:
			again.Stop()
			return nil, ErrBusy
		case <-ctx.Done():
			again.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// take takes a free place from the database; nil when there is none.
func (t *Throttle) take(ctx context.Context) (*place, error) {
	asked := time.Now()
	var number int
	// Of two that take the same place the second waits for the first's row and
	// then finds it taken.
	err := t.o.Pool.QueryRow(ctx, `
		insert into throttle_places as taken (throttle, place, holder, expires_at)
		select $1, number, $3, clock_timestamp() + $4
		from generate_series(1, $2) as number
		where not exists (
			select from throttle_places p
			where p.throttle = $1 and p.place = number and p.expires_at > clock_timestamp())
		order by random()
		limit 1
		on conflict (throttle, place) do update
		set holder = excluded.holder, expires_at = clock_timestamp() + $4
		where taken.expires_at <= clock_timestamp()
		returning place`, t.o.Name, t.o.Places, t.holder, t.o.Lease).Scan(&number)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // no place and no error is the answer
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, call.Errorf(call.Unavailable, "taking a place: %w", err)
	}
	p := &place{number: number, until: asked.Add(t.usable())}
	t.mu.Lock()
	t.places[number] = p
	t.mu.Unlock()
	t.wake()
	return p, nil
}

// usable is how long after it was asked for a lease may be used.
func (t *Throttle) usable() time.Duration { return t.o.Lease * 9 / 10 }

// leave hands a place to one who waits here, else keeps it for a moment.
func (t *Throttle) leave(p *place) {
	t.mu.Lock()
	p.lost = nil
	held := t.places[p.number] == p && time.Now().Before(p.until)
	t.mu.Unlock()
	if !held {
		return
	}
	select {
	case t.handed <- p:
		return
	default:
	}
	t.mu.Lock()
	p.idle = time.Now()
	t.mu.Unlock()
	t.wake()
}

func (t *Throttle) wake() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// Run renews the leases and gives back what is not used, until the context
// ends; then it gives back all places. Nobody must be in one any more.
func (t *Throttle) Run(ctx context.Context) {
	every := t.o.Lease / 5
	renewed := time.Now()
	for {
		timer := time.NewTimer(time.Until(t.due(renewed.Add(every))))
		select {
		case <-ctx.Done():
			timer.Stop()
			bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), every)
			defer cancel()
			t.release(bounded, func(*place) bool { return true })
			return
		case <-t.kick:
			timer.Stop()
			continue
		case <-timer.C:
		}
		now := time.Now()
		// A database that hangs must not keep a place beyond its time.
		bounded, cancel := context.WithDeadline(ctx, t.ends(now.Add(every)))
		t.release(bounded, func(p *place) bool { return !p.idle.IsZero() && now.Sub(p.idle) >= linger })
		if now.Sub(renewed) >= every {
			renewed = now
			t.renew(bounded)
		}
		cancel()
		t.giveUp()
	}
}

// due is when there is something to do next: at a time, or before it.
func (t *Throttle) due(at time.Time) time.Time {
	at = t.ends(at)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.places {
		if back := p.idle.Add(linger); !p.idle.IsZero() && back.Before(at) {
			at = back
		}
	}
	return at
}

// ends is when the first place ends that is not renewed, or at if that is
// before.
func (t *Throttle) ends(at time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.places {
		if p.until.Before(at) {
			at = p.until
		}
	}
	return at
}

// numbers lists the places that fit and, if they are to be dropped, forgets
// them.
func (t *Throttle) numbers(fit func(*place) bool, drop bool) []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []int
	for n, p := range t.places {
		if fit(p) {
			list = append(list, n)
			if drop {
				delete(t.places, n)
			}
		}
	}
	return list
}

// release gives the fitting places back. Where that fails they run out.
func (t *Throttle) release(ctx context.Context, fit func(*place) bool) {
	list := t.numbers(fit, true)
	if len(list) == 0 {
		return
	}
	_, err := t.o.Pool.Exec(ctx, `
		update throttle_places set expires_at = '-infinity'
		where throttle = $1 and holder = $2 and place = any($3)`, t.o.Name, t.holder, list)
	if err != nil {
		t.o.Log.Warn("places could not be given back; they run out by themselves", zap.Ints("places", list), zap.Error(err))
	}
}

// renew renews the leases of every place. One that is not this process's any
// more is lost.
func (t *Throttle) renew(ctx context.Context) {
	list := t.numbers(func(*place) bool { return true }, false)
	if len(list) == 0 {
		return
	}
	asked := time.Now()
	rows, err := t.o.Pool.Query(ctx, `
		update throttle_places set expires_at = clock_timestamp() + $4
		where throttle = $1 and holder = $2 and place = any($3) and expires_at > clock_timestamp()
		returning place`, t.o.Name, t.holder, list, t.o.Lease)
	var kept []int
	if err == nil {
		kept, err = pgx.CollectRows(rows, pgx.RowTo[int])
	}
	if err != nil {
		t.o.Log.Warn("places could not be renewed", zap.Ints("places", list), zap.Error(fmt.Errorf("renewing places: %w", err)))
		return
	}
	still := make(map[int]bool, len(kept))
	for _, n := range kept {
		still[n] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range list {
		p := t.places[n]
		switch {
		case p == nil: // given back meanwhile
		case still[n]:
			p.until = asked.Add(t.usable())
		default:
			p.until = asked
		}
	}
}

// giveUp ends what is done in places whose lease has run out.
func (t *Throttle) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for n, p := range t.places {
		if now.Before(p.until) {
			continue
		}
		delete(t.places, n)
		if p.lost != nil {
			p.lost(ErrLost)
		}
		if p.idle.IsZero() {
			t.o.Log.Error("a place was lost: the database was not reached in time", zap.Int("place", n), zap.Duration("lease", t.o.Lease))
		}
	}
}
