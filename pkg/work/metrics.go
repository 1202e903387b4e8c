package work

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postcall/pkg/call"
)

// Metrics are the figures of working.
type Metrics struct {
	jobs     *prometheus.CounterVec
	duration *prometheus.HistogramVec
	waited   prometheus.Histogram
	tokens   *prometheus.CounterVec
}

// NewMetrics registers the figures of working.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_analyze_jobs_total",
			Help: "Attempts of analyze jobs by what became of them (done, skipped, retry, snooze, busy, stopped, cancel, dead) and the error's code.",
		}, []string{"outcome", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postcall_analyze_duration_seconds",
			Help:    "How long an attempt took, the wait for a place included.",
			Buckets: []float64{.005, .02, .05, .1, .5, 1, 2, 5, 10, 20, 60, 180, 600},
		}, []string{"outcome"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "postcall_analyze_place_wait_seconds",
			Help:    "How long attempts waited for one of the places that all workers share.",
			Buckets: []float64{.001, .01, .05, .1, .5, 1, 2, 5, 10},
		}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_analyze_tokens_total",
			Help: "Tokens of stored analyses by kind (input, cached, output); cached ones are part of the input.",
		}, []string{"kind"}),
	}
	r.MustRegister(m.jobs, m.duration, m.waited, m.tokens)
	return m
}

func (m *Metrics) ended(s step, err error, took time.Duration, a *call.Analysis) {
	var code string
	if err != nil {
		code = string(call.CodeOf(err))
	}
	m.jobs.WithLabelValues(string(s), code).Inc()
	m.duration.WithLabelValues(string(s)).Observe(took.Seconds())
	if a != nil {
		m.tokens.WithLabelValues("input").Add(float64(a.Usage.InputTokens))
		m.tokens.WithLabelValues("cached").Add(float64(a.Usage.CachedTokens))
		m.tokens.WithLabelValues("output").Add(float64(a.Usage.OutputTokens))
	}
}
