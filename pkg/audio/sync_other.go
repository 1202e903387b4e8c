//go:build !unix

package audio

// syncDir does nothing: Windows cannot sync a directory, and NTFS keeps the
// names in its journal.
func syncDir(string) error { return nil }
