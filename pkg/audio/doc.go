// Package audio keeps the recordings of calls. It takes them out of a delivery
// without ever holding one in memory (Extract), keeps them in a directory, an
// S3 bucket or memory (Store), and gives them to a player piece by piece
// (Store.Serve).
//
// A delivery's way through it:
//
//	x, err := audio.Extract(ctx, body, size)      // what is audio in it?
//	rest, err := x.Body()                         // the JSON around it, small
//	event := elevenlabs.Parse(rest, receivedAt)
//	objects, err := store.Save(ctx, event.DedupKey, x)
//
// after which the event and its objects (rows of call_audio) are committed.
package audio
