package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"go.uber.org/zap"

	"postcall/pkg/audio"
	"postcall/pkg/config"
	"postcall/pkg/export/markdown"
	"postcall/pkg/privacy"
)

// searchTime is how long an erasure's job looks for a phone number before it
// lets others have its place: a part of what a job may take.
const searchTime = 20 * time.Second

// forgetting adds the workers of what removes: by age and by person.
func (w *Worker) forgetting(ctx context.Context, workers *river.Workers) (err error) {
	c := w.config
	if w.audio, err = audio.Open(ctx, c.AudioURL); err != nil {
		return fmt.Errorf("opening the audio store (AUDIO_URL): %w", err)
	}
	river.AddWorker(workers, &privacy.RetentionWorker{Retention: &privacy.Retention{
		Pool: w.pool, Audio: w.audio, Ages: ages(c.Retention), Pace: privacy.DefaultPace, Log: w.log,
	}})
	river.AddWorker(workers, &privacy.EraseWorker{Eraser: &privacy.Eraser{
		Pool: w.pool, Audio: w.audio, Notes: markdown.New(c.MarkdownPath, c.Location()), Region: c.PhoneRegion, Search: searchTime, Log: w.log,
	}})
	return nil
}

func ages(c config.Retention) privacy.Ages {
	return privacy.Ages{
		Payloads: config.Age(c.Payloads), Transcripts: config.Age(c.Transcripts), Audio: config.Age(c.Audio),
		Analyses: config.Age(c.Analyses), Dispatches: config.Age(c.Dispatches),
		Rejections: config.Age(c.Rejections), Audit: config.Age(c.Audit),
	}
}

// privacyConns is the pool of a command; privacyStatement its longest statement.
const (
	privacyConns     = 2
	privacyStatement = time.Minute
)

// Archive is where the commands find what is kept of a person.
type Archive struct {
	config config.Privacy
	pool   *pgxpool.Pool
	audio  *audio.Store
	log    *zap.Logger
}

// OpenArchive connects. Close must be called.
func OpenArchive(ctx context.Context, c config.Privacy, log *zap.Logger) (_ *Archive, err error) {
	a := &Archive{config: c, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.pool, err = connect(ctx, c.DatabaseURL, "postcall privacy", privacyConns, privacyStatement); err != nil {
		return nil, err
	}
	if a.audio, err = audio.Open(ctx, c.AudioURL); err != nil {
		return nil, fmt.Errorf("opening the audio store (AUDIO_URL): %w", err)
	}
	return a, nil
}

// Close ends the connections.
func (a *Archive) Close() error {
	if a.pool != nil {
		a.pool.Close()
	}
	if a.audio != nil {
		return a.audio.Close()
	}
	return nil
}

// Erase erases, or counts what would be erased. What the result says is to be
// done by hand includes what this machine shows of it.
func (a *Archive) Erase(ctx context.Context, s privacy.Subject, by privacy.Actor, dryRun bool, progress func(done, total int64)) (privacy.Result, error) {
	id, err := privacy.Order(ctx, a.pool, s, privacy.Fingerprint(a.config.Key.Reveal(), s), by, dryRun)
	if err != nil {
		return privacy.Result{}, err
	}
	eraser := &privacy.Eraser{
		Pool: a.pool, Audio: a.audio, Notes: markdown.New(a.config.MarkdownPath, nil),
		Region: a.config.PhoneRegion, Log: a.log, Progress: progress,
	}
	r, err := eraser.Run(ctx, id)
	if err != nil {
		return r, err
	}
	if _, err := os.Stat(a.config.MarkdownPath); errors.Is(err, os.ErrNotExist) {
		r.ByHand = append(r.ByHand, "there is no Markdown file at CRM_MD_PATH here: if a worker on another machine writes one, order the erasure by the API, which that worker then does")
	}
	waiting, err := privacy.Spooled(a.config.SpoolPath)
	if err != nil {
		return r, err
	}
	for _, name := range waiting {
		r.ByHand = append(r.ByHand, "deliveries that nobody has stored yet are in "+name+
			": those of calls erased now are dropped when they are drained; drain them and look again for others of this person")
	}
	return r, nil
}

// Copy writes a person's copy as a ZIP.
func (a *Archive) Copy(ctx context.Context, s privacy.Subject, by privacy.Actor, to io.Writer, progress func(done, total int64)) (privacy.Copied, error) {
	if err := privacy.Audit(ctx, a.pool, by, "privacy.copy", privacy.Fingerprint(a.config.Key.Reveal(), s), "done", nil); err != nil {
		return privacy.Copied{}, err
	}
	return privacy.Copy(ctx, a.pool, a.audio, s, a.config.PhoneRegion, to, progress)
}
