package archive

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// agentSample is how many of the newest calls are looked through for agents.
const agentSample = 2000

// AgentNames are the names of the agents of the newest calls by their ids, as
// the newest conversation of each gives it; agents without one are left out.
func AgentNames(ctx context.Context, pool *pgxpool.Pool) (map[string]string, error) {
	names := map[string]string{}
	err := reading(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			with newest as materialized (
				select agent_id, event_type, event_id, at from calls order by at desc, event_id desc limit $1),
			each as materialized (
				select distinct on (agent_id) agent_id, event_id from newest
				where event_type = 'post_call_transcription' and agent_id <> ''
				order by agent_id, at desc, event_id desc limit $2)
			select each.agent_id, name
			from each join webhook_events e on e.id = each.event_id
				cross join lateral (select left(btrim(e.payload #>> '{data,agent_name}'), 120) as name) n
			where name <> ''`, agentSample, MaxAgents)
		if err != nil {
			return failed("looking for agents", err)
		}
		var id, name string
		_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
			names[id] = name
			return nil
		})
		return failed("looking for agents", err)
	})
	return names, err
}
