package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof" //nolint:gosec // its handlers are mounted on this address alone
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Registry makes a registry with the figures of the Go runtime and the process.
func Registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Metrics serves a registry on an address of its own, at /metrics, and the
// process's profiles under /debug/pprof, so that neither stands beside what the
// world can reach.
type Metrics struct {
	server   *http.Server
	listener net.Listener
	log      *zap.Logger
}

// NewMetrics listens; Serve must be called.
func NewMetrics(ctx context.Context, addr string, r *prometheus.Registry, log *zap.Logger) (*Metrics, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics (METRICS_ADDR): %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{Registry: r}))
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
