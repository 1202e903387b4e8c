// Package demo shows the whole way of a call on one machine: sample deliveries
// are signed and posted over HTTP as ElevenLabs would, a duplicate and a
// forged one among them, and what came of each is printed.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"postcall/pkg/call"
	"postcall/pkg/postgres"
	"postcall/pkg/receive"
	"postcall/pkg/sender"
	"postcall/pkg/standalone"
)

// bound is how long the samples may take in all: a language model can be slow.
const bound = 5 * time.Minute

// Step is one delivery of the demo and what came of it.
type Step struct {
	Name   string
	Answer sender.Answer
	Want   string // the verdict that the answer must have
	// Analysed says that an analysis is expected.
	Analysed bool
	Event    Outcome
}

// Outcome is what the database says of an event.
type Outcome struct {
	ID        int64
	Type      call.EventType
	State     call.State
	Note      string
	Topic     string
	Quality   *int
	Outcome   call.OutcomeCode
	Delivered []string // the targets that took the result
	Waiting   bool     // something is still to be done
}

// Problem says in words what did not go as it should; empty if all did.
func (s *Step) Problem() string {
	switch {
	case s.Answer.Verdict() != s.Want:
		return fmt.Sprintf("answered %d %s, expected %s", s.Answer.Status, s.Answer.Verdict(), s.Want)
	case s.Want != "kept":
		return ""
	case s.Event.Waiting:
		return "not finished in time"
	case s.Analysed && s.Event.State != call.StateDone:
		return fmt.Sprintf("expected an analysis, it is %s: %s", s.Event.State, s.Event.Note)
	case s.Analysed && len(s.Event.Delivered) == 0:
		return "the result went nowhere"
	case !s.Analysed && s.Event.State != call.StateSkipped:
		return fmt.Sprintf("expected to be skipped, it is %s", s.Event.State)
	}
	return ""
}

// Run posts the samples to an installation, waits until each is done with, and
// reports progress as it goes.
func Run(ctx context.Context, i *standalone.Installation, progress func(done, total int)) ([]*Step, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	now := time.Now()
	samples, err := Samples(now, now.UTC().Format("20060102T150405"))
	if err != nil {
		return nil, err
	}
	post := &sender.Sender{
		URL: i.URL + receive.Path, Secret: i.Ingest.WebhookSecret[0].Reveal(), Client: &http.Client{Timeout: 30 * time.Second},
	}
	var steps []*Step
	send := func(s *Step, post *sender.Sender, body []byte) (err error) {
		s.Answer, err = post.Send(ctx, body)
		steps = append(steps, s)
		return err
	}
	for _, sample := range samples {
		if err := send(&Step{Name: sample.Name, Want: "kept", Analysed: sample.Analysed}, post, sample.Body); err != nil {
			return nil, err
		}
	}
	if err := send(&Step{Name: "the first call, delivered again", Want: "duplicate"}, post, samples[0].Body); err != nil {
		return nil, err
	}
	forger := *post
	forger.Secret += "x"
	if err := send(&Step{Name: "a forgery: signed with another secret", Want: "rejected"}, &forger, samples[0].Body); err != nil {
		return nil, err
	}
	return steps, watch(ctx, i, steps, progress)
}

// watch polls the database until nothing is waiting any more. Steps that are
// still waiting when the time is over keep that mark.
func watch(ctx context.Context, i *standalone.Installation, steps []*Step, progress func(done, total int)) error {
	pool, err := postgres.Pool(ctx, i.DatabaseURL, "postcall demo", 2, 10*time.Second)
	if err != nil {
		return err
	}
	defer pool.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done := 0
		for _, s := range steps {
			if s.Want != "kept" || s.Answer.Verdict() != "kept" {
				done++
				continue
			}
			if s.Event, err = outcome(ctx, pool, s.Answer.EventID, i.Worker.MarkdownEnabled); err != nil {
				return err
			}
			if !s.Event.Waiting {
				done++
			}
		}
		progress(done, len(steps))
		if done == len(steps) {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil // the table says what is not finished
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func outcome(ctx context.Context, pool *pgxpool.Pool, id int64, exported bool) (Outcome, error) {
	rows, err := pool.Query(ctx, `
		select e.id, e.event_type, e.analysis_state, coalesce(e.processor_note, ''),
			coalesce(a.result ->> 'topic', ''), (a.result ->> 'quality')::int, coalesce(a.result ->> 'outcome_code', ''),
			coalesce((select array_agg(d.target || coalesce(' ' || (d.payload ->> 'path'), '') order by d.id)
				from crm_dispatches d where d.analysis_id = a.id and d.status = 'delivered'), '{}'),
			e.analysis_state in ('queued', 'running') or (a.id is not null and $2 and not exists (
				select from crm_dispatches d where d.analysis_id = a.id and d.status = 'delivered'))
		from webhook_events e
		left join lateral (select id, result from analyses where event_id = e.id order by id desc limit 1) a on true
		where e.id = $1`, id, exported)
	if err != nil {
		return Outcome{}, fmt.Errorf("reading what came of event %d: %w", id, err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Outcome])
	if err != nil {
		return Outcome{}, fmt.Errorf("reading what came of event %d: %w", id, err)
	}
	return o, nil
}

// Print writes the table of what came of each delivery and returns how many
// did not go as they should.
func Print(w io.Writer, steps []*Step) (wrong int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tDELIVERY\tANSWER\tSTATUS\tTOPIC\tQUALITY\tOUTCOME\tWHERE IT WENT")
	for _, s := range steps {
		mark := "✓"
		if s.Problem() != "" {
			mark = "✗"
			wrong++
		}
		answer := fmt.Sprintf("%d %s", s.Answer.Status, s.Answer.Verdict())
		quality := "–"
		if s.Event.Quality != nil {
			quality = fmt.Sprintf("%d/5", *s.Event.Quality)
		}
		went := strings.Join(s.Event.Delivered, ", ")
		if s.Event.State == call.StateSkipped {
			went = s.Event.Note
		}
		if s.Want == "rejected" {
			went = "nowhere: " + s.Answer.Detail
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, s.Name, answer, cmp.Or(string(s.Event.State), "–"),
			cmp.Or(clip(s.Event.Topic, 32), "–"), quality, cmp.Or(string(s.Event.Outcome), "–"), cmp.Or(went, "–"))
	}
	_ = t.Flush()
	for _, s := range steps {
		if p := s.Problem(); p != "" {
			fmt.Fprintf(w, "✗ %s: %s\n", s.Name, p)
		}
	}
	return wrong
}

// clip keeps a column narrow and free of control characters.
func clip(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return s
}
