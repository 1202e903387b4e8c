package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"postcall/pkg/postgres"
	"postcall/pkg/receive"
	"postcall/pkg/spool"
)

// observe registers what the parts of receiving know of themselves. Each figure
// is read when it is fetched.
func observe(r prometheus.Registerer, s *spool.Spool, h *receive.Handler, refused *postgres.Rejections) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge("postcall_spool_bytes", "Bytes that wait in the spool for the database.",
		func() float64 { return float64(s.Stats().Bytes) })
	gauge("postcall_spool_entries", "Deliveries that wait in the spool for the database.",
		func() float64 { return float64(s.Stats().Entries) })
	gauge("postcall_spool_oldest_age_seconds", "How long the oldest delivery in the spool has waited.",
		func() float64 { return s.Stats().OldestAge.Seconds() })
	counter("postcall_spool_appended_total", "Deliveries that went to the spool.",
		func() float64 { return float64(s.Stats().Appended) })
	counter("postcall_spool_syncs_total", "Times the disk was asked to keep what had been appended; deliveries share them.",
		func() float64 { return float64(s.Stats().Syncs) })
	counter("postcall_spool_drained_total", "Deliveries that went from the spool into the database.",
		func() float64 { return float64(s.Stats().Drained) })
	counter("postcall_spool_rejected_total", "Spooled deliveries that could not be stored and were moved aside.",
		func() float64 { return float64(s.Stats().Rejected) })
	counter("postcall_spool_damaged_total", "Lines of the spool that were torn or did not match their checksum, and were kept aside.",
		func() float64 { st := s.Stats(); return float64(st.Torn + st.Corrupt) })

	gauge("postcall_limit_failing_addresses", "Addresses remembered for deliveries that failed verification.",
		func() float64 { return float64(h.Limits.Stats().FailingAddresses) })
	gauge("postcall_limit_verified_addresses", "Addresses remembered for verified deliveries.",
		func() float64 { return float64(h.Limits.Stats().VerifiedAddresses) })
	counter("postcall_limit_failures_refused_total", "Deliveries that failed verification and were answered 429.",
		func() float64 { return float64(h.Limits.Stats().FailuresRefused) })
	counter("postcall_limit_verified_refused_total", "Genuine deliveries that were answered 429: raise WEBHOOK_RATE_RPS.",
		func() float64 { return float64(h.Limits.Stats().VerifiedRefused) })
	gauge("postcall_bodies", "Deliveries that are being received now.",
		func() float64 { return float64(h.Bodies.Occupancy().Bodies) })
	gauge("postcall_bodies_memory_bytes", "Bytes of them in memory, at most.",
		func() float64 { return float64(h.Bodies.Occupancy().Memory) })
	counter("postcall_bodies_refused_total", "Deliveries that were answered 503 because too many were being received.",
		func() float64 { return float64(h.Bodies.Occupancy().Refused) })
	counter("postcall_rejections_total", "Refused deliveries.",
		func() float64 { return float64(refused.Counts().Recorded) })
	counter("postcall_rejections_unwritten_total", "Refused deliveries that were only counted, since too many came to list each.",
		func() float64 { return float64(refused.Counts().Unwritten) })
}
