package work

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river/rivertype"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

// Metrics are the figures of working. A nil one counts nothing.
type Metrics struct {
	jobs     *prometheus.CounterVec
	duration *prometheus.HistogramVec
	waited   prometheus.Histogram
	attempts prometheus.Histogram
	tokens   *prometheus.CounterVec
	cost     prometheus.Counter
	unpriced prometheus.Counter

	exports    *prometheus.CounterVec
	exporting  *prometheus.HistogramVec
	dispatches *prometheus.CounterVec
	queued     *prometheus.HistogramVec
}

// NewMetrics registers the figures of working.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_analyze_jobs_total",
			Help: "Attempts of analyze jobs by what became of them (done, skipped, retry, snooze, busy, resume, stopped, cancel, dead) and the error's code.",
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
		attempts: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "postcall_analyze_attempts",
			Help:    "How many attempts an analysis had taken when it was done, skipped, cancelled or dead.",
			Buckets: []float64{1, 2, 3, 4, 6, 8, 12, 20},
		}),
		cost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postcall_analyze_cost_usd_total",
			Help: "What stored analyses have cost, in US dollars, by the prices that are known.",
		}),
		unpriced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postcall_analyze_unpriced_total",
			Help: "Stored analyses by a model whose price is not known: they are missing from the cost. ANALYZE_RULES can name prices.",
		}),
		exports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_export_jobs_total",
			Help: "Attempts of jobs that hand a result to a target, by what became of them and the error's code.",
		}, []string{"target", "outcome", "code"}),
		exporting: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postcall_export_duration_seconds",
			Help:    "How long such an attempt took, the wait for its turn included.",
			Buckets: []float64{.002, .005, .02, .05, .1, .5, 1, 2, 5, 10, 25, 60},
		}, []string{"target", "outcome"}),
		dispatches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_dispatches_total",
			Help: "What targets made of what they were sent (delivered, accepted, refused, unknown, failed), and what was not sent (skipped, dry_run).",
		}, []string{"target", "status"}),
		queued: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postcall_queue_wait_seconds",
			Help:    "How long a job waited in its queue after it could have run.",
			Buckets: []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 1800, 7200, 43200},
		}, []string{"kind"}),
	}
	r.MustRegister(m.jobs, m.duration, m.waited, m.attempts, m.tokens, m.cost, m.unpriced, m.exports, m.exporting, m.dispatches, m.queued)
	// Prometheus does not see a counter's first step if the counter comes with it.
	for _, s := range []step{stepDone, stepSkipped, stepRetry, stepSnooze} {
		m.jobs.WithLabelValues(string(s), "")
	}
	return m
}

// begun counts how long a job waited. A job that was rescued or snoozed
// waits anew from when it was due.
func (m *Metrics) begun(job *rivertype.JobRow, at time.Time) {
	if m != nil {
		m.queued.WithLabelValues(job.Kind).Observe(max(0, at.Sub(job.ScheduledAt).Seconds()))
	}
}

// exported counts an attempt of handing a result over.
func (m *Metrics) exported(to call.Target, s step, err error, took time.Duration) {
	if m == nil {
		return
	}
	var code string
	if err != nil {
		code = string(call.CodeOf(err))
	}
	m.exports.WithLabelValues(string(to), string(s), code).Inc()
	m.exporting.WithLabelValues(string(to), string(s)).Observe(took.Seconds())
}

// dispatched counts what a target said.
func (m *Metrics) dispatched(d postgres.Dispatch) {
	if m != nil {
		m.dispatches.WithLabelValues(string(d.Target), string(d.Status)).Inc()
	}
}

func (m *Metrics) ended(job *rivertype.JobRow, s step, err error, took time.Duration, a *call.Analysis) {
	var code string
	if err != nil {
		code = string(call.CodeOf(err))
	}
	m.jobs.WithLabelValues(string(s), code).Inc()
	m.duration.WithLabelValues(string(s)).Observe(took.Seconds())
	switch s {
	case stepDone, stepSkipped, stepCancel, stepDead:
		m.attempts.Observe(float64(job.Attempt))
	case stepRetry, stepSnooze, stepBusy, stepResume, stepStopped:
	}
	if a != nil {
		if a.Usage.CostUSD != nil {
			m.cost.Add(max(0, *a.Usage.CostUSD))
		} else if a.Usage.InputTokens > 0 {
			m.unpriced.Inc()
		}
		m.tokens.WithLabelValues("input").Add(float64(a.Usage.InputTokens))
		m.tokens.WithLabelValues("cached").Add(float64(a.Usage.CachedTokens))
		m.tokens.WithLabelValues("output").Add(float64(a.Usage.OutputTokens))
	}
}
