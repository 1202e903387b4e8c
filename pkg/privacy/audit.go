package privacy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"postcall/pkg/postgres"
)

// Audit writes down who did what to a subject, which fingerprint names.
func Audit(ctx context.Context, db postgres.DB, by Actor, action, fingerprint, outcome string, detail []byte) error {
	_, err := db.Exec(ctx, `
		insert into audit_log (actor, role, action, target, outcome, request_id, address, detail)
		values ($1, $2, $3, $4, $5, nullif($6, ''), nullif($7, ''), $8)`,
		by.Name, by.Role, action, fingerprint, outcome, by.RequestID, by.Address, detail)
	if err != nil {
		return fmt.Errorf("writing the audit entry: %w", err)
	}
	return nil
}

// Spooled gives the spool's files that hold anything, those with rejected
// deliveries too.
func Spooled(path string) ([]string, error) {
	names, err := filepath.Glob(globEscape(path) + "*")
	if err != nil {
		return nil, fmt.Errorf("looking at the spool: %w", err)
	}
	var list []string
	for _, name := range names {
		filled, err := holds(name)
		if err != nil {
			return nil, fmt.Errorf("looking at the spool: %w", err)
		}
		if filled {
			list = append(list, name)
		}
	}
	return list, nil
}

// holds reports whether a file has anything in it; one that has gone meanwhile
// has nothing.
func holds(name string) (bool, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular() && info.Size() > 0, err
}

func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
