package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"postcall/bench/rig"
	"postcall/pkg/promtest"
)

// Sight is what a Prometheus that watched the run has seen, by the project's
// own rules without their waits, and whether the dashboard had something to
// show.
type Sight struct {
	Queries int      `json:"dashboard_queries"`
	Empty   []string `json:"dashboard_queries_without_data"`
	Fired   []string `json:"alerts_that_fired"`
	// Late fire still, long after everything has come back.
	Late []string `json:"alerts_that_fire_still"`
}

// expected must have fired in a run that kills PostgreSQL.
var expected = []string{"PostcallSpooling", "PostcallDatabaseAway"}

// Holds reports whether the rules fired when they should, and no longer, and
// every query of the dashboard returned data.
func (s *Sight) Holds() bool {
	return s.Queries > 0 && len(s.Empty) == 0 && len(s.Late) == 0 &&
		!slices.ContainsFunc(expected, func(alert string) bool { return !slices.Contains(s.Fired, alert) })
}

// watched is the worker and the Prometheus beside a run.
type watched struct {
	worker     *rig.Ingest
	prometheus *promtest.Server
	dashboard  string
}

const scrapeEvery = 250 * time.Millisecond

// watch starts a worker, and a Prometheus that scrapes it and ingest. It must
// be closed.
func watch(ctx context.Context, o options, dir, url string, ingest *rig.Ingest) (_ *watched, err error) {
	w := &watched{dashboard: filepath.Join(o.docs, "grafana", "postcall.json")}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	metrics, err := rig.FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	ingest.With("METRICS_ADDR=" + metrics)
	home := filepath.Join(dir, "worker-home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, fmt.Errorf("making a place for the worker: %w", err)
	}
	binary, err := rig.BuildWorker(ctx, home)
	if err != nil {
		return nil, err
	}
	if w.worker, err = rig.NewIngest(ctx, binary, home, "DATABASE_URL="+url, "ANALYZER=builtin", "CRM_MD_PATH="+filepath.Join(home, "crm.md")); err != nil {
		return nil, err
	}
	// It answers where its figures are, and listens nowhere else.
	w.worker.With("METRICS_ADDR=" + w.worker.Address)
	if err := w.worker.Start(ctx); err != nil {
		return nil, err
	}
	seen := filepath.Join(dir, "prometheus")
	if err := os.MkdirAll(seen, 0o700); err != nil {
		return nil, fmt.Errorf("making a place for Prometheus: %w", err)
	}
	w.prometheus, err = promtest.Start(ctx, promtest.Options{
		Dir: seen, Rules: filepath.Join(o.docs, "alerts.yaml"), Interval: scrapeEvery,
		Jobs: map[string][]string{"postcall-ingest": {metrics}, "postcall-worker": {w.worker.Address}},
	})
	return w, err
}

// calm is how long alerts may last after everything has come back.
const calm = 90 * time.Second

// sight asks what was seen, once everything has come back.
func (w *watched) sight(ctx context.Context) (*Sight, error) {
	panels, err := promtest.Panels(w.dashboard)
	if err != nil {
		return nil, err
	}
	empty, err := w.prometheus.Empty(ctx, panels)
	if err != nil {
		return nil, err
	}
	s := &Sight{Queries: len(panels)}
	for _, p := range empty {
		s.Empty = append(s.Empty, p.Title+": "+p.Expr)
	}
	for limit := time.Now().Add(calm); ; {
		if s.Late, err = w.prometheus.Firing(ctx); err != nil {
			return nil, err
		}
		if len(s.Late) == 0 || time.Now().After(limit) {
			break
		}
		if err := sleep(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	s.Fired, err = w.prometheus.Fired(ctx)
	return s, err
}

func (w *watched) close() (err error) {
	if w.prometheus != nil {
		err = w.prometheus.Close()
	}
	if w.worker != nil {
		err = errors.Join(err, w.worker.Stop())
	}
	return err
}
