package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/postgres"
	"postcall/pkg/queue"
)

// check is one part of the installation: how it stands and, unless it is ok,
// what to do about it.
type check struct {
	Name   string `json:"name"`
	State  state  `json:"state"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

type state string

const (
	ok   state = "ok"
	warn state = "warn"
	fail state = "fail"
)

// Backlog is what waits outside the database.
type Backlog interface {
	// Waiting is how many deliveries wait, and for how long the oldest has.
	Waiting() (entries int64, oldest time.Duration)
}

// health tells how the parts stand that a person may have to act on: 200, or
// 503 when one of them fails. It holds no secret and nothing of a call.
func (a *API) health(c echo.Context) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), answerTime)
	defer cancel()
	checks := append(a.database(ctx), a.spool())
	worst := ok
	for _, one := range checks {
		if one.State == fail || one.State == warn && worst == ok {
			worst = one.State
		}
	}
	status := http.StatusOK
	if worst == fail {
		status = http.StatusServiceUnavailable
	}
	return c.JSON(status, map[string]any{"status": worst, "checks": checks})
}

func (a *API) spool() check {
	entries, oldest := a.Backlog.Waiting()
	if entries == 0 {
		return check{Name: "spool", State: ok, Text: "nothing waits on the disk"}
	}
	return check{
		Name: "spool", State: warn, Text: fmt.Sprintf("%d deliveries wait on the disk, the oldest for %s", entries, oldest.Round(time.Second)),
		Advice: "They are stored by themselves once the database takes them.",
	}
}

// database looks at the database and at what stands in it.
func (a *API) database(ctx context.Context) []check {
	began := time.Now()
	if err := a.Pool.Ping(ctx); err != nil {
		return []check{{Name: "database", State: fail, Text: "it does not answer", Advice: "Deliveries are kept in the spool meanwhile. Look at PostgreSQL and DATABASE_URL."}}
	}
	list := []check{{Name: "database", State: ok, Text: fmt.Sprintf("it answers within %s", time.Since(began).Round(10*time.Microsecond))}}
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
	targets, err := postgres.TargetStates(ctx, a.Pool)
	if err != nil {
		return append(list, unread("targets"))
	}
	for _, t := range targets {
		name := "target " + string(t.Target)
		reason := ""
		if t.LastError != nil {
			reason = ": " + *t.LastError
		}
		switch {
		case t.OpenUntil != nil:
			list = append(list, check{
				Name: name, State: fail, Text: fmt.Sprintf("nothing is sent until %s, after %d failures in a row%s", t.OpenUntil.UTC().Format(time.RFC3339), t.Failures, reason),
				Advice: "Look at the target; for BPMSoft: postcall crm check. What waits is sent by itself afterwards.",
			})
		case t.Failures > 0:
			list = append(list, check{Name: name, State: warn, Text: fmt.Sprintf("%d failures in a row%s", t.Failures, reason), Advice: "It is tried again by itself."})
		default:
			list = append(list, check{Name: name, State: ok, Text: "it takes what it is sent"})
		}
	}
	return list
}
