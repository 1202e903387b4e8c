package web

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"postcall/pkg/archive"
)

// agentsFor is how long names of agents are kept.
const agentsFor = 15 * time.Second

// agents knows the names that ElevenLabs gives its agents. Failure policy:
// open; an agent whose name cannot be read is shown by its id.
type agents struct {
	mu    sync.Mutex
	names map[string]string
	until time.Time
}

// refresh reads the names again once they are old.
func (d *Dashboard) refresh(ctx context.Context) {
	a := &d.agents
	a.mu.Lock()
	due := time.Now().After(a.until)
	if due { // whoever comes meanwhile makes do with what is known
		a.until = time.Now().Add(agentsFor)
	}
	a.mu.Unlock()
	if !due {
		return
	}
	names, err := archive.AgentNames(ctx, d.API.Pool)
	if err != nil {
		d.Log.Warn("looking for the names of agents", zap.Error(err))
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names = names
}

// name is an agent's, or its id.
func (a *agents) name(id any) string {
	text := deref(id)
	a.mu.Lock()
	defer a.mu.Unlock()
	return cmp.Or(a.names[text], text)
}

// known are the ids of the agents with a name, in the order of the names.
func (a *agents) known() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, 0, len(a.names))
	for id := range a.names {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(x, y string) int { return cmp.Or(cmp.Compare(a.names[x], a.names[y]), cmp.Compare(x, y)) })
	return ids
}
