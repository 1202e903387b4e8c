package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"postcall/pkg/call"
)

// The archive that is made: two years of calls up to now, more of them by day
// than by night; a few busy agents, many small ones and one that was given up;
// words as often as words are in speech.
const (
	span    = 730 * 24 * time.Hour
	agents  = 12
	words   = 30_000
	spoken  = 90 // words a call
	waiting = 1000
)

// fill makes the archive, but for what the triggers and the migration make of
// it: that is done by the migration's own statement.
func fill(ctx context.Context, pool *pgxpool.Pool, events int, progress func(string)) error {
	progress(fmt.Sprintf("copying %d events and their analyses", events))
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to fill a database: %w", err)
	}
	defer conn.Release()
	// The rows of calls are made for all at once, below.
	for _, statement := range []string{`set synchronous_commit = off`, `set session_replication_role = replica`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("filling a database: %w", err)
		}
	}
	m := newMaker(events)
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"webhook_events"}, []string{
		"id", "event_type", "event_timestamp", "agent_id", "conversation_id", "status", "has_audio", "payload", "dedup_key",
		"request_id", "analysis_state", "processed", "received_at", "last_delivered_at",
	}, pgx.CopyFromSlice(events, m.event))
	if err != nil {
		return fmt.Errorf("filling a database: %w", err)
	}
	m = newMaker(events)
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"analyses"}, []string{"event_id", "model", "analyzer", "trigger", "cost_usd", "result", "created_at"},
		pgx.CopyFromSlice(events, m.analysis))
	if err != nil {
		return fmt.Errorf("filling a database: %w", err)
	}
	for _, statement := range []string{
		`delete from analyses where result = '{}'`, // as many as events that have none
		`select setval('webhook_events_id_seq', (select max(id) from webhook_events))`,
		`alter table calls drop constraint calls_pkey`, `drop index calls_at`, `drop index calls_facets`,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("filling a database: %w", err)
		}
	}
	progress("making the rows of calls")
	g, parallel := errgroup.WithContext(ctx)
	const parts = 8
	g.SetLimit(2)
	for part := range parts {
		from, to := events*part/parts, events*(part+1)/parts
		g.Go(func() error {
			_, err := pool.Exec(parallel, `
				insert into calls (event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
					cost_usd, duration_s, failure_reason, facets, said)
				select event_id, at, state, event_type, agent_id, analysis_id, quality, outcome_code, sentiment, topic,
					cost_usd, duration_s, failure_reason, facets, said
				from call_rows where event_id > $1 and event_id <= $2 and state not in ('queued', 'running')`, from, to)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("making the rows of calls: %w", err)
	}
	progress("building the indexes")
	for _, statement := range []string{
		`set maintenance_work_mem = '512MB'`,
		`alter table calls add primary key (event_id)`, `create index calls_at on calls (at, event_id)`,
		`create index calls_facets on calls using gin (facets, said) with (fastupdate = on, gin_pending_list_limit = 1024)`,
		`truncate call_days_changed`,
		`insert into call_days (fact, agent, value, day, events, amount)
			select fact, agent, value, day, events, amount from call_facts('-infinity', date_trunc('day', now(), 'UTC'))`,
		`insert into call_days_added select distinct day from call_days`,
		`vacuum (analyze) call_days`, `vacuum (analyze) webhook_events`, `vacuum (analyze) analyses`, `vacuum (analyze) calls`, `checkpoint`,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("filling a database: %w", err)
		}
	}
	return nil
}

// maker makes rows, the same ones each time.
type maker struct {
	events     int
	chance     *rand.Rand
	vocabulary []string
	end        time.Time
}

func newMaker(events int) *maker {
	m := &maker{events: events, chance: rand.New(rand.NewPCG(1, 9)), end: time.Now()} //nolint:gosec // the same calls each time
	letters := []rune("оеаинтсрвлкмдпуяыьгзбчйхжшюцщэф")
	for range words {
		word := make([]rune, 3+m.chance.IntN(8))
		for i := range word {
			word[i] = letters[int(float64(len(letters))*math.Pow(m.chance.Float64(), 1.5))]
		}
		m.vocabulary = append(m.vocabulary, string(word))
	}
	copy(m.vocabulary, topicWords)
	return m
}

// word gives words as often as their rank in speech (Zipf).
func (m *maker) word() string {
	rank := math.Exp(m.chance.Float64()*math.Log(words+1)) - 1
	return m.vocabulary[min(int(rank), words-1)]
}

var (
	topicWords = strings.Fields("квартира ипотека рассрочка парковка планировка метро отделка скидка просмотр договор")
	intents    = []string{"узнать цену", "записаться на просмотр", "получить планировки", "пожаловаться на отделку", "сравнить условия ипотеки"}
	outcomes   = []string{"договорились о звонке", "клиент отказался", "отправлены планировки", "назначен просмотр", "переведён на менеджера"}
	names      = strings.Fields("Ольга Пётр Мария Иван Светлана Алексей Наталья Дмитрий Елена Сергей")
	surnames   = strings.Fields("Петрова Иванов Смирнова Кузнецов Попова Соколов Лебедева Козлов Новикова Морозов")
)

// facts are what both of an event's rows go by.
type facts struct {
	id    int
	at    time.Time
	kind  call.EventType
	agent string
	state call.State
	phone string
}

func (m *maker) facts(i int) facts {
	seed := rand.New(rand.NewPCG(uint64(i), 3)) //nolint:gosec // the same calls each time
	f := facts{id: i + 1, kind: call.TypeTranscription, state: call.StateDone}
	f.at = m.end.Add(-span).Add(time.Duration(float64(span) * float64(i+1) / float64(m.events))).Truncate(time.Second)
	f.agent = fmt.Sprintf("agent_%02d", int(agents*math.Pow(seed.Float64(), 2)))
	if i < m.events/3 && seed.IntN(3) == 0 {
		f.agent = "agent_given_up" // a ninth of all, none of the last year
	}
	f.phone = fmt.Sprintf("+7999%07d", seed.IntN(200_000))
	switch n := seed.IntN(100); {
	case n < 5:
		f.kind, f.state = call.TypeInitiationFailure, call.StateSkipped
	case n < 10:
		f.state = call.StateSkipped
	case seed.IntN(2000) == 0:
		f.state = call.StateDead
	}
	if i >= m.events-waiting {
		f.kind, f.state = call.TypeTranscription, call.StateQueued
	}
	return f
}

func (m *maker) event(i int) ([]any, error) {
	f := m.facts(i)
	conversation := fmt.Sprintf("conv_%032x", uint64(i)*0x9e3779b97f4a7c15)
	data := map[string]any{"agent_id": f.agent, "conversation_id": conversation, "status": "done"}
	if f.kind == call.TypeInitiationFailure {
		data["failure_reason"] = []string{"busy", "no-answer", "unknown"}[i%3]
		data["metadata"] = map[string]any{"type": "twilio", "body": map[string]any{"To": f.phone}}
	} else {
		var turns []map[string]any
		var said []string
		for n := range spoken {
			if said = append(said, m.word()); len(said) == 9 {
				turns = append(turns, map[string]any{"role": []string{"agent", "user"}[n%2], "message": strings.Join(said, " "), "time_in_call_secs": n})
				said = nil
			}
		}
		data["transcript"] = turns
		data["metadata"] = map[string]any{"call_duration_secs": 20 + i%200, "phone_call": map[string]any{"external_number": f.phone}}
	}
	payload, err := json.Marshal(map[string]any{"type": f.kind, "event_timestamp": f.at.Unix(), "data": data})
	return []any{
		int64(f.id), string(f.kind), f.at.Unix(), f.agent, conversation, "done", i%20 != 0, payload, "made:" + conversation,
		fmt.Sprintf("made-%d", i), string(f.state), f.state != call.StateQueued, f.at, f.at,
	}, err
}

func (m *maker) analysis(i int) ([]any, error) {
	f := m.facts(i)
	if f.state != call.StateDone {
		return []any{int64(f.id), nil, nil, nil, nil, []byte(`{}`), f.at}, nil
	}
	c := m.chance
	r := call.Result{
		Topic:       new(topicWords[c.IntN(len(topicWords))] + " " + m.vocabulary[c.IntN(2000)]),
		Intent:      new(intents[c.IntN(len(intents))]),
		Outcome:     new(outcomes[c.IntN(len(outcomes))]),
		Quality:     new(1 + int(5*math.Sqrt(c.Float64()))),
		OutcomeCode: call.OutcomeCodes()[int(9*math.Pow(c.Float64(), 2))],
		Sentiment:   new(call.Sentiments()[c.IntN(4)]),
		SummaryRU:   "Клиент спросил про " + m.word() + " и " + m.word() + ".",
		ClientName:  new(names[c.IntN(len(names))] + " " + surnames[c.IntN(len(surnames))]),
		Phone:       &f.phone,
	}
	// Two things that never come together, though each is common.
	if *r.Sentiment == call.SentimentNegative {
		r.OutcomeCode = call.OutcomeComplaint
	} else if r.OutcomeCode == call.OutcomeComplaint {
		r.OutcomeCode = call.OutcomeLead
	}
	result, err := json.Marshal(r)
	return []any{int64(f.id), "gpt-made", "openai", "auto", 0.002, result, f.at.Add(time.Minute)}, err
}
