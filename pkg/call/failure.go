package call

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// Failure is why an analysis was given up, as it stays on the event: for
// people to read (Message) and to count by (Code, then Fingerprint).
type Failure struct {
	Code        Code
	Fingerprint string // 12 hexadecimal digits, the same for failures of one kind
	Message     string
}

// FailureOf describes an error.
func FailureOf(err error) Failure { return NewFailure(CodeOf(err), err.Error()) }

// NewFailure describes a failure of which only the class and the text are
// known.
func NewFailure(code Code, message string) Failure {
	sum := sha256.Sum256([]byte(string(code) + "\n" + kind(message)))
	return Failure{Code: code, Fingerprint: hex.EncodeToString(sum[:6]), Message: message}
}

var (
	quoted   = regexp.MustCompile("\"[^\"]*\"|'[^']*'|`[^`]*`|«[^»]*»")
	numbered = regexp.MustCompile(`[\p{L}\p{N}_.:%/-]*\p{N}[\p{L}\p{N}_.:%/-]*`)
	status   = regexp.MustCompile(`^[1-5]\d\d$`)
)

// kind is what a message has in common with others of its kind: no ids,
// numbers, durations or quoted words; an HTTP status stays.
func kind(message string) string {
	s := quoted.ReplaceAllString(strings.ToLower(message), "*")
	s = numbered.ReplaceAllStringFunc(s, func(word string) string {
		bare := strings.TrimRight(word, ".:")
		if status.MatchString(bare) {
			return bare
		}
		return "#"
	})
	return strings.Join(strings.Fields(s), " ")
}
