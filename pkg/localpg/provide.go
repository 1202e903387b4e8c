package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// ProvideOptions say what database is wanted.
type ProvideOptions struct {
	// URL of a database that the operator gave. Set, it settles the matter.
	URL string
	// Database is created on a server that is run here. Empty means postgres.
	Database string
	// Server is how one is run here.
	Server Options
	// Otherwise is asked when the machine has no PostgreSQL, before one is
	// downloaded: for a way that this package does not know. An error says why
	// it is no way here.
	Otherwise func(context.Context) (*Database, error)
}

// Database is one to work with.
type Database struct {
	URL string
	// Description says for people where it is.
	Description string
	// Server is what runs it, nil when that is somebody else's.
	Server *Server
	// Release ends what was started for it other than Server; may be nil.
	Release func(context.Context) error
}

// Stop ends what was started for the database.
func (d *Database) Stop(ctx context.Context) error {
	var err error
	if d.Server != nil {
		err = d.Server.Stop(ctx)
	}
	if d.Release != nil {
		err = errors.Join(err, d.Release(ctx))
	}
	return err
}

// Provide finds a database: the one that was named, else on a server of the
// machine's own PostgreSQL, else by the caller's other way, else on a
// downloaded one. If there is none its error says what to install.
func Provide(ctx context.Context, o ProvideOptions) (*Database, error) {
	return provide(ctx, o, download)
}

func provide(ctx context.Context, o ProvideOptions, download func(context.Context, string) (string, error)) (*Database, error) {
	if o.URL != "" {
		return given(o.URL)
	}
	server, none := Start(ctx, o.Server)
	if none == nil {
		return o.on(ctx, server)
	}
	if !errors.Is(none, ErrNoBinaries) || o.Server.BinDir != "" {
		return nil, none
	}
	why := []error{none}
	if o.Otherwise != nil {
		d, err := o.Otherwise(ctx)
		if err == nil {
			return d, nil
		}
		why = append(why, err)
	}
	major := ""
	if o.Server.DataDir != "" {
		var err error
		if major, err = existing(o.Server.DataDir); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 {
		why = append(why, errors.New("downloading it is for ordinary users, not for root"))
	} else if dir, err := download(ctx, major); err != nil {
		why = append(why, fmt.Errorf("downloading it: %w", err))
	} else {
		o.Server.BinDir = dir
		server, err := Start(ctx, o.Server)
		if err != nil {
			return nil, err
		}
		return o.on(ctx, server)
	}
	return nil, fmt.Errorf("there is no PostgreSQL to work with: %s; or set DATABASE_URL (for tests TEST_DATABASE_URL) to the address of a database\n%w",
		howToInstall(), errors.Join(why...))
}

// on is the wanted database on a server that was just started.
func (o ProvideOptions) on(ctx context.Context, server *Server) (*Database, error) {
	name := cmp.Or(o.Database, superuser)
	if name != superuser {
		if err := server.CreateDatabase(ctx, name); err != nil {
			return nil, errors.Join(err, server.Stop(context.WithoutCancel(ctx)))
		}
	}
	return &Database{URL: server.URL(name), Description: server.Description(), Server: server}, nil
}

// given describes a database by its address. Whether it answers is not asked:
// it may come later.
func given(url string) (*Database, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the database's address: %w", err)
	}
	at := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
	return &Database{URL: url, Description: fmt.Sprintf("PostgreSQL at %s, database %s", at, c.Database)}, nil
}
