// Package backfill fetches the calls from ElevenLabs whose webhook never came:
// an event that could not be delivered is not sent again once its retries are
// over, and the API is the only place that still has it.
package backfill

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/call"
	"postcall/pkg/elevenlabs/workspace"
	"postcall/pkg/postgres"
	"postcall/pkg/spool"
)

// API is where calls are fetched from.
type API interface {
	Conversations(ctx context.Context, q workspace.Query) (workspace.Page, error)
	Conversation(ctx context.Context, id string) (json.RawMessage, error)
	Recording(ctx context.Context, id string) (io.ReadCloser, error)
}

// Keeper stores what was fetched as if a webhook had brought it.
type Keeper interface {
	Import(ctx context.Context, entry spool.Entry) (postgres.Kept, error)
}

// fetching is how many calls are fetched at once: the API publishes no limits
// and is asked politely.
const fetching = 2

// Importer fetches what is missing.
type Importer struct {
	API    API
	Keeper Keeper
	Pool   *pgxpool.Pool
	// TempDir is where recordings lie until they are stored.
	TempDir string
	Log     *zap.Logger
}

// Window is what is looked at.
type Window struct {
	Since, Until time.Time // of when calls began
	AgentID      string    // empty for all
	Recordings   bool      // fetch missing recordings too
}

// Tally counts calls that are over upstream, and what came of them.
type Tally struct {
	Upstream   int `json:"upstream"`
	Present    int `json:"present"`    // here before
	Imported   int `json:"imported"`   // or, in a dry run, would be
	Completed  int `json:"completed"`  // had come without their transcript
	Recordings int `json:"recordings"` // fetched beside
	Erased     int `json:"erased"`     // were erased here, and stay so
	Failed     int `json:"failed"`
}

func (t *Tally) add(u Tally) {
	t.Upstream += u.Upstream
	t.Present += u.Present
	t.Imported += u.Imported
	t.Completed += u.Completed
	t.Recordings += u.Recordings
	t.Erased += u.Erased
	t.Failed += u.Failed
}

// want is what is to be done for a call.
type want struct {
	workspace.Conversation
	whole, completes, recording bool
}

// Page looks at the page of a window behind a cursor and fetches what is
// missing of it, unless dry. It gives the page's cursor, empty for the last
// page, and the counts by the day (UTC) on which calls began. Whatever it has
// fetched is here when it is called again: a run that was killed is repeated.
//
// A call that cannot be fetched is counted and logged, and does not keep the
// others from being fetched; what stands in the way of all of them ends it.
func (i *Importer) Page(ctx context.Context, w Window, cursor string, requestID string, dry bool) (next string, days map[string]Tally, err error) {
	page, err := i.API.Conversations(ctx, workspace.Query{Since: w.Since, Until: w.Until, AgentID: w.AgentID, Cursor: cursor})
	if err != nil {
		return "", nil, err
	}
	days = map[string]Tally{}
	var mu sync.Mutex
	count := func(c workspace.Conversation, t Tally) {
		mu.Lock()
		defer mu.Unlock()
		day := days[c.Started().Format(time.DateOnly)]
		day.add(t)
		days[c.Started().Format(time.DateOnly)] = day
	}
	wanted, err := i.missing(ctx, page.Conversations, w.Recordings, count)
	if err != nil {
		return "", nil, err
	}
	failures := 0
	g, fetch := errgroup.WithContext(ctx)
	g.SetLimit(fetching)
	for _, one := range wanted {
		g.Go(func() error {
			if dry {
				count(one.Conversation, one.tally())
				return nil
			}
			t, err := i.fetch(fetch, one, requestID)
			if err != nil {
				mu.Lock()
				failures++
				over := failures
				mu.Unlock()
				if over == mostFailures || hopeless(ctx, err) {
					return err
				}
				i.Log.Error("a call cannot be imported", zap.String("call", call.Digest(one.ID)), zap.String("request_id", requestID), zap.Error(err))
				t.Failed++
			}
			count(one.Conversation, t)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return "", days, err
	}
	if page.More {
		next = page.Next
	}
	return next, days, nil
}

// mostFailures is how many calls of a page may fail before it is taken for
// something that stands in the way of all.
const mostFailures = 10

// hopeless reports whether an error stands in the way of all other calls too.
func hopeless(ctx context.Context, err error) bool {
	code := call.CodeOf(err)
	return code == call.Credentials || code == call.RateLimited || ctx.Err() != nil
}

func (w want) tally() (t Tally) {
	switch {
	case w.completes:
		t.Completed = 1
	case w.whole:
		t.Imported = 1
	}
	if w.recording {
		t.Recordings = 1
	}
	return t
}

// missing counts what is here of some conversations, and gives what is not.
func (i *Importer) missing(ctx context.Context, list []workspace.Conversation, recordings bool, count func(workspace.Conversation, Tally)) ([]want, error) {
	over := make(map[string]workspace.Conversation, len(list))
	var agents, ids []string
	for _, c := range list {
		if _, twice := over[c.ID]; !c.Over() || c.ID == "" || twice {
			continue
		}
		over[c.ID] = c
		agents, ids = append(agents, c.AgentID), append(ids, c.ID)
		count(c, Tally{Upstream: 1})
	}
	// A call whose only events lack a transcript is fetched once: what it brings
	// stands here as an import. A recording that was here and is not any more
	// outlived its age: it does not come back.
	rows, err := i.Pool.Query(ctx, `
		select u.id,
			exists (select from erased_calls x where x.digest = erasure_digest('call', u.id)),
			h.here, h.waits and not h.imported,
			exists (select from call_audio a where a.conversation_id = u.id)
				or exists (select from webhook_events s where s.conversation_id = u.id and s.event_type = 'post_call_audio')
		from unnest($1::text[], $2::text[]) as u (agent, id)
		cross join lateral (
			select count(*) > 0 as here,
				coalesce(bool_and(e.analysis_state = 'skipped' and e.processor_note like '%' || $3), false) as waits,
				coalesce(bool_or(e.source = 'import'), false) as imported
			from webhook_events e
			where e.conversation_id = u.id and (e.agent_id = u.agent or e.agent_id is null or u.agent = '')
				and e.event_type in ('post_call_transcription', 'post_call_transcription_otel', 'call_initiation_failure')
		) h`, agents, ids, call.WaitsForImport)
	if err != nil {
		return nil, fmt.Errorf("looking for what is here: %w", err)
	}
	type known struct {
		ID                         string
		Erased, Here, Waits, Sound bool
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[known])
	if err != nil {
		return nil, fmt.Errorf("looking for what is here: %w", err)
	}
	var wanted []want
	for _, k := range found {
		c := over[k.ID]
		one := want{Conversation: c, whole: !k.Here || k.Waits && c.Messages > 0, recording: recordings && !k.Sound && c.Duration > 0}
		one.completes = one.whole && k.Here
		switch {
		case k.Erased:
			count(c, Tally{Erased: 1})
			continue
		case k.Here:
			count(c, Tally{Present: 1})
		}
		if one.whole || one.recording {
			wanted = append(wanted, one)
		}
	}
	return wanted, nil
}

// fetch stores what is missing of a call.
func (i *Importer) fetch(ctx context.Context, one want, requestID string) (t Tally, err error) {
	if one.whole {
		data, err := i.API.Conversation(ctx, one.ID)
		if call.CodeOf(err) == call.NotFound {
			return t, nil // deleted upstream since it was listed
		}
		if err != nil {
			return t, err
		}
		body, err := json.Marshal(map[string]any{"type": call.TypeTranscription, "event_timestamp": one.Ended().Unix(), "data": data})
		if err != nil {
			return t, fmt.Errorf("wrapping a call: %w", err)
		}
		kept, err := i.Keeper.Import(ctx, spool.Entry{ReceivedAt: one.Ended(), RequestID: requestID, Body: body})
		switch {
		case err != nil:
			return t, err
		case kept.Erased:
			return Tally{Erased: 1}, nil
		case kept.Duplicate: // its webhook came meanwhile
			t.Present++
		case one.completes:
			t.Completed++
		default:
			t.Imported++
		}
	}
	if one.recording {
		got, err := i.recording(ctx, one, requestID)
		if err != nil {
			return t, err
		}
		if got {
			t.Recordings++
		}
	}
	return t, nil
}

// recording stores a call's audio as the event that ElevenLabs sends it in.
func (i *Importer) recording(ctx context.Context, one want, requestID string) (got bool, err error) {
	sound, err := i.API.Recording(ctx, one.ID)
	if call.CodeOf(err) == call.NotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer sound.Close() //nolint:errcheck // it was only read
	file, err := os.CreateTemp(i.TempDir, "body-*")
	if err != nil {
		return false, fmt.Errorf("making room for a recording: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	head, err := json.Marshal(map[string]any{"agent_id": one.AgentID, "conversation_id": one.ID, "full_audio": ""})
	if err != nil {
		return false, fmt.Errorf("wrapping a recording: %w", err)
	}
	head, tail, _ := bytes.Cut(head, []byte(`"full_audio":"`))
	if _, err := fmt.Fprintf(file, `{"type":%q,"event_timestamp":%d,"data":%s"full_audio":"`, call.TypeAudio, one.Ended().Unix(), head); err != nil {
		return false, fmt.Errorf("writing a recording: %w", err)
	}
	encoder := base64.NewEncoder(base64.StdEncoding, file)
	if _, err := io.Copy(encoder, sound); err != nil {
		return false, call.Errorf(call.Unavailable, "fetching a recording: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return false, fmt.Errorf("writing a recording: %w", err)
	}
	if _, err := fmt.Fprintf(file, "%s}", tail); err != nil {
		return false, fmt.Errorf("writing a recording: %w", err)
	}
	_, err = i.Keeper.Import(ctx, spool.Entry{ReceivedAt: one.Ended(), RequestID: requestID, File: file.Name()})
	return err == nil, err
}
