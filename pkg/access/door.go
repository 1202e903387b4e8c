package access

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"postcall/pkg/call"
)

// Cookie is the name of the session's cookie.
const Cookie = "postcall_session"

// Door tells who is asking: by a token (Authorization: Bearer) or, for people
// with a browser, by a session's cookie.
type Door struct {
	Tokens   Tokens
	Sessions *Sessions
	// Secure reports whether the sender's connection is https, so that cookies
	// must never leave by another.
	Secure func(r *http.Request) bool

	origins http.CrossOriginProtection
}

// Visitor is who is asking, and by what.
type Visitor struct {
	Identity
	// Session is nil for who showed a token.
	Session *Session
}

// Identify says who is asking. A request that shows a token is judged by it
// alone. One with a cookie must not come from another site's page if it changes
// something: Forbidden. Otherwise the error is Unauthorized, or Unavailable
// where a session cannot be looked at without the database.
func (d *Door) Identify(r *http.Request) (Visitor, error) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		who, ok := d.Tokens.Find(strings.TrimSpace(token))
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return Visitor{}, errNoToken
		}
		return Visitor{Identity: who}, nil
	}
	cookie, err := r.Cookie(Cookie)
	if err != nil {
		return Visitor{}, errNoToken
	}
	session, err := d.Sessions.Read(r.Context(), cookie.Value)
	if err != nil {
		return Visitor{}, err
	}
	v := Visitor{Identity: session.Identity, Session: &session}
	return v, d.SameSite(r)
}

var errNoToken = call.Errorf(call.Unauthorized, "Send a token: Authorization: Bearer pcl_…; `postcall token new` makes one.")

// SameSite is Forbidden for a request that changes something and that a
// browser sends for another site's page.
func (d *Door) SameSite(r *http.Request) error {
	if err := d.origins.Check(r); err != nil {
		return call.Errorf(call.Forbidden, "This was sent by another site's page: %w", err)
	}
	return nil
}

// Guessed reports whether an error of Identify is that of somebody who tries,
// not of somebody whose session has ended.
func Guessed(err error) bool {
	return call.CodeOf(err) == call.Unauthorized && !errors.Is(err, ErrEnded)
}

// SetCookie gives the browser a session.
func (d *Door) SetCookie(w http.ResponseWriter, r *http.Request, value string, session Session) {
	d.cookie(w, r, value, session.Expires)
}

// ClearCookie takes it away.
func (d *Door) ClearCookie(w http.ResponseWriter, r *http.Request) {
	d.cookie(w, r, "", time.Unix(0, 0))
}

func (d *Door) cookie(w http.ResponseWriter, r *http.Request, value string, expires time.Time) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure wherever the connection is
		Name: Cookie, Value: value, Path: "/", Expires: expires,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: d.Secure(r),
	})
}
