package app

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/db"
	"postcall/pkg/audio"
	"postcall/pkg/call"
	"postcall/pkg/config"
	"postcall/pkg/elevenlabs/workspace"
	"postcall/pkg/export"
	"postcall/pkg/postgres"
	"postcall/pkg/receive"
)

// Examination is what Examine is told beside the environment.
type Examination struct {
	// PublicURL is where ElevenLabs reaches ingest; empty where it is not known.
	PublicURL string
	// Now is this machine's clock; nil for the clock.
	Now func() time.Time
}

// Bounds of an examination.
const (
	examinationTime = 90 * time.Second
	// clockWarn and clockFail are how far clocks may lie apart.
	clockWarn, clockFail = 15 * time.Second, 2 * time.Minute
	// failedLately is for how long a webhook's last failure is held against it.
	failedLately = 24 * time.Hour
	littleRoom   = 1 << 30 // bytes
)

func fine(format string, args ...any) export.Finding { return finding(export.OK, "", format, args) }

func broken(advice, format string, args ...any) export.Finding {
	return finding(export.Fail, advice, format, args)
}

func doubtful(advice, format string, args ...any) export.Finding {
	return finding(export.Warn, advice, format, args)
}

// finding is one line, whatever an error or a name in it says.
func finding(level export.Level, advice, format string, args []any) export.Finding {
	text := strings.Join(strings.FieldsFunc(fmt.Sprintf(format, args...), unicode.IsControl), " ")
	return export.Finding{Level: level, Text: text, Advice: advice}
}

// Examine looks at an installation from end to end: what ElevenLabs is set up
// to do, the settings, the clocks, the database, disk and stores, and those
// whom results come from and go to. It changes nothing but for a probe of the
// audio store. Each fault is named with what to do about it.
func Examine(ctx context.Context, from config.Lookuper, x Examination) []export.Finding {
	ctx, cancel := context.WithTimeout(ctx, examinationTime)
	defer cancel()
	if x.Now == nil {
		x.Now = time.Now
	}
	ingest, ierr := config.LoadIngest(ctx, from)
	worker, werr := config.LoadWorker(ctx, from)
	list := slices.Concat(settings("ingest", ierr, export.Fail), settings("worker", werr, export.Warn))
	parts := []func(context.Context) []export.Finding{
		func(ctx context.Context) []export.Finding { return examineUpstream(ctx, worker.Upstream, x) },
		func(ctx context.Context) []export.Finding {
			return examineDatabase(ctx, worker.DatabaseURL.Reveal(), x.Now)
		},
		func(ctx context.Context) []export.Finding { return examineStores(ctx, ingest) },
	}
	if werr == nil {
		parts = append(parts,
			func(ctx context.Context) []export.Finding { return examineModel(ctx, worker) },
			func(ctx context.Context) []export.Finding { return examineTargets(ctx, worker) })
	}
	found := make([][]export.Finding, len(parts))
	var g errgroup.Group
	for i, part := range parts {
		g.Go(func() error {
			found[i] = part(ctx)
			return nil
		})
	}
	_ = g.Wait() // what went wrong is among what was found
	return slices.Concat(list, slices.Concat(found...))
}

func settings(of string, err error, level export.Level) []export.Finding {
	if err == nil {
		return []export.Finding{fine("the settings of %s can be used", of)}
	}
	wrong, ok := errors.AsType[*config.Error](err)
	if !ok {
		return []export.Finding{{Level: level, Text: fmt.Sprintf("settings of %s: %v", of, err)}}
	}
	var list []export.Finding
	for _, p := range wrong.Problems {
		list = append(list, export.Finding{Level: level, Text: fmt.Sprintf("settings of %s: %s %s", of, p.Variable, p.Text),
			Advice: "README's table of settings says what each takes. Run this with the environment of " + of + "."})
	}
	return list
}

// examineUpstream looks at the workspace: its webhook above all.
func examineUpstream(ctx context.Context, u config.Upstream, x Examination) []export.Finding {
	if u.ElevenLabsKey == "" {
		return []export.Finding{doubtful("Make a key at elevenlabs.io/app/settings/api-keys that may read conversations and webhooks. "+
			"Without it nobody notices a webhook that is switched off, and calls that it did not bring are lost.",
			"ELEVENLABS_API_KEY is not set: the workspace cannot be looked at, and nothing is imported")}
	}
	api, err := workspace.New(workspace.Options{BaseURL: u.ElevenLabsURL, Key: u.ElevenLabsKey.Reveal(), PerSecond: float64(u.ElevenLabsRPS), Attempts: 2})
	if err != nil {
		return []export.Finding{broken("Set ELEVENLABS_BASE_URL.", "ELEVENLABS_BASE_URL: %v", err)}
	}
	asked := x.Now()
	at, took, err := api.Clock(ctx)
	switch {
	case call.CodeOf(err) == call.Credentials:
		return []export.Finding{broken("Make another key at elevenlabs.io/app/settings/api-keys. If the workspace is in another region, set ELEVENLABS_BASE_URL to that region's address.",
			"ElevenLabs refuses ELEVENLABS_API_KEY, or it may not read conversations")}
	case err != nil:
		return []export.Finding{broken("Look at the way from here to "+u.ElevenLabsURL+", at status.elevenlabs.io, and at ELEVENLABS_BASE_URL.", "ElevenLabs: %v", err)}
	}
	list := []export.Finding{fine("ElevenLabs answers, and takes the key")}
	// Their clock is told in whole seconds, cut off.
	list = append(list, clock("ElevenLabs'", at.Sub(asked)+500*time.Millisecond-took/2))
	hooks, err := api.Webhooks(ctx)
	if err != nil {
		return append(list, doubtful("Give the key the right to read the workspace's webhooks (an admin's key has it).", "the workspace's webhooks cannot be read: %v", err))
	}
	postCall, err := api.PostCall(ctx)
	if err != nil {
		return append(list, doubtful("Give the key the right to read the agents' settings.", "which webhook is told of calls cannot be read: %v", err))
	}
	return append(list, judgeWebhook(hooks, postCall, x)...)
}

// clock judges a clock that is ahead of this machine's by so much.
func clock(whose string, ahead time.Duration) export.Finding {
	off := ahead.Abs().Round(time.Second)
	side := "behind"
	if ahead < 0 {
		side = "ahead of"
	}
	const advice = "Synchronise this machine's clock (timedatectl, chronyd): the age of signatures is judged by it, and times in lists are."
	switch {
	case off >= clockFail:
		return broken(advice, "this machine's clock is %s %s %s", off, side, whose)
	case off >= clockWarn:
		return doubtful(advice, "this machine's clock is %s %s %s", off, side, whose)
	}
	return fine("this machine's clock agrees with %s", whose)
}

// judgeWebhook judges the webhook that is told of calls.
func judgeWebhook(hooks []workspace.Webhook, postCall string, x Examination) (list []export.Finding) {
	const where = "elevenlabs.io/app/agents/settings"
	ours := "https://your-host" + receive.Path
	if x.PublicURL != "" {
		ours = strings.TrimSuffix(x.PublicURL, "/") + receive.Path
	}
	n := slices.IndexFunc(hooks, func(h workspace.Webhook) bool { return h.ID == postCall })
	if postCall == "" || n < 0 {
		return []export.Finding{broken("At "+where+" choose a post-call webhook with the address "+ours+" and HMAC authentication. "+
			"Agents that override it have their own.", "no post-call webhook is set: no call is told of")}
	}
	h := hooks[n]
	if !sameAddress(h.URL, ours, x.PublicURL != "") {
		list = append(list, broken("At "+where+" set the webhook's address to "+ours+", or say --url if ingest is reached under another name.",
			"the post-call webhook %q goes to %s, which is not ours", h.Name, h.URL))
	} else {
		list = append(list, fine("the post-call webhook goes to %s", h.URL))
	}
	if h.Disabled {
		list = append(list, broken("Switch it on at "+where+", then fetch what was missed: postcall import --since 7d", "the post-call webhook is switched off"))
	}
	if h.AutoDisabled {
		list = append(list, broken("Mend what failed (below), switch it on again at "+where+", then fetch what was missed: postcall import --since 7d",
			"ElevenLabs has switched the post-call webhook off, after ten failures or more in a row"))
	}
	if h.Auth != "" && h.Auth != "hmac" {
		list = append(list, broken("At "+where+" set its authentication to HMAC, and WEBHOOK_SECRET to the secret that is shown once.", "the post-call webhook is not signed (%s): every delivery is refused", h.Auth))
	}
	switch {
	case h.Retries == nil:
		list = append(list, doubtful("Look at "+where+" whether the webhook's retries are on.", "whether failed deliveries are tried again cannot be read"))
	case !*h.Retries:
		list = append(list, broken("Switch the webhook's retries on at "+where+": without them a delivery that fails once is lost until it is imported.", "retries of the post-call webhook are off"))
	default:
		list = append(list, fine("failed deliveries are tried again"))
	}
	if h.FailureUnix != nil && *h.FailureUnix > 0 {
		at, answered := time.Unix(*h.FailureUnix, 0).UTC(), "was not answered"
		if h.FailureCode != nil {
			answered = fmt.Sprintf("was answered %d", *h.FailureCode)
		}
		if x.Now().Sub(at) < failedLately {
			list = append(list, broken("Look at ingest's log at that time and at the dashboard's rejections (401: the secret; 403: WEBHOOK_ALLOWED_CIDRS; 413, 5xx or none: the proxy in front). "+
				"Then: postcall import --since 7d", "a delivery failed at %s: it %s", at.Format(time.DateTime), answered))
		} else {
			list = append(list, fine("no delivery has failed since %s", at.Format(time.DateTime)))
		}
	}
	return list
}

// sameAddress compares what a webhook calls with what is ours; without a host
// that is known, by the path alone.
func sameAddress(theirs, ours string, known bool) bool {
	a, err := url.Parse(theirs)
	if err != nil {
		return false
	}
	b, err := url.Parse(ours)
	if err != nil {
		return false
	}
	return a.Path == b.Path && (!known || strings.EqualFold(a.Host, b.Host) && a.Scheme == b.Scheme)
}

func examineDatabase(ctx context.Context, address string, now func() time.Time) []export.Finding {
	if address == "" {
		return []export.Finding{broken("Set DATABASE_URL to postgres://user:password@host:5432/database.", "DATABASE_URL is not set")}
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	pool, err := postgres.Pool(ctx, address, "postcall doctor", 2, 10*time.Second)
	if err != nil {
		return []export.Finding{broken("Set DATABASE_URL to postgres://user:password@host:5432/database.", "DATABASE_URL: %v", err)}
	}
	defer pool.Close()
	var at time.Time
	asked := now()
	began := time.Now()
	if err := pool.QueryRow(ctx, `select clock_timestamp()`).Scan(&at); err != nil {
		return []export.Finding{broken("Look at PostgreSQL, the way to it, and DATABASE_URL; deliveries are kept in the spool meanwhile.", "the database does not answer: %v", err)}
	}
	took := time.Since(began)
	list := []export.Finding{fine("the database answers within %s", took.Round(time.Millisecond)), clock("the database's", at.Sub(asked)-took/2)}
	have, err := db.Version(ctx, pool)
	switch want := db.Newest(); {
	case err != nil:
		return append(list, broken("Run postcall migrate up.", "the database holds no schema of Postcall"))
	case have < want:
		return append(list, broken("Run postcall migrate up.", "the schema is of version %d, and this program wants %d", have, want))
	case have > want:
		list = append(list, doubtful("Bring this program to the newest version too.", "the schema's version %d is newer than this program's %d", have, want))
	default:
		list = append(list, fine("the schema is up to date (version %d)", have))
	}
	return append(list, examineTraffic(ctx, pool)...)
}

// examineTraffic looks at what the database tells of the processes.
func examineTraffic(ctx context.Context, pool *pgxpool.Pool) (list []export.Finding) {
	var refused, waiting, dead int64
	err := pool.QueryRow(ctx, `
		select (select count(*) from rejections where at > now() - interval '1 day' and reason in ('mismatch', 'malformed', 'missing')),
			(select count(*) from river_job where state = 'available' and scheduled_at < now() - interval '10 minutes'),
			(select count(*) from (select from webhook_events where analysis_state = 'dead' and duplicate_of is null limit 1000) bounded)`).Scan(&refused, &waiting, &dead)
	if err != nil {
		return []export.Finding{broken("Is the schema up to date? postcall migrate status", "what stands in the database cannot be read: %v", err)}
	}
	if refused > 0 {
		list = append(list, doubtful("If they came from ElevenLabs, WEBHOOK_SECRET is not the webhook's: the secret cannot be read again, only made anew there. The dashboard's rejections show each.",
			"%d deliveries were refused for their signature within a day", refused))
	}
	workers, err := postgres.Workers(ctx, pool, time.Minute)
	switch {
	case err != nil:
		list = append(list, broken("Is the schema up to date? postcall migrate status", "the workers cannot be read: %v", err))
	case len(workers) == 0:
		list = append(list, doubtful("Start cmd/worker on this database; calls are kept and wait.", "no worker was seen within the last minute"))
	default:
		list = append(list, fine("%d workers are running", len(workers)))
	}
	if waiting > 0 {
		list = append(list, doubtful("Are there workers, and is a queue paused? GET /api/health/full says.", "%d jobs have waited for more than ten minutes", waiting))
	}
	if dead > 0 {
		list = append(list, doubtful("Act on them: the dashboard's dead letters say why, and what to do.", "%d analyses were given up", dead))
	}
	return list
}

func examineStores(ctx context.Context, c config.Ingest) (list []export.Finding) {
	if c.SpoolPath != "" {
		dir := filepath.Dir(c.SpoolPath)
		switch free, _, err := diskSpace(dir); {
		case err != nil:
			list = append(list, doubtful("Make the directory of SPOOL_PATH, on a disk that stays; ingest makes it when it starts.", "the spool's disk: %v", err))
		case free < littleRoom:
			list = append(list, broken("Make room: without it no delivery can be kept while the database is away.", "%d MiB are free where the spool lies", free>>20))
		default:
			list = append(list, fine("%d GiB are free where the spool lies", free>>30))
		}
	}
	if c.AudioURL == "" {
		return list
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	store, err := audio.Open(ctx, c.AudioURL)
	if err == nil {
		err = errors.Join(store.Probe(ctx), store.Close())
	}
	if err != nil {
		// What a store says may hold addresses and names of keys.
		return append(list, broken("Look at AUDIO_URL, its rights and its room.", "the audio store does not take, give back or delete a probe"))
	}
	return append(list, fine("the audio store takes, gives back and deletes a probe"))
}

func examineModel(ctx context.Context, c config.Worker) []export.Finding {
	analyzer, _, err := Analyzer(c, nil)
	if err != nil {
		return []export.Finding{broken("README's table of settings says what each takes.", "the analyser: %v", err)}
	}
	probe, ok := analyzer.(interface {
		Probe(ctx context.Context) error
	})
	if !ok {
		return []export.Finding{fine("the built-in analyser needs nobody")}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	switch err := probe.Probe(ctx); {
	case err == nil:
		return []export.Finding{fine("the model %s answers", c.Model)}
	case call.CodeOf(err) == call.Credentials:
		return []export.Finding{broken("Mend OPENAI_API_KEY, the account's quota, or ANALYZE_MODEL.", "the model server refuses: %v", err)}
	default:
		return []export.Finding{broken("Look at OPENAI_BASE_URL and the way to it; calls wait and are analysed later.", "the model server does not do what it should: %v", err)}
	}
}

func examineTargets(ctx context.Context, c config.Worker) (list []export.Finding) {
	if c.CRMEnabled {
		crm, err := BPMSoft(c, zap.NewNop())
		if err != nil {
			list = append(list, broken("README's table of settings says what each takes.", "BPMSoft: %v", err))
		} else {
			list = append(list, crm.Check(ctx)...)
		}
	}
	if c.WebhookOutURL != "" {
		hook, err := Webhook(c)
		if err != nil {
			return append(list, broken("README's table of settings says what each takes.", "the outbound webhook: %v", err))
		}
		list = append(list, hook.Check(ctx)...)
	}
	return list
}
