package app

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/audio"
	"postcall/pkg/backfill"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabs/workspace"
	"postcall/pkg/receive"
	"postcall/pkg/telemetry"
)

// importPatience is how long storing a fetched call may take: nobody waits for
// an answer.
const importPatience = 30 * time.Second

// newImporter makes what fetches calls. Its committer must be run.
func newImporter(u config.Upstream, k config.Keeping, recordings *audio.Store, pool *pgxpool.Pool, log *zap.Logger) (*backfill.Importer, *receive.Committer, error) {
	api, err := workspace.New(workspace.Options{BaseURL: u.ElevenLabsURL, Key: u.ElevenLabsKey.Reveal(), PerSecond: float64(u.ElevenLabsRPS)})
	if err != nil {
		return nil, nil, fmt.Errorf("ELEVENLABS_BASE_URL: %w", err)
	}
	keeper := newKeeper(k, recordings, nil, log)
	keeper.Patience = importPatience
	if keeper.Committer, err = newCommitter(k, pool, receive.NewMetrics(telemetry.Registry()), log); err != nil {
		return nil, nil, err
	}
	return &backfill.Importer{API: api, Keeper: keeper, Pool: pool, TempDir: os.TempDir(), Log: log}, keeper.Committer, nil
}

// importing adds the worker of imports.
func (w *Worker) importing(workers *river.Workers) (every time.Duration, err error) {
	c := w.config
	job := &backfill.Worker{Back: config.Age(c.ImportWindow), Recordings: c.ImportAudio}
	if c.ElevenLabsKey != "" {
		kept := config.Keeping{AnalyzeAuto: c.AnalyzeAuto, MaxAttempts: c.MaxAttempts}
		if job.Importer, w.imports, err = newImporter(c.Upstream, kept, w.audio, w.pool, w.log); err != nil {
			return 0, err
		}
		every = time.Duration(c.ImportMinutes) * time.Minute
	}
	river.AddWorker(workers, job)
	return every, nil
}

// Import fetches the calls of a window whose webhook never came. In a dry run
// nothing is fetched or recorded. The run says what was done also when it ended
// early, with an error.
func Import(ctx context.Context, c config.Import, window backfill.Window, dry bool, log *zap.Logger, progress func(backfill.Tally)) (run backfill.Run, err error) {
	pool, err := connect(ctx, c.DatabaseURL, "postcall import", receiveConns, time.Minute)
	if err != nil {
		return run, err
	}
	defer pool.Close()
	recordings, err := openAudio(ctx, c.Keeping)
	if err != nil {
		return run, err
	}
	defer func() {
		if cerr := recordings.Close(); err == nil {
			err = cerr
		}
	}()
	importer, committer, err := newImporter(c.Upstream, c.Keeping, recordings, pool, log)
	if err != nil {
		return run, err
	}
	committing, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { committer.Run(committing) })
	defer func() { end(); wg.Wait() }()
	if dry {
		run = backfill.Run{AgentID: window.AgentID, Since: window.Since, Until: window.Until}
		return run, importer.Go(ctx, &run, "", window.Recordings, true, progress)
	}
	if run, _, err = backfill.Begin(ctx, pool, backfill.ByCommand, window); err != nil {
		return run, err
	}
	err = importer.Go(ctx, &run, "", window.Recordings, false, progress)
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), importPatience)
	defer cancel()
	if rerr := run.End(recording, pool, err); err == nil {
		err = rerr
	}
	return run, err
}
