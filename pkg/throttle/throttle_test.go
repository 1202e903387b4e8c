package throttle_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/pgtest"
	"postcall/pkg/throttle"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// counter counts the statements of a pool.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// process is a throttle with a pool of its own, as each worker has.
func process(t *testing.T, url string, o throttle.Options) (*throttle.Throttle, *counter) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 4
	statements := &counter{}
	config.ConnConfig.Tracer = statements
	o.Pool, err = pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	o.Log, o.Name = zap.NewNop(), "test"
	th := throttle.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { th.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		o.Pool.Close()
	})
	return th, statements
}

// Many processes together never hold more than the places, and all of them
// get to do what they want.
func TestPlaces(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	const places, processes, jobs = 3, 6, 20
	var running, high atomic.Int64
	var g errgroup.Group
	for range processes {
		th, _ := process(t, url, throttle.Options{Places: places, Patience: time.Minute})
		for range 4 {
			g.Go(func() error {
				for range jobs / 4 {
					_, leave, err := th.Enter(t.Context())
					if err != nil {
						return err
					}
					now := running.Add(1)
					for {
						h := high.Load()
						if now <= h || high.CompareAndSwap(h, now) {
							break
						}
					}
					<-time.After(2 * time.Millisecond) // the work
					running.Add(-1)
					leave()
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if h := high.Load(); h != places {
		t.Errorf("%d at once, want %d to be reached and never passed", h, places)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	one, _ := process(t, url, throttle.Options{Places: 1})
	other, _ := process(t, url, throttle.Options{Places: 1, Patience: 50 * time.Millisecond})
	_, leave, err := one.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Enter(t.Context()); !errors.Is(err, throttle.ErrBusy) {
		t.Errorf("a second place of one: %v", err)
	}
	stopped, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("told to stop"))
	if _, _, err := other.Enter(stopped); err == nil || err.Error() != "told to stop" {
		t.Errorf("waiting after the context's end: %v", err)
	}
	leave()
	// A place that nobody waits for goes back to the database and to others.
	patient, _ := process(t, url, throttle.Options{Places: 1, Patience: time.Minute})
	_, leave, err = patient.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

// The place of a process that died is free when its lease has run out, and not
// before; one that lives keeps its place for longer than a lease.
func TestDead(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	const lease = 1500 * time.Millisecond
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	// Without Run nothing is renewed and nothing given back: as after kill -9.
	dead := throttle.New(throttle.Options{Pool: pool, Name: "test", Places: 1, Lease: lease, Log: zap.NewNop()})
	began := time.Now()
	if _, _, err := dead.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	next, _ := process(t, url, throttle.Options{Places: 1, Lease: lease, Patience: time.Minute})
	held, leave, err := next.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < lease {
		t.Errorf("the place was free after %s of a lease of %s", took, lease)
	}
	impatient, _ := process(t, url, throttle.Options{Places: 1, Lease: lease, Patience: 2 * lease})
	if _, _, err := impatient.Enter(t.Context()); !errors.Is(err, throttle.ErrBusy) {
		t.Errorf("the place of one that lives was given away: %v", err)
	}
	if held.Err() != nil {
		t.Errorf("the place was lost: %v", context.Cause(held))
	}
	leave()
}

// Whose lease cannot be renewed gives up, before anybody else can take the
// place.
func TestLost(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	th, _ := process(t, url, throttle.Options{Places: 1, Lease: 4 * time.Second})
	held, leave, err := th.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	// Somebody locks the row: the renewals hang.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	var left time.Duration
	if _, err := tx.Exec(t.Context(), `select from throttle_places for update`); err != nil {
		t.Fatal(err)
	}
	<-held.Done()
	if err := tx.QueryRow(t.Context(), `select expires_at - clock_timestamp() from throttle_places`).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(context.Cause(held), throttle.ErrLost) || left <= 0 {
		t.Errorf("ended with %v, %s before the lease", context.Cause(held), left)
	}
}

// Fifty processes that wait ask the database seldom, and one that has work
// hands its place on without asking at all.
func TestCheap(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	busy, own := process(t, url, throttle.Options{Places: 1})
	_, leave, err := busy.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const processes, patience = 50, 4 * time.Second
	var g errgroup.Group
	counters := make([]*counter, processes)
	began := time.Now()
	for n := range counters {
		th, statements := process(t, url, throttle.Options{Places: 1, Patience: patience})
		counters[n] = statements
		for range 3 {
			g.Go(func() error {
				if _, _, err := th.Enter(t.Context()); !errors.Is(err, throttle.ErrBusy) {
					return fmt.Errorf("entered where nothing is free: %w", err)
				}
				return nil
			})
		}
	}
	before := own.n.Load()
	for range 200 {
		next := make(chan func(), 1)
		go func() {
			_, leave, err := busy.Enter(t.Context())
			if err != nil {
				t.Error(err)
			}
			next <- leave
		}()
		leave()
		leave = <-next
	}
	if n := own.n.Load() - before; n > 5 {
		t.Errorf("%d statements for 200 hand-overs", n)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	leave()
	var asked int64
	for _, c := range counters {
		asked += c.n.Load()
	}
	t.Logf("%d statements of %d waiting processes in %s", asked, processes, time.Since(began))
	// Seven questions in the first second, one a second later.
	if limit := int64(processes * (7 + time.Since(began)/time.Second)); asked < processes || asked > limit {
		t.Errorf("%d statements of %d waiting processes in %s, at most %d wanted", asked, processes, time.Since(began), limit)
	}
}

// starts is a server that writes down when requests reach it.
type starts struct {
	mu sync.Mutex
	at []time.Time
}

func (s *starts) ServeHTTP(http.ResponseWriter, *http.Request) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, now)
}

// closest is the shortest time between two starts.
func (s *starts) closest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	shortest := time.Hour
	for i := 1; i < len(s.at); i++ {
		shortest = min(shortest, s.at[i].Sub(s.at[i-1]))
	}
	return shortest
}

func post(ctx context.Context, th *throttle.Throttle, base http.RoundTripper, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("a body"))
	if err != nil {
		return err
	}
	res, err := th.Transport(base).RoundTrip(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// departure is when a request was handed to the transport, and when the last of
// it was on the connection.
type departure struct{ left, wrote time.Time }

// departures writes down when requests leave.
type departures struct {
	mu   sync.Mutex
	list []departure
}

func (d *departures) through(base http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		left := time.Now()
		return base.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.list = append(d.list, departure{left, time.Now()})
			},
		})))
	})
}

// Whichever process they are of, a request leaves no sooner than the gap after
// the one before it was on its way.
func TestTurns(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer server.Close()
	const gap, processes, requests = 20 * time.Millisecond, 4, 40
	var log departures
	var g errgroup.Group
	for range processes {
		th, _ := process(t, url, throttle.Options{Places: 1, Gap: gap})
		base := &http.Transport{}
		defer base.CloseIdleConnections()
		for range 2 {
			g.Go(func() error {
				for range requests / processes / 2 {
					if err := post(t.Context(), th, log.through(base), server.URL); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(log.list) != requests {
		t.Fatalf("%d requests left", len(log.list))
	}
	for n := 1; n < len(log.list); n++ {
		if apart := log.list[n].left.Sub(log.list[n-1].wrote); apart < gap {
			t.Errorf("request %d left %s after the one before it", n, apart)
		}
	}
}

// A process that dies in its turn, its request just sent, does not let the
// next one come too close.
func TestDiesInItsTurn(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	const gap = 100 * time.Millisecond
	log := &starts{}
	reached := make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.ServeHTTP(w, r)
		reached <- struct{}{}
	}))
	defer server.Close()
	th, _ := process(t, url, throttle.Options{Places: 1, Gap: gap})
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	// It leaves, and at that moment its connections to the database are gone.
	killed := roundTripper(func(r *http.Request) (*http.Response, error) {
		pool, err := pgxpool.New(context.WithoutCancel(r.Context()), url)
		if err != nil {
			return nil, err
		}
		defer pool.Close()
		if _, err := pool.Exec(context.WithoutCancel(r.Context()), `
			select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`); err != nil {
			return nil, err
		}
		return base.RoundTrip(r)
	})
	if err := post(t.Context(), th, killed, server.URL); err != nil {
		t.Fatal(err)
	}
	<-reached
	next, _ := process(t, url, throttle.Options{Places: 1, Gap: gap})
	if err := post(t.Context(), next, base, server.URL); err != nil {
		t.Fatal(err)
	}
	<-reached
	if closest := log.closest(); closest < gap {
		t.Errorf("%s apart, want at least %s", closest, gap)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Waiting for a turn ends with the request's context, and nothing is sent.
func TestTurnGivenUp(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	log := &starts{}
	server := httptest.NewServer(log)
	defer server.Close()
	th, _ := process(t, url, throttle.Options{Places: 1, Gap: time.Minute})
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	if err := post(t.Context(), th, base, server.URL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := post(ctx, th, base, server.URL); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the next minute's request: %v", err)
	}
	if len(log.at) != 1 {
		t.Errorf("%d requests reached the server", len(log.at))
	}
}
