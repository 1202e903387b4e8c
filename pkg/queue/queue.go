// Package queue is River as Postcall uses it: the jobs' arguments, and the
// settings that inserting and working processes must share.
//
// The truth about a call stands in webhook_events; a job is only what moves it
// on. A job that runs out of attempts is discarded by River and stays: these
// are the dead letters.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"postcall/pkg/call"
)

// The queues. Each target of results has one of its own beside these: see Export.
const (
	QueueAnalyze     = "analyze"
	QueueMaintenance = river.QueueDefault
	QueueAlerts      = "alerts"
)

// Client inserts jobs, and works them if it was made for that.
type Client = river.Client[pgx.Tx]

// Analyze is the job that analyses an event. There is at most one unfinished
// one an event.
type Analyze struct {
	EventID int64        `json:"event_id" river:"unique"`
	Trigger call.Trigger `json:"trigger"`
	// Force hands the result on even where it is the same as the one before.
	Force bool `json:"force,omitempty"`
}

// Kind is the job's name in the database.
func (Analyze) Kind() string { return "analyze" }

// InsertOpts are the job's defaults.
func (Analyze) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueAnalyze, UniqueOpts: unfinished}
}

// Reconcile is the periodic job that brings webhook_events in line with jobs
// that ended without their worker's doing.
type Reconcile struct{}

// Kind is the job's name in the database.
func (Reconcile) Kind() string { return "reconcile" }

// InsertOpts are the job's defaults.
func (Reconcile) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueMaintenance, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByState: unfinished.ByState}}
}

// Retention is the periodic job that removes what is older than its age.
type Retention struct{}

// Kind is the job's name in the database.
func (Retention) Kind() string { return "retention" }

// InsertOpts are the job's defaults.
func (Retention) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueMaintenance, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByState: unfinished.ByState}}
}

// Import is the periodic job that fetches calls whose webhook never came.
type Import struct{}

// Kind is the job's name in the database.
func (Import) Kind() string { return "import" }

// InsertOpts are the job's defaults.
func (Import) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueMaintenance, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByState: unfinished.ByState}}
}

// Erase is the job that does an erasure. Whom it is about stands in the
// erasure's own row, never here.
type Erase struct {
	ErasureID int64 `json:"erasure_id" river:"unique"`
}

// Kind is the job's name in the database.
func (Erase) Kind() string { return "erase" }

// InsertOpts are the job's defaults.
func (Erase) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueMaintenance, MaxAttempts: 12, UniqueOpts: unfinished}
}

// CheckAlerts is the periodic job that looks at the rules of the alerts.
type CheckAlerts struct{}

// Kind is the job's name in the database.
func (CheckAlerts) Kind() string { return "check_alerts" }

// InsertOpts are the job's defaults.
func (CheckAlerts) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueAlerts, MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByState: unfinished.ByState}}
}

// SendAlert is the job that sends one message to one channel.
type SendAlert struct {
	Channel  string    `json:"channel"`
	Rule     string    `json:"rule"`
	Incident int64     `json:"incident"`
	Event    string    `json:"event"`
	Value    float64   `json:"value"`
	Limit    float64   `json:"limit"`
	At       time.Time `json:"at"`
	Since    time.Time `json:"since"` // of the incident
}

// Kind is the job's name in the database.
func (SendAlert) Kind() string { return "send_alert" }

// InsertOpts are the job's defaults. A message that nobody took for half a day
// is news no longer.
func (SendAlert) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueAlerts, MaxAttempts: 16}
}

// OrderErasure enqueues an erasure in tx.
func OrderErasure(ctx context.Context, tx pgx.Tx, c *Client, id int64) error {
	if _, err := c.InsertTx(ctx, tx, Erase{ErasureID: id}, nil); err != nil {
		return fmt.Errorf("enqueueing an erasure: %w", err)
	}
	return nil
}

// unfinished makes a job unique among those that still have something to do. A
// finished one never blocks its repetition.
var unfinished = river.UniqueOpts{
	ByArgs: true,
	ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable,
		rivertype.JobStateRunning, rivertype.JobStateScheduled,
	},
}

// Metadata travels with a call's jobs, so that one request id shows its whole
// way through the logs.
type Metadata struct {
	RequestID      string `json:"request_id,omitempty"`
	ConversationID string `json:"conversation_id,omitempty"`
	// Trace is the W3C traceparent of what enqueued the job.
	Trace string `json:"traceparent,omitempty"`
}

// Encode gives the JSON for river.InsertOpts.Metadata.
func (m Metadata) Encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic("queue: texts cannot be encoded: " + err.Error())
	}
	return b
}

// MetadataOf reads what Encode wrote; a job without it has none.
func MetadataOf(job *rivertype.JobRow) Metadata {
	var m Metadata
	if err := json.Unmarshal(job.Metadata, &m); err != nil {
		return Metadata{}
	}
	return m
}

// Options are what a working client is set up with.
type Options struct {
	Logger *slog.Logger
	// Workers holds a worker for every kind: the elected leader discards stuck
	// jobs of kinds that it does not know.
	Workers *river.Workers
	// Analyses is how many analyses run at once in this process.
	Analyses int
	// Exports is how many exports run at once in this process, for each target.
	Exports map[call.Target]int
	// Timeout is the longest that any job of this installation may run.
	Timeout time.Duration
	// SoftStop is how long jobs may finish once the client is told to stop.
	SoftStop time.Duration
	// Import is how often calls are fetched that never came; 0 for never.
	Import time.Duration
	// Middleware sees each job as it is inserted and worked, the first outermost.
	Middleware []rivertype.Middleware
}

// NewInserter makes a client that only inserts. It never becomes the leader.
// Middleware sees what is inserted.
func NewInserter(pool *pgxpool.Pool, log *slog.Logger, middleware ...rivertype.Middleware) (*Client, error) {
	config := retention()
	config.Logger, config.Middleware = log, middleware
	c, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		return nil, fmt.Errorf("making the job client: %w", err)
	}
	return c, nil
}

// NewWorker makes a client that works the jobs.
func NewWorker(pool *pgxpool.Pool, o Options) (*Client, error) {
	config := retention()
	config.Logger = o.Logger
	config.Workers, config.Middleware = o.Workers, o.Middleware
	config.Queues = map[string]river.QueueConfig{
		QueueAnalyze:     {MaxWorkers: o.Analyses},
		QueueMaintenance: {MaxWorkers: 2},
		QueueAlerts:      {MaxWorkers: 2},
	}
	for to, n := range o.Exports {
		config.Queues[TargetQueue(to)] = river.QueueConfig{MaxWorkers: n}
	}
	// River's default of 100 ms between fetches would hold a worker with few
	// places to as many jobs every 100 ms, however short they are.
	config.FetchCooldown = 10 * time.Millisecond
	config.SoftStopTimeout = o.SoftStop
	// A worker that was killed leaves its jobs running; River runs them again
	// once they have been running for longer than this. It is minutes, not the
	// hour that is River's default, which is safe because no job may run longer
	// than its timeout, the bound lies a minute above the longest one, and a
	// job's last write checks that the attempt is still its own.
	config.RescueStuckJobsAfter = o.Timeout + rescueMargin
	config.JobTimeout = min(o.Timeout, time.Minute)
	config.RetryPolicy = retry{}
	config.PeriodicJobs = []*river.PeriodicJob{periodic(time.Minute, Reconcile{}), periodic(10*time.Minute, Retention{}), periodic(time.Minute, CheckAlerts{})}
	if o.Import > 0 {
		config.PeriodicJobs = append(config.PeriodicJobs, periodic(o.Import, Import{}))
	}
	c, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		return nil, fmt.Errorf("making the job client: %w", err)
	}
	return c, nil
}

const rescueMargin = time.Minute

func periodic(every time.Duration, args river.JobArgs) *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(every),
		func() (river.JobArgs, *river.InsertOpts) { return args, nil },
		&river.PeriodicJobOpts{RunOnStart: true})
}

// retention must be the same on all clients, since any of them can become the
// one that cleans.
func retention() *river.Config {
	return &river.Config{
		// Finished rows slow every count of River UI; what came of them stands
		// in our own tables.
		CompletedJobRetentionPeriod: time.Hour,
		CancelledJobRetentionPeriod: 7 * 24 * time.Hour,
		// Dead letters stay until somebody acts.
		DiscardedJobRetentionPeriod: -1,
	}
}

// retry spreads attempts exponentially: 10 s, 30 s, 90 s and so on up to an
// hour, each a fifth earlier or later by chance, so that jobs which failed
// together do not come back together.
type retry struct{}

func (retry) NextRetry(job *rivertype.JobRow) time.Time {
	return time.Now().Add(Backoff(len(job.Errors) + 1))
}

// Backoff is the wait after the n-th failure, counted from 1, with jitter.
func Backoff(n int) time.Duration {
	wait := 10 * time.Second
	for range min(n, 10) - 1 {
		wait *= 3
	}
	wait = min(wait, time.Hour)
	return wait*4/5 + rand.N(wait*2/5) //nolint:gosec // chance spreads the load, it keeps no secret
}

// InsertAnalyses enqueues the analyses of events in tx. Where one is waiting
// or running already, nothing is added.
func InsertAnalyses(ctx context.Context, c *Client, tx pgx.Tx, jobs []AnalyzeJob, maxAttempts int) error {
	_, err := insertAnalyses(ctx, c, tx, jobs, maxAttempts)
	return err
}

// insertAnalyses is InsertAnalyses and says how many were added.
func insertAnalyses(ctx context.Context, c *Client, tx pgx.Tx, jobs []AnalyzeJob, maxAttempts int) (added int, err error) {
	params := make([]river.InsertManyParams, len(jobs))
	for i, j := range jobs {
		params[i] = river.InsertManyParams{Args: j.Args, InsertOpts: &river.InsertOpts{
			MaxAttempts: maxAttempts, Metadata: j.Metadata.Encode(), Priority: j.Priority,
		}}
	}
	results, err := c.InsertManyTx(ctx, tx, params)
	if err != nil {
		return 0, fmt.Errorf("enqueueing analyses: %w", err)
	}
	for _, r := range results {
		if !r.UniqueSkippedAsDuplicate {
			added++
		}
	}
	return added, nil
}

// AnalyzeJob is a job to be inserted.
type AnalyzeJob struct {
	Args     Analyze
	Metadata Metadata
	// Priority is 1, which 0 stands for, to 4, the least urgent.
	Priority int
}

// ErrNotOwned means that a job has been given to another attempt meanwhile, so
// that this attempt's result must not be written.
var ErrNotOwned = errors.New("the job belongs to a newer attempt")

// Own locks a job's row until tx ends and checks that the attempt which job
// was handed out for is still the running one. Otherwise it is ErrNotOwned.
func Own(ctx context.Context, tx pgx.Tx, job *rivertype.JobRow) error {
	var own bool
	err := tx.QueryRow(ctx, `
		select state = 'running' and attempt = $2
		from river_job where id = $1 for update`, job.ID, job.Attempt).Scan(&own)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("checking that the job is still ours: %w", err)
	}
	if !own {
		return ErrNotOwned
	}
	return nil
}
