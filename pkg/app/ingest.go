package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"go.uber.org/zap"

	"postcall/pkg/config"
	"postcall/pkg/elevenlabs"
	"postcall/pkg/postgres"
	"postcall/pkg/problem"
	"postcall/pkg/queue"
	"postcall/pkg/receive"
	"postcall/pkg/telemetry"
)

// Limits of the receiving server. A sender that is slower than these is cut
// off; ElevenLabs sends from a data centre.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 2 * time.Minute
	writeTimeout      = readTimeout + 30*time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10

	// receiveConns is the size of receiving's own pool.
	receiveConns = 16
	// keepTimeout bounds a delivery's transaction.
	keepTimeout = 5 * time.Second
)

// Ingest is the receiving process.
type Ingest struct {
	config   config.Ingest
	log      *zap.Logger
	pool     *pgxpool.Pool
	listener net.Listener
	server   *http.Server
}

// NewIngest connects and listens; nothing is answered before Serve.
func NewIngest(ctx context.Context, c config.Ingest, log *zap.Logger) (_ *Ingest, err error) {
	i := &Ingest{config: c, log: log}
	defer func() {
		if err != nil {
			i.Close()
		}
	}()
	i.pool, err = postgres.Pool(ctx, c.DatabaseURL.Reveal(), "postcall ingest", receiveConns, keepTimeout)
	if err != nil {
		return nil, err
	}
	starting, cancel := context.WithTimeout(ctx, startup)
	defer cancel()
	if err := postgres.Wait(starting, i.pool); err != nil {
		return nil, err
	}
	if err := migrated(starting, i.pool); err != nil {
		return nil, err
	}
	jobs, err := queue.NewInserter(i.pool, telemetry.Slog(log))
	if err != nil {
		return nil, err
	}
	secrets := make([]string, len(c.WebhookSecret))
	for n, s := range c.WebhookSecret {
		secrets[n] = s.Reveal()
	}
	handler := &receive.Handler{
		Verifier: elevenlabs.NewVerifier(secrets, c.Tolerance()),
		Keeper: &receive.Keeper{
			Pool: i.pool, Queue: jobs, Auto: c.AnalyzeAuto, MaxAttempts: c.MaxAttempts, Timeout: keepTimeout, Log: log,
		},
		MaxBody: c.MaxBodyBytes,
		Log:     log,
	}
	i.server = &http.Server{
		Handler:           router(handler, log),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(log),
	}
	var lc net.ListenConfig
	i.listener, err = lc.Listen(ctx, "tcp", net.JoinHostPort(c.BindAddr, strconv.Itoa(c.Port)))
	if err != nil {
		return nil, fmt.Errorf("listening on port %d (set PORT to a free one): %w", c.Port, err)
	}
	return i, nil
}

// router is the list of routes.
func router(deliveries *receive.Handler, log *zap.Logger) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = problem.Handler(log)
	e.IPExtractor = echo.ExtractIPDirect()
	e.Use(requestID, middleware.RecoverWithConfig(middleware.RecoverConfig{
		LogErrorFunc: func(c echo.Context, err error, stack []byte) error {
			log.Error("panic", zap.String("route", c.Path()), zap.Error(err), zap.ByteString("stack", stack))
			return err
		},
	}))
	e.POST(receive.Path, deliveries.Deliver)
	e.GET("/health", func(c echo.Context) error {
		return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
	})
	return e
}

// requestID gives each request an id, its sender's own if that is a sane one,
// and answers with it.
func requestID(next echo.HandlerFunc) echo.HandlerFunc {
	taken := middleware.RequestIDWithConfig(middleware.RequestIDConfig{Generator: uuid.NewString})(next)
	return func(c echo.Context) error {
		if header := c.Request().Header; !sane(header.Get(echo.HeaderXRequestID)) {
			header.Del(echo.HeaderXRequestID)
		}
		return taken(c)
	}
}

// sane ids are short and printable: they go into logs and answers.
func sane(id string) bool {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
	return len(id) >= 8 && len(id) <= 128 && strings.Trim(id, alphabet) == ""
}

// URL is the address the process listens on, as somebody on this machine
// reaches it.
func (i *Ingest) URL() string {
	host, port, err := net.SplitHostPort(i.listener.Addr().String())
	if err != nil {
		return i.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Serve answers until the context ends, then finishes the requests it has
// begun within the configured bound.
func (i *Ingest) Serve(ctx context.Context) error {
	defer i.Close()
	i.log.Info("receiving", zap.String("url", i.URL()+receive.Path),
		zap.Int("secrets", len(i.config.WebhookSecret)), zap.Bool("analyze_auto", i.config.AnalyzeAuto))
	ended := make(chan error, 1)
	go func() { ended <- i.server.Serve(i.listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	i.log.Info("stopping: no new deliveries are taken")
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.config.ShutdownTimeout())
	defer cancel()
	err := i.server.Shutdown(bounded)
	if serveErr := <-ended; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return stopped(i.log, err)
}

// Close releases what NewIngest took. Serve does it by itself.
func (i *Ingest) Close() {
	if i.listener != nil {
		// Shutdown has closed it already, except where Serve was never reached.
		_ = i.listener.Close()
	}
	if i.pool != nil {
		i.pool.Close()
	}
}
