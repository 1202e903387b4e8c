package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"postcall/pkg/call"
)

//go:embed static/*
var staticFiles embed.FS

// assetsPath is where the files are served: /assets/<hash of all>/<name>, so
// that browsers keep them for good and modules find one another by name.
const assetsPath = "/assets/"

type asset struct {
	plain, packed []byte
	contentType   string
}

// assets are the files, packed once.
type assets struct {
	hash  string
	files map[string]asset
}

func newAssets() (*assets, error) {
	entries, err := staticFiles.ReadDir("static")
	if err != nil {
		return nil, fmt.Errorf("reading the dashboard's files: %w", err)
	}
	a, sum := &assets{files: map[string]asset{}}, sha256.New()
	for _, entry := range entries {
		b, err := staticFiles.ReadFile("static/" + entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the dashboard's files: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", entry.Name(), len(b), b)
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err == nil {
			if _, err = w.Write(b); err == nil {
				err = w.Close()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("packing %s: %w", entry.Name(), err)
		}
		kind := mime.TypeByExtension(path.Ext(entry.Name()))
		if path.Ext(entry.Name()) == ".js" {
			kind = "text/javascript; charset=utf-8"
		}
		a.files[entry.Name()] = asset{plain: b, packed: packed.Bytes(), contentType: kind}
	}
	a.hash = hex.EncodeToString(sum.Sum(nil)[:8])
	return a, nil
}

func (a *assets) path(name string) string { return assetsPath + a.hash + "/" + name }

func (a *assets) serve(c echo.Context) error {
	f, ok := a.files[c.Param("name")]
	if !ok {
		return call.Errorf(call.NotFound, "There is no such file.")
	}
	// After an update an old page may still ask for its old files: it gets the
	// new ones, which must not be kept under the old address.
	keep := "no-cache"
	if c.Param("hash") == a.hash {
		keep = "public, max-age=31536000, immutable"
	}
	h := c.Response().Header()
	h.Set("Cache-Control", keep)
	h.Set(echo.HeaderVary, echo.HeaderAcceptEncoding)
	if strings.Contains(c.Request().Header.Get(echo.HeaderAcceptEncoding), "gzip") {
		h.Set(echo.HeaderContentEncoding, "gzip")
		return c.Blob(http.StatusOK, f.contentType, f.packed)
	}
	return c.Blob(http.StatusOK, f.contentType, f.plain)
}

func (a *assets) icon(c echo.Context) error {
	return c.Redirect(http.StatusFound, a.path("icon.svg"))
}
