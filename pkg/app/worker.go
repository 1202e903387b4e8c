package app

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/analyze"
	"postcall/pkg/analyze/builtin"
	"postcall/pkg/analyze/openai"
	"postcall/pkg/archive"
	"postcall/pkg/audio"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/postgres"
	"postcall/pkg/queue"
	"postcall/pkg/receive"
	"postcall/pkg/telemetry"
	"postcall/pkg/throttle"
	"postcall/pkg/work"
)

// workerStatement bounds a worker's statements; River's own maintenance has
// statements of up to half a minute.
const workerStatement = time.Minute

// Worker is the analysing process.
type Worker struct {
	config config.Worker
	log    *zap.Logger
	pool   *pgxpool.Pool
	client *queue.Client

	throttle *throttle.Throttle
	breaker  *work.Breaker
	audio    *audio.Store
	imports  *receive.Committer // nil without ELEVENLABS_API_KEY
	metrics  *telemetry.Metrics // nil without METRICS_ADDR
	traces   *telemetry.Traces
}

// NewWorker connects and sets the jobs up; none runs before Serve.
func NewWorker(ctx context.Context, c config.Worker, log *zap.Logger) (_ *Worker, err error) {
	w := &Worker{config: c, log: log}
	defer func() { //nolint:contextcheck // closing goes on when the context has ended
		if err != nil {
			w.close()
		}
	}()
	registry := telemetry.Registry()
	if w.traces, err = telemetry.NewTraces(ctx, c.OTLPURL, "worker", log); err != nil {
		return nil, err
	}
	observed := telemetry.NewDatabase(registry, w.traces)
	// A connection for each analysis and export, and a few for River itself.
	w.pool, err = postgres.Pool(ctx, c.DatabaseURL.Reveal(), "postcall worker", int32(min(c.MaxConcurrency, 32)+min(c.CRMConcurrency, 32)+8), workerStatement, observed.Tracer("worker"))
	if err != nil {
		return nil, err
	}
	observed.Watch("worker", w.pool)
	registry.MustRegister(&queue.Collector{Pool: w.pool, Log: log})
	starting, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	if err := postgres.Wait(starting, w.pool); err != nil {
		return nil, err
	}
	if err := migrated(starting, w.pool); err != nil {
		return nil, err
	}
	w.throttle = throttle.New(throttle.Options{
		Pool: w.pool, Name: queue.QueueAnalyze, Places: places(c), Gap: c.MinGap(), Log: log,
	})
	analyzer, limit, err := Analyzer(c, func(o *openai.Options) {
		o.HTTPClient = &http.Client{Transport: w.throttle.Transport(traced(w.traces, openai.Transport()))}
		// A request waits for its turn within its time-out, which is longer by that:
		// everybody's turn comes before one's own, at worst.
		o.Timeout += time.Duration(places(c)) * c.MinGap()
	})
	if err != nil {
		return nil, err
	}
	w.breaker = &work.Breaker{Pool: w.pool, Analyzer: analyzer, By: name(), Probing: work.DefaultProbing, Log: log}
	metrics := work.NewMetrics(registry)
	workers := river.NewWorkers()
	analyses := &work.Analyze{
		Pool: w.pool, Analyzer: analyzer, Throttle: w.throttle, Breaker: w.breaker,
		Metrics: metrics, Log: log, Limit: limit,
	}
	targets, err := targets(c, log)
	if err != nil {
		return nil, err
	}
	longest, exports := max(limit, time.Minute), map[call.Target]int{}
	for _, t := range targets {
		if t.Enabled {
			analyses.Exports = append(analyses.Exports, t)
		}
		// Registered even when nothing is exported: jobs of before are still this
		// installation's.
		work.AddExport(workers, &work.Export{Target: t, Pool: w.pool, Metrics: metrics, Log: log})
		if t.Concurrency > 0 {
			exports[t.Exporter.Target()] = t.Concurrency
		}
		longest = max(longest, t.Limit())
	}
	river.AddWorker(workers, analyses)
	river.AddWorker(workers, &work.Reconcile{Pool: w.pool, Log: log})
	if err := w.forgetting(ctx, workers); err != nil {
		return nil, err
	}
	if err := w.alerting(workers); err != nil {
		return nil, err
	}
	every, err := w.importing(workers)
	if err != nil {
		return nil, err
	}
	seen, err := middleware(registry, w.traces, w.traces)
	if err != nil {
		return nil, err
	}
	w.client, err = queue.NewWorker(w.pool, queue.Options{
		Import:     every,
		Middleware: seen,
		Logger:     telemetry.Slog(log), Workers: workers, Analyses: c.MaxConcurrency,
		Exports: exports, Timeout: max(longest, work.AnalyzeTimeout(limit, w.throttle)), SoftStop: c.ShutdownTimeout(),
	})
	if err != nil {
		return nil, err
	}
	if c.MetricsAddr != "" {
		if w.metrics, err = telemetry.NewMetrics(ctx, c.MetricsAddr, registry, w.pool.Ping, log); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// name is how this worker is named to people.
func name() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// turnWait bounds how long a request may wait for its turn.
const turnWait = 5 * time.Minute

// places is how many analyses run at once, in all workers together. With a long
// time between starts, more of them than come to their turn within a bound
// would only wait.
func places(c config.Worker) int {
	if c.MinGap() == 0 {
		return c.MaxConcurrency
	}
	return min(c.MaxConcurrency, int(turnWait/c.MinGap()))
}

// Analyzer makes the configured analyser and says how long one of its jobs may
// take. edit, if not nil, changes what the configuration cannot say before an
// openai analyser is made of it.
func Analyzer(c config.Worker, edit func(*openai.Options)) (analyze.Analyzer, time.Duration, error) {
	if c.Analyzer == "builtin" {
		return builtin.New(builtin.Options{DefaultRegion: c.PhoneRegion}), time.Minute, nil
	}
	o := openai.Options{
		APIKey: c.OpenAIKey.Reveal(), BaseURL: c.OpenAIBaseURL, Model: c.Model, Timeout: c.OpenAIAttempt(),
		ResponseFormat: openai.ResponseFormat(c.OpenAIFormat), DefaultRegion: c.PhoneRegion, Redact: c.RedactPII,
	}
	if err := adapt(c, &o); err != nil {
		return nil, 0, err
	}
	if edit != nil {
		edit(&o)
	}
	a, err := openai.New(o)
	if err != nil {
		return nil, 0, fmt.Errorf("setting up the analyser: %w", err)
	}
	return a, a.Limit() + 30*time.Second, nil
}

// Serve works jobs until the context ends, then finishes those that run within
// the configured bound; what is not finished by then goes back to the queue.
func (w *Worker) Serve(ctx context.Context) error {
	defer w.close() //nolint:contextcheck // closing goes on when the context has ended
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() { w.throttle.Run(background) })
	wg.Go(func() { w.beSeen(background) })
	if w.imports != nil {
		wg.Go(func() { w.imports.Run(background) })
	}
	indexer := &archive.Indexer{Pool: w.pool, Log: w.log}
	wg.Go(func() { indexer.Run(background) })
	if w.metrics != nil {
		wg.Go(func() { w.metrics.Serve(background) })
	}
	// River stops when its Start context ends; the bound is SoftStopTimeout.
	if err := w.client.Start(ctx); err != nil {
		if ctx.Err() != nil { // told to stop before it had begun
			return stopped(w.log, nil)
		}
		return fmt.Errorf("starting to work: %w", err)
	}
	w.log.Info("working", zap.String("analyzer", w.config.Analyzer), zap.String("model", w.model()),
		zap.Int("concurrency", w.config.MaxConcurrency), zap.Duration("min_gap_ms", w.config.MinGap()), zap.Bool("crm_markdown", w.config.MarkdownEnabled),
		zap.Bool("crm_bpmsoft", w.config.CRMEnabled), zap.Bool("crm_dry_run", w.config.CRMDryRun))
	wg.Go(func() { w.breaker.Run(ctx, w.client) })
	<-ctx.Done()
	w.log.Info("stopping: no new jobs are begun")
	<-w.client.Stopped()
	return stopped(w.log, nil)
}

func (w *Worker) model() string {
	if w.config.Analyzer == "builtin" {
		return "builtin"
	}
	return w.config.Model
}

func (w *Worker) close() {
	if w.audio != nil {
		if err := w.audio.Close(); err != nil {
			w.log.Error("closing", zap.Error(err))
		}
	}
	if w.pool != nil {
		w.pool.Close()
	}
	w.traces.Close()
}
