//go:build unix

package localpg

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestProvide(t *testing.T) {
	t.Parallel()
	noDownload := func(context.Context, string) (string, error) {
		return "", errors.New("the download has no network")
	}

	t.Run("given", func(t *testing.T) {
		t.Parallel()
		const url = "postgres://me:secret@db.example:6432/calls"
		d, err := provide(t.Context(), ProvideOptions{URL: url}, noDownload)
		if err != nil {
			t.Fatal(err)
		}
		if want := "PostgreSQL at db.example:6432, database calls"; d.URL != url || d.Description != want || d.Server != nil {
			t.Errorf("it is %+v", d)
		}
		if err := d.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := provide(t.Context(), ProvideOptions{URL: "postgres://me:secret@:x:y/"}, noDownload); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("a broken address: %v", err)
		}
	})

	t.Run("installed", func(t *testing.T) {
		t.Parallel()
		d, err := provide(t.Context(), ProvideOptions{Database: "calls"}, noDownload)
		if err != nil {
			t.Fatal(err)
		}
		if got := query[string](t, d.URL, "SELECT current_database()"); got != "calls" {
			t.Errorf("the database is %s", got)
		}
		if err := d.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})

	// Data of a version that nobody has stands for a machine without PostgreSQL.
	bare := func(t *testing.T) Options {
		t.Helper()
		dir := tempDir(t)
		if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("99\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return Options{DataDir: dir}
	}

	t.Run("otherwise", func(t *testing.T) {
		t.Parallel()
		released := false
		d, err := provide(t.Context(), ProvideOptions{Server: bare(t), Otherwise: func(context.Context) (*Database, error) {
			return &Database{URL: "elsewhere", Release: func(context.Context) error { released = true; return nil }}, nil
		}}, noDownload)
		if err != nil || d.URL != "elsewhere" {
			t.Fatalf("%+v: %v", d, err)
		}
		if err := d.Stop(t.Context()); err != nil || !released {
			t.Errorf("released %v: %v", released, err)
		}
	})

	t.Run("downloaded", func(t *testing.T) {
		t.Parallel()
		asked := ""
		_, err := provide(t.Context(), ProvideOptions{Server: bare(t)}, func(_ context.Context, major string) (string, error) {
			asked = major
			return candidates()[0], nil
		})
		if os.Geteuid() == 0 {
			if asked != "" || err == nil || !strings.Contains(err.Error(), "not for root") {
				t.Errorf("root was offered %q: %v", asked, err)
			}
			return
		}
		// The data is of that version, so the wrong one must not touch it.
		if asked != "99" || !errors.Is(err, ErrNoBinaries) {
			t.Errorf("asked for %q: %v", asked, err)
		}
	})

	t.Run("none", func(t *testing.T) {
		t.Parallel()
		_, err := provide(t.Context(), ProvideOptions{Server: bare(t), Otherwise: func(context.Context) (*Database, error) {
			return nil, errors.New("no Docker engine answers")
		}}, noDownload)
		if err == nil {
			t.Fatal("there is a database")
		}
		for _, want := range []string{"there is no PostgreSQL to work with: install one with: ", "set DATABASE_URL", "no Docker engine answers"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("the error does not say %q: %v", want, err)
			}
		}
	})
}

// The library downloads from a repository of ours that has the installed
// programs under the latest version's name.
func TestFetch(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("the download is for ordinary users")
	}
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("there is no xz to make an archive with")
	}
	work := tempDir(t)
	bin := filepath.Join(work, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := newest(t.Context(), candidates(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"initdb", "postgres", "pg_ctl"} {
		if err := os.Symlink(b.path(program), filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	archive, err := exec.Command("tar", "-C", work, "-cJ", "bin").Output()
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	z := zip.NewWriter(&jar)
	w, err := z.Create("postgres.txz")
	if err != nil {
		t.Fatal(err)
	}
	w.Write(archive)
	z.Close()
	sum := sha256.Sum256(jar.Bytes())
	downloads := 0
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			_, _ = w.Write([]byte(hex.EncodeToString(sum[:])))
			return
		}
		downloads++
		_, _ = w.Write(jar.Bytes())
	}))
	t.Cleanup(repository.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // the library's

	cache := filepath.Join(work, "cache")
	for range 2 {
		dir, err := fetch(t.Context(), repository.URL, cache, "")
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, Options{BinDir: dir})
		query[int](t, s.URL("postgres"), "SELECT 1")
	}
	if downloads != 1 {
		t.Errorf("%d downloads", downloads)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "download-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := fetch(t.Context(), repository.URL, cache, "99"); err == nil {
		t.Error("version 99 was downloaded")
	}
}
