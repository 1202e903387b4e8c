package pgtest

import (
	"context"
	"fmt"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"postcall/pkg/localpg"
)

// image is what the tests run with where Docker is all there is.
const image = "postgres:17-alpine"

// container runs PostgreSQL in Docker, if an engine answers.
func container(ctx context.Context) (_ *localpg.Database, err error) {
	if err := engine(ctx); err != nil {
		return nil, fmt.Errorf("no Docker engine answers: %w", err)
	}
	c, err := postgres.Run(ctx, image,
		postgres.BasicWaitStrategies(),
		testcontainers.WithCmdArgs("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=300"))
	release := func(ctx context.Context) error {
		if err := testcontainers.TerminateContainer(c, testcontainers.StopContext(ctx)); err != nil {
			return fmt.Errorf("removing the container of %s: %w", image, err)
		}
		return nil
	}
	if err != nil {
		_ = release(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("running %s in Docker: %w", image, err)
	}
	url, err := c.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		_ = release(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("finding the address of %s in Docker: %w", image, err)
	}
	return &localpg.Database{URL: url, Description: image + " in Docker", Release: release}, nil
}

// engine asks whether there is a Docker engine. The library panics over some
// ways in which there is none.
func engine(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	provider, err := testcontainers.ProviderDefault.GetProvider()
	if err != nil {
		return err
	}
	return provider.Health(ctx) // which closes it
}
