package receive

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs"
)

// Metrics are the figures of receiving.
type Metrics struct {
	deliveries *prometheus.CounterVec
	failures   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	shared     prometheus.Histogram
	commit     prometheus.Histogram
}

// NewMetrics registers the figures of receiving.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_deliveries_total",
			Help: "Deliveries by what became of them (kept, duplicate, spooled, rejected, refused, too_large, aborted, failed) and their type.",
		}, []string{"verdict", "type"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postcall_verification_failures_total",
			Help: "Deliveries whose signature did not hold, or whose address is not allowed, by reason.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "postcall_delivery_duration_seconds",
			Help:    "From the first byte of a delivery's body to its answer.",
			Buckets: []float64{.001, .002, .003, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 15, 60},
		}, []string{"verdict"}),
		shared: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "postcall_shared_commit_events",
			Help:    "How many events shared a transaction.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "postcall_commit_duration_seconds",
			Help:    "How long a transaction of events and jobs took.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1},
		}),
	}
	r.MustRegister(m.deliveries, m.failures, m.duration, m.shared, m.commit)
	// Prometheus does not see a counter's first step if the counter comes with
	// it, and a first failure is the one that counts.
	for _, verdict := range []string{"kept", "duplicate", "spooled", "rejected", "refused", "too_large", "aborted", "failed"} {
		for _, t := range []string{string(call.TypeTranscription), "other", "none"} {
			m.deliveries.WithLabelValues(verdict, t)
		}
	}
	for _, reason := range []elevenlabs.Reason{
		elevenlabs.ReasonMissing, elevenlabs.ReasonMalformed, elevenlabs.ReasonExpired, elevenlabs.ReasonFuture,
		elevenlabs.ReasonMismatch, elevenlabs.ReasonNoSecret, notAllowed,
	} {
		m.failures.WithLabelValues(string(reason))
	}
	return m
}

// delivered counts a delivery. The label for the type is one of the few that
// Postcall knows: what a sender may write must not make labels.
func (m *Metrics) delivered(verdict string, t call.EventType, took time.Duration) {
	label := "other"
	switch t {
	case call.TypeTranscription, call.TypeTranscriptionOTel, call.TypeAudio, call.TypeInitiationFailure,
		call.TypeUnknown, call.TypeUnparseable:
		label = string(t)
	case "":
		label = "none"
	}
	m.deliveries.WithLabelValues(verdict, label).Inc()
	m.duration.WithLabelValues(verdict).Observe(took.Seconds())
}
