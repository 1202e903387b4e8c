package outbound

import (
	"strconv"
	"strings"

	"github.com/google/uuid"

	"postcall/pkg/export"
)

// namespace is Postcall's own: a UUIDv5 of anything else never meets ours.
// Changing it makes every record that was ever sent a new one.
var namespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://postcall.invalid/export"))

// ID is a UUIDv5 of parts, the same each time.
func ID(parts ...string) string {
	var name strings.Builder
	for _, p := range parts { // with lengths, so that no two lists give one name
		name.WriteString(strconv.Itoa(len(p)) + ":" + p + "\n")
	}
	return uuid.NewSHA1(namespace, []byte(name.String())).String()
}

// CallKey names the call of a delivery, the same for all of its events and
// analyses and in every database: its conversation, or its event where the
// sender told no conversation.
func CallKey(d export.Delivery) []string {
	if d.Event.ConversationID != "" {
		return []string{"call", d.Event.AgentID, d.Event.ConversationID}
	}
	return []string{"event", d.Event.DedupKey}
}
