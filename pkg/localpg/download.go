package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

// repository is where the PostgreSQL that is downloaded comes from.
const repository = "https://repo1.maven.org/maven2"

// latest is the major version for data that is new.
const latest = "17"

// patience bounds a download of some 20 MB.
const patience = 5 * time.Minute

// versions are those that can be downloaded, by major version.
var versions = map[string]embeddedpostgres.PostgresVersion{
	"14": embeddedpostgres.V14, "15": embeddedpostgres.V15, "16": embeddedpostgres.V16,
	"17": embeddedpostgres.V17, "18": embeddedpostgres.V18,
}

// download gets PostgreSQL's programs, once for each user of the machine.
func download(ctx context.Context, major string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a place for it: %w", err)
	}
	return fetch(ctx, repository, filepath.Join(cache, "postcall"), major)
}

// fetch gets the programs of a major version, the latest for "", into a cache
// and returns their directory.
//
// The library is used for its download only: a server that it runs outlives a
// killed owner, and it removes data that another version made.
func fetch(ctx context.Context, repository, cache, major string) (dir string, err error) {
	if major == "" {
		major = latest
	}
	version, ok := versions[major]
	if !ok {
		return "", fmt.Errorf("there is no PostgreSQL %s to download", major)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	target := filepath.Join(cache, "postgresql-"+string(version))
	//nolint:gosec // Programs that are everybody's.
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("making a place for it: %w", err)
	}
	// The packages' tests start together and one download is enough.
	lock, err := awaitLock(ctx, target+".lock")
	if err != nil {
		return "", fmt.Errorf("waiting for another process that downloads it: %w", err)
	}
	defer func() { err = errors.Join(err, unlock(lock)) }()
	if _, err := os.Stat(target); err == nil {
		return filepath.Join(target, "bin"), nil
	}
	work, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", fmt.Errorf("making a place for it: %w", err)
	}
	port, err := freePort(ctx)
	if err != nil {
		return "", err
	}
	programs := filepath.Join(work, "programs")
	log, err := os.Create(filepath.Join(work, "log"))
	if err != nil {
		return "", fmt.Errorf("making a place for it: %w", err)
	}
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(version).
		BinaryRepositoryURL(repository).
		Port(uint32(port)).
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "run")).
		BinariesPath(programs).
		Locale("C").
		// Its own default may be closed to us.
		StartParameters(map[string]string{"unix_socket_directories": ""}).
		Logger(log).
		StartTimeout(time.Minute))
	ended := make(chan error, 1)
	go func() {
		// It can do no less than start a server, which at the same time shows
		// that the programs run here.
		err := server.Start()
		if err == nil {
			err = server.Stop()
		}
		if err == nil {
			err = os.Rename(programs, target)
		}
		ended <- errors.Join(err, log.Close(), os.RemoveAll(work))
	}()
	select {
	case err := <-ended:
		if err != nil {
			return "", err
		}
		return filepath.Join(target, "bin"), nil
	case <-ctx.Done():
		// The library's download cannot be called off. It ends by itself and
		// tidies up, or with the process, which has no database to go on with.
		return "", ctx.Err()
	}
}

// awaitLock takes a lock as soon as it is free.
func awaitLock(ctx context.Context, path string) (*os.File, error) {
	for {
		lock, err := lockFile(path)
		if !errors.Is(err, ErrInUse) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * poll):
		}
	}
}
