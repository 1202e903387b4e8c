// Package access says who may do what: tokens and roles.
package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"postcall/pkg/call"
)

// Role is what a token's holder may do; each role may do what those before it
// may.
type Role string

// The roles, from the least.
const (
	Viewer   Role = "viewer"   // reads
	Operator Role = "operator" // reprocesses, resends, acts on dead letters
	Admin    Role = "admin"    // everything
)

// Roles lists the roles from the least.
func Roles() []Role { return []Role{Viewer, Operator, Admin} }

// tokenPrefix lets a leaked token be recognised by scanners.
const tokenPrefix = "pcl_"

// Token is a new token and what stands for it in ADMIN_TOKENS. The token
// itself is shown once and kept nowhere.
type Token struct {
	Name  string
	Role  Role
	Plain string
}

// NewToken makes a token of 256 random bits. An unusable name or role is
// Invalid.
func NewToken(name string, role Role) (Token, error) {
	if name == "" || len(name) > 64 || strings.ContainsAny(name, ":, \t\r\n\"'") {
		return Token{}, call.Errorf(call.Invalid, "the name must be 1 to 64 characters without spaces, quotes, colons and commas")
	}
	if !slices.Contains(Roles(), role) {
		return Token{}, call.Errorf(call.Invalid, "the role must be viewer, operator or admin")
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return Token{}, fmt.Errorf("making a token: %w", err)
	}
	return Token{Name: name, Role: role, Plain: tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])}, nil
}

// Entry is the token's place in ADMIN_TOKENS: name:role:sha256 in hex. It
// holds nothing that signs in.
func (t Token) Entry() string {
	return t.Name + ":" + string(t.Role) + ":" + Hash(t.Plain)
}

// Hash is the SHA-256 of a token in hex. A token is random enough that no slow
// hash is needed.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
