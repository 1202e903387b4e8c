// Package standalone is a whole installation in one process: a PostgreSQL of
// its own unless one is given, ingest and worker. `postcall up` and the demo
// are made of it.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"postcall/db"
	"postcall/pkg/access"
	"postcall/pkg/app"
	"postcall/pkg/config"
	"postcall/pkg/localpg"
	"postcall/pkg/postgres"
)

// Options say how an installation is set up.
type Options struct {
	// Env is the environment; what is missing from it to run is filled in:
	// the database, and the built-in analyser where no key is set.
	Env config.Lookuper
	// DataDir keeps the database where DATABASE_URL is not set; empty for a
	// temporary one that goes with the process.
	DataDir string
	// Logger makes the log of one process from its configuration.
	Logger func(c config.Common, process string) (*zap.Logger, error)
	// Say tells people what happens.
	Say func(format string, args ...any)
}

// Installation is a running one.
type Installation struct {
	URL string // ingest's address
	// SignInURL signs its first visitor in to the dashboard as an administrator,
	// once; empty where ADMIN_TOKENS says who may.
	SignInURL   string
	DatabaseURL string
	Worker      config.Worker
	Ingest      config.Ingest

	token    access.Token // made here for the dashboard, unless there were some
	database *localpg.Database
	group    *errgroup.Group
	stop     context.CancelFunc
}

// stopDatabase bounds the database's own shutdown.
const stopDatabase = 20 * time.Second

// Start brings everything up and returns once deliveries are taken. It stops
// when ctx ends; Wait must be called.
func Start(ctx context.Context, o Options) (_ *Installation, err error) {
	i := &Installation{}
	defer func() { //nolint:contextcheck // closing goes on when the context has ended
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	given, err := config.LoadCommon(ctx, o.Env)
	if err != nil {
		return nil, err
	}
	i.database, err = localpg.Provide(ctx, localpg.ProvideOptions{
		URL: given.DatabaseURL.Reveal(), Database: "postcall",
		Server: localpg.Options{DataDir: o.DataDir, Durable: o.DataDir != ""},
	})
	if err != nil {
		return nil, err
	}
	i.DatabaseURL = i.database.URL
	o.Say("database    %s", i.database.Description)
	if err := migrate(ctx, i.DatabaseURL); err != nil {
		return nil, err
	}
	env := map[string]string{"DATABASE_URL": i.DatabaseURL}
	if key, set := o.Env.Lookup("OPENAI_API_KEY"); !set || key == "" {
		env["ANALYZER"] = "builtin"
	}
	if tokens, set := o.Env.Lookup("ADMIN_TOKENS"); !set || tokens == "" {
		if i.token, err = access.NewToken("local", access.Admin); err != nil {
			return nil, err
		}
		env["ADMIN_TOKENS"] = i.token.Entry()
	}
	lookup := config.Map(env, o.Env)
	if i.Ingest, err = config.LoadIngest(ctx, lookup); err != nil {
		return nil, err
	}
	if i.Worker, err = config.LoadWorker(ctx, lookup); err != nil {
		return nil, err
	}
	if i.Ingest.MetricsAddr != "" {
		// Two processes' figures in one: each has an address.
		if i.Worker.MetricsAddr, err = beside(i.Ingest.MetricsAddr); err != nil {
			return nil, err
		}
		o.Say("metrics     ingest at %s, worker at %s", i.Ingest.MetricsAddr, i.Worker.MetricsAddr)
	}
	if i.Worker.Analyzer == "builtin" {
		o.Say("analyser    built-in, since OPENAI_API_KEY is not set: no language model is asked, results come from what ElevenLabs itself says of a call")
	} else {
		o.Say("analyser    %s at %s", i.Worker.Model, i.Worker.OpenAIBaseURL)
	}
	return i, i.serve(ctx, o)
}

// beside is the address one port further; a free port stays one.
func beside(address string) (string, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("METRICS_ADDR: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", fmt.Errorf("METRICS_ADDR: %w", err)
	}
	if port > 0 {
		port++
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

func migrate(ctx context.Context, url string) error {
	pool, err := postgres.Pool(ctx, url, "postcall migrate", db.MinConns, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	return db.Up(ctx, pool)
}

// serve runs ingest and worker; when one of them ends, so does the other.
func (i *Installation) serve(ctx context.Context, o Options) error {
	ingestLog, err := o.Logger(i.Ingest.Common, "ingest")
	if err != nil {
		return err
	}
	workerLog, err := o.Logger(i.Worker.Common, "worker")
	if err != nil {
		return err
	}
	ingest, err := app.NewIngest(ctx, i.Ingest, ingestLog)
	if err != nil {
		return err
	}
	if i.token.Plain != "" {
		if i.SignInURL, err = ingest.SignInURL(i.token.Plain); err != nil {
			ingest.Close() //nolint:contextcheck // closing goes on when the context has ended
			return err
		}
	}
	worker, err := app.NewWorker(ctx, i.Worker, workerLog)
	if err != nil {
		ingest.Close() //nolint:contextcheck // closing goes on when the context has ended
		return err
	}
	i.URL = ingest.URL()
	ctx, i.stop = context.WithCancel(ctx)
	i.group, ctx = errgroup.WithContext(ctx)
	serve := func(run func(context.Context) error) {
		i.group.Go(func() error {
			defer i.stop()
			return run(ctx)
		})
	}
	serve(ingest.Serve)
	serve(worker.Serve)
	if server := i.database.Server; server != nil {
		serve(func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case <-server.Done():
				return fmt.Errorf("the database has stopped by itself; its log is in %s", server.Dir())
			}
		})
	}
	return nil
}

// Wait returns when everything has stopped.
func (i *Installation) Wait() error {
	return errors.Join(i.group.Wait(), i.close())
}

// Stop ends it and waits.
func (i *Installation) Stop() error {
	i.stop()
	return i.Wait()
}

func (i *Installation) close() error {
	if i.stop != nil {
		i.stop()
	}
	if i.database == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopDatabase)
	defer cancel()
	return i.database.Stop(ctx)
}
