package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"postcall/pkg/backfill"
)

// imports tells how many calls there are upstream, here and imported, by the
// day, and how the newest imports went.
func (a *API) imports(c echo.Context) error {
	status, err := a.Imports(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, status)
}

// Imports is imports for pages.
func (a *API) Imports(ctx context.Context) (backfill.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	status, err := backfill.StatusOf(ctx, a.Pool)
	return status, unavailable(err)
}

// importSilence is for how long an import that ran on schedule may not have.
const importSilence = 26 * time.Hour

// imported tells whether calls that never came are fetched.
func (a *API) imported(ctx context.Context) check {
	status, err := backfill.StatusOf(ctx, a.Pool)
	if err != nil {
		return check{Name: "import", State: fail, Text: "it could not be read", Advice: "Is the schema up to date? postcall migrate status"}
	}
	var last *backfill.Run
	for i, r := range status.Runs {
		if r.Trigger == backfill.BySchedule && r.EndedAt != nil {
			last = &status.Runs[i]
			break
		}
	}
	if last == nil {
		return check{Name: "import", State: ok, Text: "calls are not looked for at ElevenLabs: the workers have no ELEVENLABS_API_KEY"}
	}
	one := check{
		Name: "import", State: ok, Text: fmt.Sprintf("%d calls at ElevenLabs at %s, %d of them fetched then", last.Upstream, last.EndedAt.UTC().Format(time.RFC3339), last.Imported+last.Completed),
		Figures: map[string]any{"upstream": last.Upstream, "imported": last.Imported, "completed": last.Completed, "failed": last.Failed, "ended_at": last.EndedAt.UTC()},
	}
	switch {
	case last.Error != "":
		one.State, one.Text, one.Advice = warn, "it ended early: "+last.Error, "postcall doctor says what is wrong. Calls whose webhook fails are missing meanwhile."
	case last.Failed > 0:
		one.State, one.Advice = warn, fmt.Sprintf("%d calls could not be fetched: the worker's log says why.", last.Failed)
	case time.Since(*last.EndedAt) > importSilence:
		one.State, one.Advice = warn, "It has not run for more than a day: are the workers up, and have they ELEVENLABS_API_KEY?"
	}
	return one
}
