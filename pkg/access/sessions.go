package access

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"postcall/pkg/call"
)

// SessionTime is how long a session lasts; LinkTime how long a sign-in link
// may wait to be used.
const (
	SessionTime = 12 * time.Hour
	LinkTime    = 15 * time.Minute
)

// MinSessionKey is the least length of a session key, in bytes.
const MinSessionKey = 32

// Spent remembers what may not be used again, for all processes.
type Spent interface {
	// Spend marks an id as used until a time. It reports false where it was
	// marked before.
	Spend(ctx context.Context, id []byte, until time.Time) (first bool, err error)
	// IsSpent reports whether an id has been marked.
	IsSpent(ctx context.Context, id []byte) (bool, error)
}

// Session is a signed-in person.
type Session struct {
	Identity
	Expires time.Time

	id   [idSize]byte
	hash [hashSize]byte
}

// Sessions makes and reads the cookies' values and sign-in links. They are
// signed, expire, and name the token that they were made for: a token that is
// taken out of ADMIN_TOKENS ends its sessions, one whose role changes changes
// theirs.
type Sessions struct {
	// Now is the clock, time.Now unless a test replaces it before the first use.
	Now func() time.Time

	keys   [][]byte
	tokens Tokens
	spent  Spent
}

// NewSessions signs with the first key and takes all of them, so that a key
// can be replaced without ending sessions. Without a key it makes one that
// lasts as long as the process. A short key is Invalid.
func NewSessions(keys []string, tokens Tokens, spent Spent) (*Sessions, error) {
	s := &Sessions{Now: time.Now, tokens: tokens, spent: spent}
	for n, key := range keys {
		if len(key) < MinSessionKey {
			return nil, call.Errorf(call.Invalid, "session key %d has %d characters, %d are needed", n+1, len(key), MinSessionKey)
		}
		s.keys = append(s.keys, []byte(key))
	}
	if len(s.keys) == 0 {
		key := make([]byte, MinSessionKey)
		if _, err := rand.Read(key); err != nil {
			return nil, fmt.Errorf("making a session key: %w", err)
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// Start begins a session for the holder of a token and gives the cookie's
// value. A wrong token is Unauthorized.
func (s *Sessions) Start(token string) (value string, session Session, err error) {
	who, ok := s.tokens.Find(token)
	if !ok {
		return "", Session{}, call.Errorf(call.Unauthorized, "This is not a token that is known here.")
	}
	return s.begin(who, shortHash(sha256.Sum256([]byte(token))))
}

func (s *Sessions) begin(who Identity, hash [hashSize]byte) (string, Session, error) {
	session := Session{Identity: who, Expires: s.Now().Add(SessionTime).Truncate(time.Second), hash: hash}
	value, err := s.seal(sealSession, &session)
	return value, session, err
}

// Read gives the session of a cookie's value. The error is Unauthorized:
// ErrForged for what was never signed here, ErrEnded for what was and is over;
// or it says that the database does not answer.
func (s *Sessions) Read(ctx context.Context, value string) (Session, error) {
	session, err := s.open(sealSession, value)
	if err != nil {
		return Session{}, err
	}
	over, err := s.spent.IsSpent(ctx, session.id[:])
	if err != nil {
		return Session{}, err
	}
	if over {
		return Session{}, ErrEnded
	}
	return session, nil
}

// End signs a session out, in every process.
func (s *Sessions) End(ctx context.Context, session Session) error {
	_, err := s.spent.Spend(ctx, session.id[:], session.Expires)
	return err
}

// Link makes the code of a sign-in link for the holder of a token. It signs in
// once, within LinkTime.
func (s *Sessions) Link(token string) (code string, err error) {
	who, ok := s.tokens.Find(token)
	if !ok {
		return "", call.Errorf(call.Unauthorized, "This is not a token that is known here.")
	}
	return s.seal(sealLink, &Session{
		Identity: who, Expires: s.Now().Add(LinkTime), hash: shortHash(sha256.Sum256([]byte(token))),
	})
}

// Redeem begins a session by a sign-in link's code, once. The error is as of
// Read.
func (s *Sessions) Redeem(ctx context.Context, code string) (value string, session Session, err error) {
	link, err := s.open(sealLink, code)
	if err != nil {
		return "", Session{}, err
	}
	first, err := s.spent.Spend(ctx, link.id[:], link.Expires)
	if err != nil {
		return "", Session{}, err
	}
	if !first {
		return "", Session{}, ErrEnded
	}
	return s.begin(link.Identity, link.hash)
}

// The errors of what is no session.
var (
	ErrForged = call.Errorf(call.Unauthorized, "This is no session of this installation. Sign in.")
	ErrEnded  = call.Errorf(call.Unauthorized, "The session or the sign-in link is over. Sign in again.")
)

// A sealed value is base64 of: what it is (1 byte), a random id, the end in
// unix seconds (8 bytes), the beginning of the token's hash, and the HMAC of
// all that.
type sealed byte

const (
	sealSession sealed = 's'
	sealLink    sealed = 'l'

	idSize   = 16
	hashSize = 16
	bodySize = 1 + idSize + 8 + hashSize
)

func (s *Sessions) seal(kind sealed, session *Session) (string, error) {
	if _, err := rand.Read(session.id[:]); err != nil {
		return "", fmt.Errorf("beginning a session: %w", err)
	}
	b := make([]byte, 0, bodySize+sha256.Size)
	b = append(b, byte(kind))
	b = append(b, session.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(session.Expires.Unix()))
	b = append(b, session.hash[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, mac(s.keys[0], b)...)), nil
}

func (s *Sessions) open(kind sealed, value string) (Session, error) {
	b, err := base64.RawURLEncoding.DecodeString(value)
	// The decoder passes over line ends; one session has one spelling.
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != value || len(b) != bodySize+sha256.Size || b[0] != byte(kind) || !s.signed(b[:bodySize], b[bodySize:]) {
		return Session{}, ErrForged
	}
	var session Session
	r := bytes.NewBuffer(b[1:bodySize])
	copy(session.id[:], r.Next(idSize))
	session.Expires = time.Unix(int64(binary.BigEndian.Uint64(r.Next(8))), 0)
	copy(session.hash[:], r.Next(hashSize))
	who, known := s.tokens.holder(session.hash)
	if !known || !s.Now().Before(session.Expires) {
		return Session{}, ErrEnded
	}
	session.Identity = who
	return session, nil
}

func (s *Sessions) signed(body, sum []byte) bool {
	for _, key := range s.keys {
		if hmac.Equal(sum, mac(key, body)) {
			return true
		}
	}
	return false
}

func mac(key, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("postcall session v1\n"))
	h.Write(body)
	return h.Sum(nil)
}

// shortHash is enough of a token's hash to tell tokens apart: 128 bits.
func shortHash(sum [sha256.Size]byte) (short [hashSize]byte) {
	copy(short[:], sum[:])
	return short
}

// holder says whose token has a hash that begins so.
func (t Tokens) holder(short [hashSize]byte) (who Identity, ok bool) {
	for _, e := range t.list {
		if subtle.ConstantTimeCompare(short[:], e.hash[:hashSize]) == 1 {
			who, ok = e.Identity, true
		}
	}
	return who, ok
}
