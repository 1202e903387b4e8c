package archive

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"time"

	"postcall/pkg/call"
)

// Cursor says where a page ended. It is opaque, and good only for lists with
// the filter and the order that it came from.
type Cursor string

// position is what a cursor holds: the last row's place in the order, and what
// was found out for the first page.
type position struct {
	List    string `json:"l"` // which list: see Query.fingerprint
	At      int64  `json:"a"` // microseconds since 1970
	ID      int64  `json:"i"`
	Quality int    `json:"q,omitempty"` // in orders by quality
	Count   int64  `json:"n"`
	Exact   bool   `json:"x,omitempty"`
}

// maxCursor bounds what is decoded; ours are shorter.
const maxCursor = 512

func (p position) cursor() Cursor {
	b, err := json.Marshal(p)
	if err != nil {
		panic("archive: numbers cannot be encoded: " + err.Error())
	}
	return Cursor(base64.RawURLEncoding.EncodeToString(b))
}

// position reads the cursor; nil if there is none.
func (q *Query) position() (*position, error) {
	if q.After == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	wrong := call.Errorf(call.Invalid, "cursor is none of ours: take it as it stands in next_cursor")
	if len(q.After) > maxCursor {
		return nil, wrong
	}
	b, err := base64.RawURLEncoding.DecodeString(string(q.After))
	if err != nil {
		return nil, wrong
	}
	var p position
	if err := json.Unmarshal(b, &p); err != nil || p.ID < 0 || p.Quality < 0 || p.Quality > 5 ||
		p.Count < 0 || p.At < 0 || p.At > maxMicros || (p.Quality > 0) != q.Sort.byQuality() {
		return nil, wrong
	}
	if p.List != q.fingerprint() {
		return nil, call.Errorf(call.Invalid, "cursor belongs to a list with another filter or sort: leave it out to begin this one")
	}
	return &p, nil
}

// maxMicros is the year 9999, beyond which PostgreSQL's and Go's texts part.
const maxMicros = 253402300800 * 1e6

func (p position) key() key { return key{ID: p.ID, At: time.UnixMicro(p.At).UTC()} }

// fingerprint tells lists apart by what is in them and in which order.
func (q *Query) fingerprint() string {
	b, err := json.Marshal(struct {
		Filter Filter
		Sort   Sort
	}{q.Filter, q.Sort})
	if err != nil {
		panic("archive: a filter cannot be encoded: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
