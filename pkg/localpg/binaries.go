package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// minMajor is the oldest PostgreSQL that Postcall is run on.
const minMajor = 14

// places are where PostgreSQL's programs are besides PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin",               // Debian, Ubuntu
	"/usr/pgsql-*/bin",                        // PostgreSQL's own packages for Red Hat
	"/usr/libexec/postgresql*",                // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",      // Homebrew
	"/usr/local/opt/postgresql@*/bin",         // Homebrew on Intel
	"/home/linuxbrew/.linuxbrew/opt/pos*/bin", // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// binaries are a directory with initdb and postgres of one version.
type binaries struct {
	dir     string
	version string // such as 15.18
	major   int
	minor   int
}

func (b binaries) path(program string) string { return filepath.Join(b.dir, program) }

// newest returns the newest PostgreSQL of these directories; of one major
// version, if data needs that.
func newest(ctx context.Context, dirs []string, major string) (binaries, error) {
	var found []binaries
	var problems []error
	for _, dir := range dirs {
		b, err := inspect(ctx, dir)
		switch {
		case err != nil:
			problems = append(problems, err)
		case major != "" && strconv.Itoa(b.major) != major:
			problems = append(problems, fmt.Errorf("%s is PostgreSQL %s, not %s", dir, b.version, major))
		case b.major < minMajor:
			problems = append(problems, fmt.Errorf("%s is PostgreSQL %s, older than %d", dir, b.version, minMajor))
		default:
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		return binaries{}, errors.Join(append([]error{ErrNoBinaries}, problems...)...)
	}
	return slices.MaxFunc(found, func(a, b binaries) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	}), nil
}

// candidates are the directories that have an initdb, PATH's first.
func candidates() []string {
	var initdbs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		initdbs = append(initdbs, path)
	}
	for _, place := range places {
		matches, _ := filepath.Glob(filepath.Join(place, "initdb")) // the patterns are ours
		initdbs = append(initdbs, matches...)
	}
	var dirs []string
	for _, path := range initdbs {
		// PATH often has initdb alone, as a link to where postgres is too.
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			path = resolved
		}
		if dir := filepath.Dir(path); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// versionText finds 15 and 18 in "postgres (PostgreSQL) 15.18 (Debian …)"; a
// beta has a letter in the point's place.
var versionText = regexp.MustCompile(`\(PostgreSQL\) ((\d+)(?:\.(\d+))?\w*)`)

// inspect asks the programs of a directory for their version.
func inspect(ctx context.Context, dir string) (binaries, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b := binaries{dir: dir}
	for _, program := range []string{"initdb", "postgres"} {
		//nolint:gosec // A program that was found by its name.
		cmd := exec.CommandContext(ctx, b.path(program), "--version")
		cmd.Env = environment()
		out, err := cmd.Output()
		if err != nil {
			return b, fmt.Errorf("asking %s for its version: %w", b.path(program), err)
		}
		m := versionText.FindStringSubmatch(string(out))
		if m == nil {
			return b, fmt.Errorf("%s gives no version that is understood: %.100q", b.path(program), out)
		}
		b.version = m[1]
		b.major, _ = strconv.Atoi(m[2]) // the expression has digits only
		b.minor, _ = strconv.Atoi(m[3]) // none counts as 0
	}
	return b, nil
}

// howToInstall is what to tell someone without a PostgreSQL.
func howToInstall() string {
	switch runtime.GOOS {
	case "darwin":
		return "install one with: brew install postgresql@17"
	case "linux":
		return "install one with: apt install postgresql (Debian, Ubuntu), dnf install postgresql-server (Fedora, Red Hat) or apk add postgresql (Alpine)"
	default:
		return "on this system Postcall cannot run one itself"
	}
}
