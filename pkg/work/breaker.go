package work

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"postcall/pkg/analyze"
	"postcall/pkg/call"
	"postcall/pkg/queue"
)

// DefaultProbing is how often a model server that refused the installation is
// asked whether it takes it again.
var DefaultProbing = queue.Probing{First: 30 * time.Second, Last: 10 * time.Minute}

// prober is an analyser that can find out cheaply whether its server takes its
// key. With one that cannot, the next job after the wait is the probe.
type prober interface {
	Probe(ctx context.Context) error
}

// probeTimeout bounds one probe.
const probeTimeout = 30 * time.Second

// Breaker stops the analyses when the model server refuses the installation as
// such (a wrong key, no quota left), since every job would only meet the same,
// and lets them go on when it takes it again.
//
// The queue is paused for all workers, and one of them at a time probes. The
// first whose probe succeeds resumes it. A worker that was refused stays out
// until its own probe has succeeded: where workers have different keys, those
// with a good one go on without it. Whoever resumes the queue by hand has all of
// them try again at once.
type Breaker struct {
	Pool     *pgxpool.Pool
	Analyzer analyze.Analyzer
	Log      *zap.Logger
	// By names this worker to people.
	By      string
	Probing queue.Probing

	mu    sync.Mutex
	open  chan struct{} // closed when this worker is no longer refused; nil while it is not
	since time.Time     // when it was refused
	tries int
	next  time.Time
}

// refused stops the analyses because of an error of code Credentials.
func (b *Breaker) refused(ctx context.Context, c *queue.Client, cause error) {
	b.shut()
	ctx, cancel := finally(ctx)
	defer cancel()
	paused, err := queue.PauseQueue(ctx, b.Pool, c, queue.QueueAnalyze, b.By, cause, b.Probing)
	if err != nil {
		b.Log.Error("the queue of the analyses could not be paused", zap.Error(err))
		return
	}
	if !paused {
		return
	}
	b.Log.Error("the analyses are paused: the model server refuses them all. "+
		"Mend OPENAI_API_KEY, OPENAI_BASE_URL or ANALYZE_MODEL and restart the worker, or the account's quota; "+
		"nothing is lost, and they go on by themselves once it takes them again",
		zap.String("queue", queue.QueueAnalyze), zap.String("worker", b.By),
		zap.String("code", string(call.CodeOf(cause))), zap.Error(cause))
}

// shut keeps this worker from asking.
func (b *Breaker) shut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open, b.since = make(chan struct{}), time.Now()
		b.tries, b.next = 0, b.since.Add(b.Probing.First)
	}
}

// reopen lets this worker ask again.
func (b *Breaker) reopen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open != nil {
		close(b.open)
		b.open = nil
	}
}

// closed is a channel to wait on while this worker is refused; nil when it is
// not.
func (b *Breaker) closed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// refusedFor is for how long this worker has been refused; 0 while it is not.
func (b *Breaker) refusedFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		return 0
	}
	return time.Since(b.since)
}

// Run probes while the analyses are paused or this worker is refused, until
// the context ends.
func (b *Breaker) Run(ctx context.Context, c *queue.Client) {
	// Whoever mended the key has restarted the worker: look at once.
	b.look(ctx, c, true)
	tick := time.NewTicker(min(b.Probing.First/2, 10*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.look(ctx, c, false)
		}
	}
}

func (b *Breaker) look(ctx context.Context, c *queue.Client, atOnce bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout+recording)
	defer cancel()
	pause, err := queue.ClaimProbe(ctx, b.Pool, queue.QueueAnalyze, b.Probing, atOnce)
	if err != nil {
		if ctx.Err() == nil {
			b.Log.Warn("it is not known whether the analyses are paused", zap.Error(err))
		}
		return
	}
	if refused := b.refusedFor(); pause == nil && refused > 0 {
		byHand, err := queue.WorksByHand(ctx, b.Pool, queue.QueueAnalyze, refused)
		if err != nil {
			b.Log.Warn("it is not known who lets the analyses go on", zap.Error(err))
			return
		}
		if byHand {
			b.reopen()
			return
		}
	}
	if pause == nil && !b.due() {
		return
	}
	if !b.probe(ctx) || pause == nil {
		return
	}
	resumed, err := queue.ResumeQueue(ctx, b.Pool, c, queue.QueueAnalyze)
	if err != nil {
		b.Log.Error("the queue of the analyses could not be resumed", zap.Error(err))
		return
	}
	if resumed {
		b.Log.Info("the analyses go on: the model server takes them again",
			zap.String("queue", queue.QueueAnalyze), zap.String("worker", b.By),
			zap.Duration("paused_ms", time.Since(pause.Since)), zap.Int("probes", pause.Probes))
	}
}

// due reports whether this worker is to probe for itself alone, while others
// go on.
func (b *Breaker) due() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil || time.Now().Before(b.next) {
		return false
	}
	b.tries++
	b.next = time.Now().Add(min(b.Probing.First<<min(b.tries, 20), b.Probing.Last))
	return true
}

// probe reports whether the server takes this worker's key.
func (b *Breaker) probe(ctx context.Context) bool {
	p, ok := b.Analyzer.(prober)
	if !ok {
		b.reopen()
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.Probe(ctx)
	switch {
	case err == nil, call.CodeOf(err) == call.RateLimited: // it knows the key
		b.reopen()
		return true
	case call.CodeOf(err) == call.Credentials:
		b.shut()
	}
	if !errors.Is(err, context.Canceled) {
		b.Log.Warn("the model server was probed and still refuses or does not answer", zap.String("worker", b.By), zap.Error(err))
	}
	return false
}
