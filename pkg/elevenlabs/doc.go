// Package elevenlabs speaks ElevenLabs' wire: it verifies the signature of a
// post-call webhook (Verifier), reads a delivery into an event without ever
// refusing one (Parse), and reads what was said out of a stored payload
// (Conversation, Failure).
//
// The wire is documented on the pages "Post-call webhooks" and "OpenTelemetry
// traces" of https://elevenlabs.io/docs. Real deliveries go beyond both, so
// everything here is read field by field: what is missing or of another type
// than documented is left out and never takes its neighbours with it.
package elevenlabs
