// Command ingest takes ElevenLabs' post-call webhooks: it verifies each
// delivery and commits the event and its job in one transaction.
package main

import (
	"os"

	"postcall/pkg/app"
)

func main() { os.Exit(app.IngestMain()) }
