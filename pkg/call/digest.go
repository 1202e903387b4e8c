package call

import (
	"crypto/sha256"
	"encoding/hex"
)

// Digest is how a conversation is named where its id must not stand, in logs
// above all: what is written there cannot be taken back when the call is
// erased. It is short, the same in every process, and empty for no id.
func Digest(conversationID string) string {
	if conversationID == "" {
		return ""
	}
	sum := sha256.Sum256([]byte("postcall call " + conversationID))
	return hex.EncodeToString(sum[:6])
}
