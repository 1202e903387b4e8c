package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof" //nolint:gosec // its handlers are mounted on this address alone
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.uber.org/zap"
)

// Registry makes a registry with the figures of the Go runtime and the process.
func Registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postcall_build_info", Help: "The running version; always 1.",
			ConstLabels: prometheus.Labels{"version": Version(), "go": runtime.Version()},
		}, func() float64 { return 1 }))
	return r
}

// Version is what this program was built from: its module's version, or the
// commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(len(s.Value), 12)]
		}
	}
	return cmp.Or(strings.Trim(info.Main.Version, "()"), "unknown")
}

// Meter gives libraries that measure by OpenTelemetry a place in the registry.
// Of their attributes it keeps those whose values are few.
func Meter(r *prometheus.Registry) (metric.MeterProvider, error) {
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(r), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("setting up the figures of libraries: %w", err)
	}
	few := sdkmetric.NewView(sdkmetric.Instrument{Name: "*"}, sdkmetric.Stream{
		AttributeFilter: attribute.NewAllowKeysFilter("kind", "queue", "status", "snooze", "cancel"),
	})
	return sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithView(few)), nil
}

// Metrics serves a registry on an address of its own, at /metrics, the
// process's profiles under /debug/pprof, and /health and /health/ready, so that
// none of it stands beside what the world can reach.
type Metrics struct {
	server   *http.Server
	listener net.Listener
	log      *zap.Logger
}

// readiness bounds what is asked for /health/ready.
const readiness = 2 * time.Second

// NewMetrics listens; Serve must be called. Ready says what keeps the process
// from its work; nil for a process that answers for itself elsewhere.
func NewMetrics(ctx context.Context, addr string, r *prometheus.Registry, ready func(context.Context) error, log *zap.Logger) (*Metrics, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics (METRICS_ADDR): %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r}))
	mux.HandleFunc("GET /health", well)
	if ready != nil {
		mux.HandleFunc("GET /health/ready", func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), readiness)
			defer cancel()
			if err := ready(ctx); err != nil {
				// Why stands in the log; the error may name addresses.
				log.Warn("not ready", zap.Error(err))
				http.Error(w, "not ready", http.StatusServiceUnavailable)
				return
			}
			well(w, r)
		})
	}
	// Profiles tell an operator what a process is busy with. They hold the names
	// of functions, no data; a heap dump, which would, is not among them.
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.Handle("GET /debug/pprof/heap", pprof.Handler("heap"))
	mux.Handle("GET /debug/pprof/goroutine", pprof.Handler("goroutine"))
	return &Metrics{
		server:   &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 2 * time.Minute, ErrorLog: zap.NewStdLog(log)},
		listener: l, log: log,
	}, nil
}

func well(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"status":"ok"}`)) // whoever asked may have gone
}

// Addr is the address that is listened on.
func (m *Metrics) Addr() string { return m.listener.Addr().String() }

// Serve answers until the context ends.
func (m *Metrics) Serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		if err := m.server.Close(); err != nil {
			m.log.Warn("closing the metrics", zap.Error(err))
		}
	})
	defer stop()
	m.log.Info("metrics", zap.String("address", m.Addr()))
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		m.log.Error("serving the metrics", zap.Error(err))
	}
}
