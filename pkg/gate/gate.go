// Package gate decides about a sender: who it is, whether it may knock, how
// often, how slowly, and whether there is room for what it brings.
//
//	Proxies.ClientAddress   who is sending
//	AllowList.Allows        before anything is read
//	Bodies.Acquire          before the body is read
//	Pace.Reader             while the body is read
//	Limits.Failed           after the signature did not hold
//	Limits.Verified         after it did, before the commit
//
// A genuine delivery that is refused is usually lost for ever, and before its
// signature is checked it looks like a forged one. So nothing that a forger
// does counts against a genuine sender, not even one behind the same address:
// what failed is charged after it failed, and never to the bucket that genuine
// deliveries are charged to.
//
// Nothing here starts a goroutine, and all memory is bounded.
package gate
