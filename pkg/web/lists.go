package web

import (
	"context"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"postcall/pkg/access"
	"postcall/pkg/admin"
	"postcall/pkg/archive"
	"postcall/pkg/backfill"
	"postcall/pkg/call"
	"postcall/pkg/postgres"
)

func newestEvent(ctx context.Context, pool *pgxpool.Pool) (int64, error) {
	return postgres.NewestEvent(ctx, pool, answerTime)
}

func (d *Dashboard) deadLetters(c echo.Context) error {
	ctx, cancel := bounded(c)
	defer cancel()
	groups, total, err := d.API.DeadLetters(ctx)
	if err != nil {
		return err
	}
	newest, err := archive.List(ctx, d.API.Pool, archive.Query{Filter: archive.Filter{States: []call.State{call.StateDead}}, Limit: listSize})
	if err != nil {
		return err
	}
	if d.API.Masked(c) {
		for i := range groups {
			groups[i].Mask()
		}
		for i := range newest.Items {
			newest.Items[i].Mask()
		}
	}
	return d.render(c, http.StatusOK, "dead.html", d.page(c, "dead.title", "dead", struct {
		Groups   []admin.DeadGroup
		Analyses bool // there are analyses among them
		Total    int64
		Newest   []archive.Item
	}{groups, slices.ContainsFunc(groups, func(g admin.DeadGroup) bool { return g.Target == "" }), total, newest.Items}))
}

// reasonCount is how often a reason stands among the newest refusals.
type reasonCount struct {
	Reason string
	Count  int
}

func (d *Dashboard) rejections(c echo.Context) error {
	ctx, cancel := bounded(c)
	defer cancel()
	list, err := postgres.RecentRejections(ctx, d.API.Pool, archive.MaxLimit)
	if err != nil {
		return err
	}
	var reasons []reasonCount
	index := map[string]int{}
	for _, r := range list {
		i, ok := index[r.Reason]
		if !ok {
			i = len(reasons)
			index[r.Reason] = i
			reasons = append(reasons, reasonCount{Reason: r.Reason})
		}
		reasons[i].Count++
	}
	return d.render(c, http.StatusOK, "rejections.html", d.page(c, "rejections.title", "rejections", struct {
		Items   []postgres.Rejection
		Reasons []reasonCount
	}{list, reasons}))
}

func (d *Dashboard) audit(c echo.Context) error {
	names := []string{"actor", "action", "outcome", "dateFrom", "dateTo", "cursor"}
	all := values(c, names...)
	if len(all) != len(c.QueryParams()) {
		return c.Redirect(http.StatusSeeOther, with("/audit", all, "", ""))
	}
	result, err := d.API.AuditEntries(c.Request().Context(), all)
	if err != nil {
		return err
	}
	next := ""
	if result.NextCursor != nil {
		next = with("/audit", all, "cursor", *result.NextCursor)
	}
	return d.render(c, http.StatusOK, "audit.html", d.page(c, "audit.title", "audit", struct {
		Entries  []access.Entry
		Outcomes []access.Outcome
		Actor    string
		Action   string
		Outcome  string
		From, To string
		Next     string
	}{result.Entries, access.Outcomes(), all.Get("actor"), all.Get("action"), all.Get("outcome"), all.Get("dateFrom"), all.Get("dateTo"), next}))
}

// system shows how every part of the installation stands, and what to do where
// one does not.
func (d *Dashboard) system(c echo.Context) error {
	ctx := c.Request().Context()
	view := struct {
		admin.Health
		Days []backfill.Day // the newest first
	}{Health: d.API.Health(ctx)}
	// Without a database there is nothing to be told of imports, and Health says so.
	if imports, err := d.API.Imports(ctx); err == nil {
		view.Days = imports.Days
		slices.Reverse(view.Days)
	} else if call.CodeOf(err) != call.Unavailable {
		return err
	}
	return d.render(c, http.StatusOK, "system.html", d.page(c, "system.title", "system", view))
}
