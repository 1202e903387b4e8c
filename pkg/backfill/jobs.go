package backfill

import (
	"context"
	"time"

	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/call"
	"postcall/pkg/queue"
)

// Worker works the import jobs.
type Worker struct {
	river.WorkerDefaults[queue.Import]

	Importer *Importer // nil without a key: nothing is imported
	// Back is how far back is looked, from the midnight (UTC) before.
	Back       time.Duration
	Recordings bool
}

// Timeout bounds a job; what is left is the next one's.
func (w *Worker) Timeout(*river.Job[queue.Import]) time.Duration { return time.Minute }

// share is how long a job goes on before it lets others have its place.
const share = 40 * time.Second

// Work fetches what is missing, page by page. What does not fit into one job is
// done by the same one a moment later, from the page where it was: a snooze
// takes no attempt.
//
// Failure policy: what keeps it from going on is recorded with the run and
// logged, and health tells of it. The next run begins anew, so that the job
// itself never fails.
func (w *Worker) Work(ctx context.Context, _ *river.Job[queue.Import]) error {
	if w.Importer == nil {
		return nil
	}
	i, now := w.Importer, time.Now().UTC()
	run, cursor, err := Begin(ctx, i.Pool, BySchedule, Window{Since: now.Add(-w.Back).Truncate(24 * time.Hour), Until: now})
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, share)
	defer cancel()
	err = i.Go(bounded, &run, cursor, w.Recordings, false, nil)
	if bounded.Err() != nil && ctx.Err() == nil {
		return river.JobSnooze(time.Second)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		i.Log.Error("importing calls ended early; it begins anew at its time", zap.String("request_id", run.RequestID()), zap.Error(err))
	} else if run.Imported+run.Completed+run.Failed > 0 {
		i.Log.Warn("calls were imported whose webhook did not come", zap.String("request_id", run.RequestID()),
			zap.Int("upstream", run.Upstream), zap.Int("imported", run.Imported), zap.Int("completed", run.Completed), zap.Int("failed", run.Failed))
	}
	return run.End(ctx, i.Pool, err)
}

// Go goes through a run's pages from a cursor on and records each, unless dry.
// progress, if not nil, is told after each page.
func (i *Importer) Go(ctx context.Context, run *Run, cursor string, recordings, dry bool, progress func(Tally)) error {
	w := Window{Since: run.Since, Until: run.Until, AgentID: run.AgentID, Recordings: recordings}
	for {
		next, days, err := i.Page(ctx, w, cursor, run.RequestID(), dry)
		if err != nil && cursor != "" && call.CodeOf(err) == call.Invalid {
			// The place is known there no longer: from the beginning, where all that
			// was fetched is present.
			cursor = ""
			continue
		}
		if err != nil {
			// The page is looked at again, when what was fetched of it is present.
			fetched := map[string]Tally{}
			for day, t := range days {
				fetched[day] = Tally{Imported: t.Imported, Completed: t.Completed, Recordings: t.Recordings}
			}
			if !dry {
				recorded := run.Advance(context.WithoutCancel(ctx), i.Pool, cursor, fetched)
				if recorded != nil {
					i.Log.Error("an import's progress is not recorded", zap.Error(recorded))
				}
			}
			return err
		}
		if dry {
			for _, t := range days {
				run.add(t)
			}
		} else if err := run.Advance(ctx, i.Pool, next, days); err != nil {
			return err
		}
		if progress != nil {
			progress(run.Tally)
		}
		if next == "" {
			return nil
		}
		cursor = next
	}
}
