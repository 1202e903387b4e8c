package app

import (
	"context"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/postgres"
	"postcall/pkg/telemetry"
)

// How often a worker says that it is there, and how long that may take.
const (
	seenEvery    = 15 * time.Second
	seenPatience = 5 * time.Second
)

// beSeen says that this worker is there, until the context ends. Failure
// policy: open, a worker that cannot say so works all the same.
func (w *Worker) beSeen(ctx context.Context) {
	self := postgres.Worker{Name: name(), StartedAt: time.Now(), Version: telemetry.Version(), Analyzer: w.config.Analyzer, Model: w.model()}
	for key, has := range map[string]bool{
		"openai": w.config.OpenAIKey != "", "bpmsoft": w.config.CRMEnabled, "webhook": w.config.WebhookOutURL != "",
	} {
		if has {
			self.Keys = append(self.Keys, key)
		}
	}
	within := func(ctx context.Context, doing string, f func(context.Context) error) {
		bounded, cancel := context.WithTimeout(ctx, seenPatience)
		defer cancel()
		if err := f(bounded); err != nil && ctx.Err() == nil {
			w.log.Warn(doing, zap.Error(err))
		}
	}
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		within(ctx, "this worker could not say that it is there", func(ctx context.Context) error {
			return postgres.SeeWorker(ctx, w.pool, self)
		})
		select {
		case <-ctx.Done():
			within(context.WithoutCancel(ctx), "this worker could not say that it ends", func(ctx context.Context) error {
				return postgres.ForgetWorker(ctx, w.pool, self.Name)
			})
			return
		case <-tick.C:
		}
	}
}
