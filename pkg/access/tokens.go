package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"strings"

	"postcall/pkg/call"
)

// Identity is who is asking, by the token that was shown.
type Identity struct {
	Name string
	Role Role
}

// May reports whether the role may do what least may do. An unknown role may
// nothing, and nobody may what an unknown one may.
func (r Role) May(least Role) bool {
	have, need := slices.Index(Roles(), r), slices.Index(Roles(), least)
	return need >= 0 && have >= need
}

// Tokens are those that are known, as hashes. The zero value knows none, so
// that nobody is let in.
type Tokens struct{ list []entry }

type entry struct {
	Identity
	hash [sha256.Size]byte
}

// ParseTokens reads entries of ADMIN_TOKENS: name:role:sha256 in hex. A name may
// stand there several times, so that its token can be replaced without a gap.
// The error is Invalid and names the entry by its position.
func ParseTokens(entries []string) (Tokens, error) {
	var t Tokens
	for n, text := range entries {
		parts := strings.Split(strings.TrimSpace(text), ":")
		if len(parts) != 3 || parts[0] == "" {
			return Tokens{}, call.Errorf(call.Invalid, "entry %d is not name:role:sha256; `postcall token new` prints one", n+1)
		}
		e := entry{Identity: Identity{Name: parts[0], Role: Role(parts[1])}}
		if !slices.Contains(Roles(), e.Role) {
			return Tokens{}, call.Errorf(call.Invalid, "the role of entry %d is none of viewer, operator, admin", n+1)
		}
		hash, err := hex.DecodeString(parts[2])
		if err != nil || len(hash) != len(e.hash) {
			return Tokens{}, call.Errorf(call.Invalid, "the hash of entry %d is not 64 hexadecimal digits: put the entry there, not the token", n+1)
		}
		copy(e.hash[:], hash)
		t.list = append(t.list, e)
	}
	return t, nil
}

// Find says whose token this is. It takes the same time for each that is
// wrong, whatever it has in common with a right one.
func (t Tokens) Find(token string) (Identity, bool) {
	sum := sha256.Sum256([]byte(token))
	var found Identity
	ok := 0
	for _, e := range t.list {
		if equal := subtle.ConstantTimeCompare(sum[:], e.hash[:]); equal == 1 {
			found, ok = e.Identity, 1
		}
	}
	return found, ok == 1
}
