package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/db"
	"postcall/pkg/archive"
	"postcall/pkg/gate"
	"postcall/pkg/postgres"
	"postcall/pkg/privacy"
	"postcall/pkg/queue"
)

// check is one part of the installation: how it stands and, unless it is ok,
// what to do about it.
type check struct {
	Name   string `json:"name"`
	State  state  `json:"state"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
	// Figures are what Text is made of, for machines.
	Figures map[string]any `json:"figures,omitempty"`
}

type state string

const (
	ok   state = "ok"
	warn state = "warn"
	fail state = "fail"
)

// Health is how the installation stands: as its worst part does.
type Health struct {
	Status  state   `json:"status"`
	Version string  `json:"version"`
	Checks  []check `json:"checks"`
}

// Parts is what the full health check looks at beside the database; what is nil
// is left out.
type Parts struct {
	// ProbeAudio writes, reads and deletes an object of the audio store.
	ProbeAudio func(context.Context) error
	// Deliveries limits what comes by webhook.
	Deliveries *gate.Limits
	// Disk is where the spool lies: bytes free and in all.
	Disk func() (free, total uint64, err error)
	// Secrets and AdminTokens are how many are configured.
	Secrets, AdminTokens int
	// StableSessions says that sessions outlast this process.
	StableSessions bool
	// Version is this program's.
	Version string
}

// Backlog is what waits outside the database.
type Backlog interface{ Waiting() Waiting }

// Waiting is how many deliveries wait on the disk, for how long the oldest of
// them has, and how much room they take of what they may take.
type Waiting struct {
	Entries, Bytes, MaxBytes int64
	Oldest                   time.Duration
}

// Bounds of health: where it begins to warn.
const (
	slowDatabase = 250 * time.Millisecond
	longWait     = 15 * time.Minute
	// longPutOff is for how long a job may be put off from attempt to attempt:
	// all retries of the default take less, only one that waits as the other side
	// says is put off for ever.
	longPutOff = 3 * time.Hour
	// workerSilence is how long a worker may not have been seen; deadWait is how
	// long jobs may wait without one before that is a failure.
	workerSilence = time.Minute
	deadWait      = 5 * time.Minute
	audioPatience = 5 * time.Second
	// retentionSilence is how long no run of retention may have begun, and
	// retentionBehind how long it may not have come to its end.
	retentionSilence = time.Hour
	retentionBehind  = 48 * time.Hour
)

// health tells how the parts stand that a person may have to act on: 200, or
// 503 when one of them fails. It holds no secret and nothing of a call.
func (a *API) health(c echo.Context) error {
	h := a.Health(c.Request().Context())
	status := http.StatusOK
	if h.Status == fail {
		status = http.StatusServiceUnavailable
	}
	return c.JSON(status, h)
}

// Health looks at every part.
func (a *API) Health(ctx context.Context) Health {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	checks := a.database(ctx)
	checks = append(checks, a.spool())
	if a.Disk != nil {
		checks = append(checks, a.disk())
	}
	if a.ProbeAudio != nil {
		checks = append(checks, a.audioStore(ctx))
	}
	if a.Deliveries != nil {
		checks = append(checks, a.limiters())
	}
	checks = append(checks, a.secrets())
	worst := ok
	for _, one := range checks {
		if one.State == fail || one.State == warn && worst == ok {
			worst = one.State
		}
	}
	return Health{Status: worst, Version: a.Version, Checks: checks}
}

func (a *API) spool() check {
	w := a.Backlog.Waiting()
	one := check{Name: "spool", State: ok, Text: "nothing waits on the disk", Figures: map[string]any{
		"entries": w.Entries, "bytes": w.Bytes, "max_bytes": w.MaxBytes, "oldest_seconds": w.Oldest.Seconds(),
	}}
	if w.Entries == 0 {
		return one
	}
	one.State, one.Text = warn, fmt.Sprintf("%d deliveries (%s) wait on the disk, the oldest for %s", w.Entries, size(uint64(max(w.Bytes, 0))), w.Oldest.Round(time.Second))
	one.Advice = "They are stored by themselves once the database takes them."
	if w.MaxBytes > 0 && w.Bytes > w.MaxBytes/10*9 {
		one.State = fail
		one.Advice = "It is nearly full, and then deliveries are refused: bring the database back, or raise SPOOL_MAX_BYTES."
	}
	return one
}

func (a *API) disk() check {
	free, total, err := a.Disk()
	if err != nil || total == 0 {
		return check{Name: "disk", State: ok, Text: "how full it is cannot be told on this system"}
	}
	one := check{
		Name: "disk", State: ok, Text: fmt.Sprintf("%s of %s are free where the spool lies", size(free), size(total)),
		Figures: map[string]any{"free_bytes": free, "total_bytes": total},
	}
	switch percent := float64(free) / float64(total) * 100; {
	case percent < 1 || free < 256<<20:
		one.State, one.Advice = fail, "Make room now: without it no delivery can be kept while the database is away."
	case percent < 5:
		one.State, one.Advice = warn, "Make room soon."
	}
	return one
}

func (a *API) audioStore(ctx context.Context) check {
	ctx, cancel := context.WithTimeout(ctx, audioPatience)
	defer cancel()
	began := time.Now()
	if err := a.ProbeAudio(ctx); err != nil {
		// What the store says may hold addresses and names of keys.
		return check{Name: "audio store", State: fail, Text: "it does not take, give back or delete a probe",
			Advice: "Look at AUDIO_URL, its rights and its room. Deliveries with audio wait in the spool meanwhile."}
	}
	return check{Name: "audio store", State: ok, Text: fmt.Sprintf("a probe was written, read and deleted within %s", time.Since(began).Round(time.Millisecond))}
}

func (a *API) limiters() check {
	d, g := a.Deliveries.Stats(), a.Guesses.Stats()
	one := check{
		Name: "rate limiters", State: ok, Text: fmt.Sprintf("since the start: %d forged deliveries and %d guesses at tokens were cut off", d.FailuresRefused, g.FailuresRefused),
		Figures: map[string]any{
			"deliveries_refused": d.VerifiedRefused, "forged_refused": d.FailuresRefused, "guesses_refused": g.FailuresRefused,
			"sending_addresses": d.VerifiedAddresses, "failing_addresses": d.FailingAddresses,
		},
	}
	if d.VerifiedRefused > 0 {
		one.State = warn
		one.Text = fmt.Sprintf("%d genuine deliveries were refused for their number since the start", d.VerifiedRefused)
		one.Advice = "Raise WEBHOOK_RATE_RPS and WEBHOOK_RATE_BURST: a refused delivery may be lost."
	}
	return one
}

func (a *API) secrets() check {
	one := check{
		Name: "keys of ingest", State: ok, Text: fmt.Sprintf("%d webhook secrets and %d API tokens are configured", a.Secrets, a.AdminTokens),
		Figures: map[string]any{"webhook_secrets": a.Secrets, "api_tokens": a.AdminTokens, "session_key": a.StableSessions},
	}
	if !a.StableSessions {
		one.State, one.Advice = warn, "Set SESSION_KEY: without it everybody is signed out when ingest starts anew, and several ingests do not know one another's sessions."
	}
	return one
}

// database looks at the database and at what stands in it.
func (a *API) database(ctx context.Context) []check {
	if a.Pool == nil {
		return []check{{Name: "database", State: fail, Text: "DATABASE_URL is not set", Advice: "Deliveries are kept in the spool alone. Set DATABASE_URL and start ingest anew."}}
	}
	began := time.Now()
	var server string
	if err := a.Pool.QueryRow(ctx, `select current_setting('server_version')`).Scan(&server); err != nil {
		return []check{{Name: "database", State: fail, Text: "it does not answer", Advice: "Deliveries are kept in the spool meanwhile. Look at PostgreSQL and DATABASE_URL."}}
	}
	took := time.Since(began)
	first := check{
		Name: "database", State: ok, Text: fmt.Sprintf("PostgreSQL %s answers within %s", server, took.Round(10*time.Microsecond)),
		Figures: map[string]any{"latency_ms": float64(took.Microseconds()) / 1000, "server_version": server},
	}
	if took > slowDatabase {
		first.State, first.Advice = warn, "It is slow: look at its load, its disk and the way to it."
	}
	list := []check{first, a.schema(ctx)}
	unread := func(name string) check {
		return check{Name: name, State: fail, Text: "it could not be read", Advice: "Is the schema up to date? postcall migrate status"}
	}
	switch pause, err := queue.PauseOf(ctx, a.Pool, queue.QueueAnalyze); {
	case err != nil:
		list = append(list, unread("analysis"))
	case pause != nil:
		list = append(list, check{
			Name: "analysis", State: fail, Text: fmt.Sprintf("paused since %s: %s", pause.Since.UTC().Format(time.RFC3339), pause.Reason),
			Advice: "Mend the key, the account's quota or the model's name; the workers go on by themselves. Nothing is lost.",
		})
	default:
		list = append(list, check{Name: "analysis", State: ok, Text: "the workers have not paused it"})
	}
	if queues, err := queueStates(ctx, a.Pool); err != nil {
		list = append(list, unread("queues"))
	} else {
		for _, q := range queues {
			list = append(list, checkQueue(q))
		}
		workers, err := postgres.Workers(ctx, a.Pool, workerSilence)
		if err != nil {
			list = append(list, unread("workers"))
		} else {
			list = append(list, checkWorkers(workers, queues), a.modelKey(ctx, workers))
		}
	}
	list = append(list, a.deadCheck(ctx), a.index(ctx), a.imported(ctx), a.retention(ctx))
	targets, err := postgres.TargetStates(ctx, a.Pool)
	if err != nil {
		return append(list, unread("targets"))
	}
	for _, t := range targets {
		list = append(list, checkTarget(t))
	}
	return list
}

// index tells whether calls can be found by what was said and analysed.
func (a *API) index(ctx context.Context) check {
	due, since, err := archive.Due(ctx, a.Pool)
	if err != nil {
		return check{Name: "search index", State: fail, Text: "it could not be read", Advice: "Is the schema up to date? postcall migrate status"}
	}
	one := check{Name: "search index", State: ok, Text: "it is up to date", Figures: map[string]any{"due": due}}
	if due == 0 {
		return one
	}
	many := strconv.Itoa(due)
	if due == archive.MaxExact {
		many += " or more"
	}
	waited := time.Since(since)
	one.Text = fmt.Sprintf("%s changes are due, the oldest for %s", many, waited.Round(time.Second))
	one.Figures["oldest_seconds"] = waited.Seconds()
	if waited > longWait {
		one.State = warn
		one.Advice = "Filters and searches miss the newest calls. Workers index by themselves, after all else: are there any? Their log says if it fails."
	}
	return one
}

// retention tells whether what is older than its age goes. Which kinds have an
// age is the workers' configuration, which they write down.
func (a *API) retention(ctx context.Context) check {
	kinds, err := privacy.KeptOf(ctx, a.Pool)
	one := check{Name: "retention", State: ok}
	switch {
	case err != nil:
		return check{Name: one.Name, State: fail, Text: "it could not be read", Advice: "Is the schema up to date? postcall migrate status"}
	case len(kinds) == 0:
		one.Text = "nothing has an age: all is kept for ever"
		return one
	}
	var texts, advice []string
	one.Figures = map[string]any{}
	for _, k := range kinds {
		figures := map[string]any{"age_seconds": k.Age.Seconds(), "begun_at": k.BegunAt.UTC()}
		one.Figures[k.Kind] = figures
		done := k.Since
		if k.FinishedAt != nil {
			done = *k.FinishedAt
			figures["finished_at"] = done.UTC()
		}
		switch {
		case k.FailingSince != nil:
			texts = append(texts, fmt.Sprintf("%s fail since %s", k.Kind, k.FailingSince.UTC().Format(time.RFC3339)))
			advice = append(advice, "The worker's log says why; it is tried again by itself.")
			figures["failing_since"] = k.FailingSince.UTC()
		case time.Since(k.BegunAt) > retentionSilence:
			texts = append(texts, fmt.Sprintf("%s: no run since %s", k.Kind, k.BegunAt.UTC().Format(time.RFC3339)))
			advice = append(advice, "A worker runs it every ten minutes: is there one?")
		case time.Since(done) > retentionBehind:
			texts = append(texts, fmt.Sprintf("%s are not through since %s", k.Kind, done.UTC().Format(time.RFC3339)))
			advice = append(advice, "There is much to remove, and it goes slowly so as not to hold up receiving: look again tomorrow. Or a table is locked for long.")
		}
	}
	if len(texts) == 0 {
		one.Text = fmt.Sprintf("it works, for %d kinds of data", len(kinds))
		return one
	}
	slices.Sort(advice)
	one.State, one.Text, one.Advice = warn, strings.Join(texts, "; "), strings.Join(slices.Compact(advice), " ")
	return one
}

func (a *API) schema(ctx context.Context) check {
	have, err := db.Version(ctx, a.Pool)
	want := db.Newest()
	one := check{Name: "schema", State: ok, Text: fmt.Sprintf("version %d, as this program wants it", have), Figures: map[string]any{"version": have, "newest": want}}
	switch {
	case err != nil:
		return check{Name: "schema", State: fail, Text: "its version could not be read", Advice: "postcall migrate status"}
	case have < want:
		one.State, one.Text, one.Advice = fail, fmt.Sprintf("version %d, and this program wants %d", have, want), "Run postcall migrate up."
	case have > want:
		one.State, one.Text, one.Advice = warn, fmt.Sprintf("version %d is newer than this program's %d", have, want), "Bring this process to the newest version too."
	}
	return one
}

func checkQueue(q QueueState) check {
	oldest := ""
	if q.Waiting > 0 {
		oldest = fmt.Sprintf(", the oldest for %s", time.Duration(q.OldestSeconds*float64(time.Second)).Round(time.Second))
	}
	one := check{
		Name: "queue " + q.Name, State: ok,
		Text: fmt.Sprintf("%d wait%s; %d wait for a later attempt, %d run, %d are dead", q.Waiting, oldest, q.Later, q.Running, q.Dead),
		Figures: map[string]any{
			"waiting": q.Waiting, "later": q.Later, "running": q.Running, "dead": q.Dead, "oldest_seconds": q.OldestSeconds, "paused": q.PausedAt != nil,
		},
	}
	var advice []string
	if q.PausedAt != nil {
		one.Text = fmt.Sprintf("paused since %s; %s", q.PausedAt.UTC().Format(time.RFC3339), one.Text)
		if q.PausedBecause == "" {
			advice = append(advice, "Somebody paused it: POST /api/queues/"+q.Name+"/resume lets it go on.")
		} else {
			advice = append(advice, "The workers paused it because of what they met; it goes on by itself once that is mended.")
		}
	}
	if q.OldestSeconds > longWait.Seconds() && q.PausedAt == nil {
		advice = append(advice, "Jobs wait for long: are there workers, and enough of them (ANALYZE_MAX_CONCURRENCY)?")
	}
	if q.LaterSeconds > longPutOff.Seconds() && q.PausedAt == nil {
		one.Text += fmt.Sprintf("; the oldest of those that wait for a later attempt is %s old", time.Duration(q.LaterSeconds*float64(time.Second)).Round(time.Second))
		advice = append(advice, "Jobs are put off again and again, as by a server that answers 429 for long: their events' notes, or the jobs in River UI, say why.")
	}
	if q.Dead > 0 {
		advice = append(advice, "Act on what is dead: GET /api/dead-letters, or River UI's discarded jobs.")
	}
	if len(advice) > 0 {
		one.State, one.Advice = warn, strings.Join(advice, " ")
	}
	return one
}

func checkWorkers(workers []postgres.Worker, queues []QueueState) check {
	if len(workers) == 0 {
		one := check{
			Name: "workers", State: warn, Text: "none was seen within the last minute", Figures: map[string]any{"count": 0},
			Advice: "Start cmd/worker on this database; calls are kept and wait.",
		}
		for _, q := range queues {
			if q.PausedAt == nil && q.OldestSeconds > deadWait.Seconds() {
				one.State = fail
			}
		}
		return one
	}
	one := check{Name: "workers", State: ok, Figures: map[string]any{"count": len(workers)}}
	var each []string
	for _, w := range workers {
		each = append(each, fmt.Sprintf("%s (%s, %s, version %s)", w.Name, w.Analyzer, w.Model, w.Version))
		if w.Analyzer != workers[0].Analyzer || w.Model != workers[0].Model {
			one.State, one.Advice = warn, "They analyse by different means: set ANALYZER and ANALYZE_MODEL alike."
		}
	}
	one.Text = fmt.Sprintf("%d: %s", len(workers), strings.Join(each, ", "))
	return one
}

// modelKey says whether the workers have the model's key, which ingest has not,
// and when it last did what it is for.
func (a *API) modelKey(ctx context.Context, workers []postgres.Worker) check {
	one := check{Name: "key of the model", State: ok}
	var last *time.Time
	err := a.Pool.QueryRow(ctx, `
		select max(created_at)
		from (select created_at, analyzer from analyses order by id desc limit 1000) newest
		where analyzer = 'openai'`).Scan(&last)
	if err != nil {
		return check{Name: one.Name, State: fail, Text: "it could not be read", Advice: "Is the schema up to date? postcall migrate status"}
	}
	success := "no answer of it is among the newest thousand analyses"
	if last != nil {
		success = "it last answered at " + last.UTC().Format(time.RFC3339)
		one.Figures = map[string]any{"last_success": last.UTC()}
	}
	needed := slices.ContainsFunc(workers, func(w postgres.Worker) bool { return w.Analyzer == "openai" })
	held := slices.ContainsFunc(workers, func(w postgres.Worker) bool { return slices.Contains(w.Keys, "openai") })
	switch {
	case len(workers) == 0:
		one.State, one.Text = warn, "there is no worker to ask; "+success
		one.Advice = "Start a worker: it has the key."
	case !needed:
		one.Text = "none is needed: the workers analyse with the built-in analyser"
	case held:
		one.Text = "the workers have one; " + success
	default:
		one.State, one.Text, one.Advice = fail, "the workers have none", "Set OPENAI_API_KEY for the workers."
	}
	return one
}

func (a *API) deadCheck(ctx context.Context) check {
	dead, err := queue.DeadEvents(ctx, a.Pool)
	given := fmt.Sprintf("%d analyses were given up", dead)
	if dead == queue.MaxDepth {
		given = fmt.Sprintf("%d analyses or more were given up", dead)
	}
	switch {
	case err != nil:
		return check{Name: "dead letters", State: fail, Text: "they could not be counted", Advice: "Is the schema up to date? postcall migrate status"}
	case dead > 0:
		return check{
			Name: "dead letters", State: warn, Text: given, Figures: map[string]any{"count": dead},
			Advice: "GET /api/dead-letters says why, POST /api/dead-letters/retry tries them again.",
		}
	}
	return check{Name: "dead letters", State: ok, Text: "there are none", Figures: map[string]any{"count": 0}}
}

func checkTarget(t postgres.TargetState) check {
	one := check{Name: "target " + string(t.Target), State: ok, Text: "it takes what it is sent"}
	reason := ""
	if t.LastError != nil {
		reason = ": " + *t.LastError
	}
	switch {
	case t.OpenUntil != nil:
		one.State = fail
		one.Text = fmt.Sprintf("nothing is sent until %s, after %d failures in a row%s", t.OpenUntil.UTC().Format(time.RFC3339), t.Failures, reason)
		one.Advice = "Look at the target; for BPMSoft: postcall crm check. What waits is sent by itself afterwards."
	case t.Failures > 0:
		one.State, one.Text, one.Advice = warn, fmt.Sprintf("%d failures in a row%s", t.Failures, reason), "It is tried again by itself."
	}
	return one
}

// size writes a number of bytes for people.
func size(bytes uint64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, name := float64(bytes)/unit, 0
	for value >= unit && name < 3 {
		value /= unit
		name++
	}
	return fmt.Sprintf("%.1f %s", value, []string{"KiB", "MiB", "GiB", "TiB"}[name])
}
