package web

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

const (
	// liveEvery is how often the newest event is looked for, by one query for all
	// pages that are open, and not at all while none is.
	liveEvery = time.Second
	// liveBeat keeps proxies from ending a stream that has nothing to say.
	liveBeat = 20 * time.Second
	// maxLive is how many streams a process holds open.
	maxLive = 200
)

// Live tells open pages that something has arrived.
type Live struct {
	Pool *pgxpool.Pool
	Log  *zap.Logger

	mu        sync.Mutex
	newest    int64
	listeners map[chan int64]struct{}
	closed    chan struct{}
	once      sync.Once
}

// NewLive looks on a pool; Run must be called for anything to be told.
func NewLive(pool *pgxpool.Pool, log *zap.Logger) *Live {
	return &Live{Pool: pool, Log: log, listeners: map[chan int64]struct{}{}, closed: make(chan struct{})}
}

// Close ends every stream, so that a server that is shut down need not wait.
func (l *Live) Close() { l.once.Do(func() { close(l.closed) }) }

// Run looks until ctx ends. Failure policy: open; while the database is away
// nothing is told, and pages are as they were.
func (l *Live) Run(ctx context.Context) {
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.Close()
			return
		case <-tick.C:
		}
		l.mu.Lock()
		idle := len(l.listeners) == 0
		l.mu.Unlock()
		if idle {
			continue
		}
		newest, err := postgres.NewestEvent(ctx, l.Pool, liveEvery)
		if err != nil {
			if ctx.Err() == nil {
				l.Log.Debug("looking for new events", zap.Error(err))
			}
			continue
		}
		l.tell(newest)
	}
}

func (l *Live) tell(newest int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if newest == l.newest {
		return
	}
	l.newest = newest
	for listener := range l.listeners {
		select {
		case <-listener: // what nobody has read yet is out of date
		default:
		}
		listener <- newest
	}
}

func (l *Live) listen() (listener chan int64, leave func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.listeners) >= maxLive {
		return nil, nil, &call.Error{Code: call.Unavailable, Message: "Too many pages are open.", RetryAfter: liveBeat}
	}
	listener = make(chan int64, 1)
	l.listeners[listener] = struct{}{}
	if l.newest > 0 {
		listener <- l.newest
	}
	return listener, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.listeners, listener)
	}, nil
}

// live streams the id of the newest event whenever there is a newer one. It
// holds nothing of a call; the page asks for what its filter lets it see.
func (d *Dashboard) live(c echo.Context) error {
	if d.Live == nil {
		return call.Errorf(call.Unavailable, "There is no database.")
	}
	listener, leave, err := d.Live.listen()
	if err != nil {
		return err
	}
	defer leave()
	w := c.Response()
	control := http.NewResponseController(w)
	w.Header().Set(echo.HeaderContentType, "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	say := func(line string) error {
		if err := control.SetWriteDeadline(time.Now().Add(2 * liveBeat)); err != nil {
			return fmt.Errorf("giving the client time: %w", err)
		}
		if _, err := fmt.Fprint(w, line); err != nil {
			return err
		}
		return control.Flush()
	}
	beat := time.NewTicker(liveBeat)
	defer beat.Stop()
	err = say("retry: 3000\n\n")
	for err == nil {
		select {
		case <-c.Request().Context().Done():
			return nil
		case <-d.Live.closed:
			return nil
		case newest := <-listener:
			err = say(fmt.Sprintf("event: newest\ndata: %d\n\n", newest))
		case <-beat.C:
			// Who has been signed out meanwhile hears no more.
			if _, gone := d.API.Door.Identify(c.Request()); gone != nil {
				return nil //nolint:nilerr // the stream has ended in good order
			}
			err = say(": still here\n\n")
		}
	}
	d.Log.Debug("a live page has gone", zap.Error(err))
	return nil
}
