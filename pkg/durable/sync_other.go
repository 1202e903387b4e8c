//go:build !unix

// Package durable makes what is on the disk last through a power cut.
package durable

// SyncDir does nothing: Windows cannot sync a directory, and NTFS keeps the
// names in its journal.
func SyncDir(string) error { return nil }
