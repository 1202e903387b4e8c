package app

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"postcall/pkg/config"
	"postcall/pkg/receive"
	"postcall/pkg/spool"
	"postcall/pkg/telemetry"
)

// Drained is what came of draining a spool by hand.
type Drained struct {
	Stored  int    // entries that are in the database now
	Waiting int64  // entries that could not be handed over
	Aside   int64  // entries that were moved to the .rejected file
	Path    string // the journal that was taken; another than SPOOL_PATH while a process holds that
}

// Drain hands the deliveries that wait at SPOOL_PATH, and beside it those of
// processes that are gone, to the database. What a running ingest holds is left
// to it. progress is called after each entry with what is done and what was
// there; it may be nil.
func Drain(ctx context.Context, c config.Drain, log *zap.Logger, progress func(done, total int64)) (_ Drained, err error) {
	pool, err := connect(ctx, c.DatabaseURL, "postcall spool drain", receiveConns, 2*patience)
	if err != nil {
		return Drained{}, err
	}
	defer pool.Close()
	recordings, err := openAudio(ctx, c.Keeping)
	if err != nil {
		return Drained{}, err
	}
	defer func() {
		if cerr := recordings.Close(); err == nil {
			err = cerr
		}
	}()
	journal, err := openSpool(c.Keeping, log)
	if err != nil {
		return Drained{}, err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownTimeout())
		defer cancel()
		if cerr := journal.Close(bounded); err == nil {
			err = cerr
		}
	}()
	keeper := newKeeper(c.Keeping, recordings, journal, log)
	if keeper.Committer, err = newCommitter(c.Keeping, pool, receive.NewMetrics(telemetry.Registry()), log); err != nil {
		return Drained{}, err
	}
	committing, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { keeper.Committer.Run(committing) })
	defer func() { end(); wg.Wait() }()

	var mu sync.Mutex
	var done int64
	stored, err := journal.Drain(ctx, func(ctx context.Context, e spool.Entry) error {
		err := keeper.Redeliver(ctx, e)
		if err == nil && progress != nil {
			mu.Lock()
			defer mu.Unlock()
			done++
			// What is being handed over still counts as waiting.
			progress(done, max(done, journal.Stats().Entries))
		}
		return err
	})
	stats := journal.Stats()
	d := Drained{Stored: int(stats.Drained), Waiting: stats.Entries, Aside: stats.Rejected, Path: journal.Path()}
	if err != nil {
		return d, fmt.Errorf("after %d entries: %w", stored, err)
	}
	return d, nil
}
