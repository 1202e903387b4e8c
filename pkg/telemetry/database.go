package telemetry

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Database observes what a process asks of PostgreSQL: how long it takes, as a
// histogram, and, within a trace, as spans. Statements carry no values, so that
// neither holds anything of a call.
type Database struct {
	duration *prometheus.HistogramVec
	pools    *prometheus.Registry
	tracer   trace.Tracer
}

// NewDatabase registers the figures.
func NewDatabase(r *prometheus.Registry, traces trace.TracerProvider) *Database {
	d := &Database{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postcall_database_duration_seconds",
			Help:    "How long PostgreSQL took, by pool, by what was asked (query, batch, connect) and by result (ok, error).",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .5, 1, 5, 30},
		}, []string{"pool", "operation", "result"}),
		pools: r, tracer: traces.Tracer(Scope),
	}
	r.MustRegister(d.duration)
	return d
}

// Tracer observes the connections of a pool.
func (d *Database) Tracer(pool string) pgx.QueryTracer { return &observer{Database: d, pool: pool} }

// observer is the tracer of one pool. pgx finds the batches' and connections'
// sides by their methods.
type observer struct {
	*Database
	pool string
}

type asked struct {
	at        time.Time
	operation string
	span      trace.Span
}

type askedKey struct{}

// begin opens a span only within a trace: what River asks by itself all day
// long belongs to none.
func (o *observer) begin(ctx context.Context, operation, statement string) context.Context {
	a := &asked{at: time.Now(), operation: operation}
	if trace.SpanContextFromContext(ctx).IsValid() {
		ctx, a.span = o.tracer.Start(ctx, "postgresql "+verb(operation, statement), trace.WithSpanKind(trace.SpanKindClient),
			trace.WithAttributes(attribute.String("db.system.name", "postgresql"), attribute.String("db.query.text", strings.Join(strings.Fields(statement), " "))))
	}
	return context.WithValue(ctx, askedKey{}, a)
}

func (o *observer) end(ctx context.Context, err error) {
	a, ok := ctx.Value(askedKey{}).(*asked)
	if !ok {
		return
	}
	result := "ok"
	if err != nil {
		result = "error"
	}
	o.duration.WithLabelValues(o.pool, a.operation, result).Observe(time.Since(a.at).Seconds())
	if a.span == nil {
		return
	}
	if err != nil {
		a.span.SetStatus(codes.Error, "the statement failed")
	}
	a.span.End()
}

// verb is what a statement does: its first word, or the name that River's
// statements bear in a comment.
func verb(operation, statement string) string {
	words := strings.Fields(statement)
	switch {
	case len(words) == 0:
		return operation
	case len(words) > 2 && words[0] == "--" && words[1] == "name:":
		return words[2]
	}
	return strings.ToLower(words[0])
}

func (o *observer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return o.begin(ctx, "query", d.SQL)
}

func (o *observer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	o.end(ctx, d.Err)
}

func (o *observer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return o.begin(ctx, "batch", "")
}

func (*observer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (o *observer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	o.end(ctx, d.Err)
}

func (o *observer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return o.begin(ctx, "connect", "")
}

func (o *observer) TraceConnectEnd(ctx context.Context, d pgx.TraceConnectEndData) {
	o.end(ctx, d.Err)
}

// Watch registers the figures of a pool itself, read when they are fetched.
func (d *Database) Watch(name string, pool *pgxpool.Pool) {
	labels := prometheus.Labels{"pool": name}
	gauge := func(metric, help string, value func(*pgxpool.Stat) float64) {
		d.pools.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metric, Help: help, ConstLabels: labels},
			func() float64 { return value(pool.Stat()) }))
	}
	counter := func(metric, help string, value func(*pgxpool.Stat) float64) {
		d.pools.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: metric, Help: help, ConstLabels: labels},
			func() float64 { return value(pool.Stat()) }))
	}
	gauge("pgxpool_max_conns", "The most connections that the pool may have.", func(s *pgxpool.Stat) float64 { return float64(s.MaxConns()) })
	gauge("pgxpool_acquired_conns", "Connections that are in use.", func(s *pgxpool.Stat) float64 { return float64(s.AcquiredConns()) })
	gauge("pgxpool_idle_conns", "Connections that wait to be used.", func(s *pgxpool.Stat) float64 { return float64(s.IdleConns()) })
	counter("pgxpool_acquires_total", "Times that a connection was taken.", func(s *pgxpool.Stat) float64 { return float64(s.AcquireCount()) })
	counter("pgxpool_empty_acquires_total", "Times that a connection had to be waited for.", func(s *pgxpool.Stat) float64 { return float64(s.EmptyAcquireCount()) })
	counter("pgxpool_canceled_acquires_total", "Times that the wait for a connection was given up.", func(s *pgxpool.Stat) float64 { return float64(s.CanceledAcquireCount()) })
	counter("pgxpool_acquire_seconds_total", "How long connections were waited for, all waits together.", func(s *pgxpool.Stat) float64 { return s.AcquireDuration().Seconds() })
	counter("pgxpool_new_conns_total", "Connections that were opened.", func(s *pgxpool.Stat) float64 { return float64(s.NewConnsCount()) })
}
