package odata

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/nyaruka/phonenumbers"

	"postcall/pkg/call"
	"postcall/pkg/export"
	"postcall/pkg/export/outbound"
)

// maxHits is how many rows a search asks for. Whoever has more is not one
// contact.
const maxHits = 20

// link sets the Activity's contact if exactly one has the customer's number.
// Where BPMSoft will not search (no right to the object, no such object), the
// Activity goes without a contact and says so: a lead without a link is found,
// one that never came is not.
func (e *Exporter) link(ctx context.Context, a *activity, d export.Delivery) (outbound.Reply, error) {
	number := e.number(d)
	if number == nil {
		return outbound.Reply{}, nil
	}
	reply, err := e.do(ctx, http.MethodGet, "/ContactCommunication", url.Values{
		"$filter": {"startswith(SearchNumber," + literal(reversed(number.national)) + ")"},
		"$select": {"ContactId,SearchNumber"},
		"$top":    {strconv.Itoa(maxHits)},
	}, nil)
	// 401 and 403 after a fresh login, and 400 and 404 of a service whose login
	// works, are about this object; creating the Activity shows whether it is
	// more than that.
	switch {
	case err != nil && reply.Status != http.StatusUnauthorized && reply.Status != http.StatusForbidden:
		return reply, err
	case err == nil && reply.OK() && !reply.HTML():
		var page struct {
			Value []struct {
				ContactID    string `json:"ContactId"`
				SearchNumber string
			} `json:"value"`
		}
		if err := json.Unmarshal(reply.Body, &page); err != nil {
			return reply, call.Errorf(call.Unavailable, "BPMSoft's answer to a search is not understood")
		}
		var contacts []string
		for _, hit := range page.Value {
			id, err := uuid.Parse(hit.ContactID)
			if err == nil && id != uuid.Nil && number.is(reversed(hit.SearchNumber)) && !slices.Contains(contacts, id.String()) {
				contacts = append(contacts, id.String())
			}
		}
		if len(contacts) == 1 && len(page.Value) < maxHits {
			a.ContactID = contacts[0]
		}
		return reply, nil
	case err == nil && reply.Status != http.StatusBadRequest && reply.Status != http.StatusNotFound && reply.Status != http.StatusNotImplemented:
		_, err := failure(reply)
		return reply, err
	}
	a.Notes = "Контакт не искали: BPMSoft не дала искать по номеру (" + strconv.Itoa(reply.Status) + ")\n" + a.Notes
	return reply, nil
}

// number is a telephone number as BPMSoft may have stored it.
type number struct{ country, national string }

// number is the customer's, as the analysis has it or else the telephony; nil
// where neither tells one that can be searched for.
func (e *Exporter) number(d export.Delivery) *number {
	for _, s := range []string{line(d.Analysis.Result.Phone), d.Conversation.ExternalNumber} {
		if s == "" || len(s) > 64 {
			continue
		}
		n, err := phonenumbers.Parse(s, cmp.Or(e.o.Region, "RU"))
		if err != nil || !phonenumbers.IsPossibleNumber(n) {
			continue
		}
		return &number{strconv.Itoa(int(n.GetCountryCode())), phonenumbers.GetNationalSignificantNumber(n)}
	}
	return nil
}

// is reports whether digits are this number, in any of the ways people write
// it: with the country's code, from abroad, or with a trunk prefix (8 in
// Russia, 8 0 in Belarus). What merely ends alike is another number.
func (n *number) is(digits string) bool {
	before, ok := strings.CutSuffix(digits, n.national)
	return ok && slices.Contains([]string{"", n.country, "00" + n.country, "810" + n.country, "8", "80", "0"}, before)
}

// reversed gives the digits of s from the last to the first, which is how
// SearchNumber holds them.
func reversed(s string) string {
	var b []byte
	for i := len(s) - 1; i >= 0; i-- {
		if '0' <= s[i] && s[i] <= '9' {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// literal writes a text into an OData expression, in which a quote is doubled.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
