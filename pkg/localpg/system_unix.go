//go:build unix

package localpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockFile opens a file and locks it until it is closed or we are dead,
// whichever way. ErrInUse: somebody holds it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// For people only; the lock is what counts.
	if err := errors.Join(f.Truncate(0), write(f, strconv.Itoa(os.Getpid()))); err != nil {
		return nil, errors.Join(fmt.Errorf("writing our pid into the lock: %w", err), f.Close())
	}
	return f, nil
}

// unlock gives a lock up. Closing it would not do: a child that is being started
// this moment holds the file as well, until its program runs.
func unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

func write(f *os.File, s string) error {
	_, err := f.WriteString(s)
	return err
}

// ours reports whether a file is this user's.
func ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// alive reports whether the process that a postmaster.pid names exists.
func alive(pidFile string) bool {
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	return err == nil && pid > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// account is the user that the server runs as. PostgreSQL refuses root, so
// there it is another one; nil stands for ourselves.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount returns who is to run the server: whoever owns existing data,
// else the system's user for databases, else the one for everything.
func serverAccount(data string) (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if info, err := os.Stat(data); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return &account{"number " + strconv.Itoa(int(stat.Uid)), stat.Uid, stat.Gid}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &account{name, uint32(uid), uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root and there is neither a user postgres nor nobody: run as an ordinary user, or set DATABASE_URL")
}

// own hands a file to the server's user.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	if err := os.Chown(path, int(a.uid), int(a.gid)); err != nil {
		return fmt.Errorf("handing the data directory to the server's user: %w", err)
	}
	return nil
}

// attributes let a program run as the server's user, in a process group of its
// own: Ctrl+C is for us, and we stop the server when nobody needs it any more.
func (a *account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

// explain says what to do when the server's user may not enter a directory.
func (a *account) explain(err error, dir string) error {
	if a == nil || !errors.Is(err, fs.ErrPermission) {
		return err
	}
	closed := dir
	for d := dir; d != filepath.Dir(d); d = filepath.Dir(d) {
		// The topmost directory that is closed to others, most likely.
		if info, err := os.Stat(filepath.Dir(d)); err == nil && info.Mode().Perm()&0o001 == 0 {
			closed = filepath.Dir(d)
		}
	}
	return fmt.Errorf("PostgreSQL runs as user %s, who may not enter %s: choose a data directory elsewhere (for a temporary one set TMPDIR), or run as an ordinary user: %w", a.name, closed, err)
}

// watch has a shell shut the server down when we are dead, for systems that
// cannot do it themselves: the pipe it reads from ends with us. The function
// that it returns sends the shell away.
func watch(server *exec.Cmd) (func(), error) {
	//nolint:gosec,noctx // A constant script with a number; it ends by the function returned.
	sh := exec.Command("/bin/sh", "-c", `read -r _; kill -INT "$1"`, "sh", strconv.Itoa(server.Process.Pid))
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if server.SysProcAttr != nil {
		sh.SysProcAttr.Credential = server.SysProcAttr.Credential
	}
	pipe, err := sh.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making the server's watch: %w", err)
	}
	if err := sh.Start(); err != nil {
		return nil, fmt.Errorf("starting the server's watch: %w", err)
	}
	return func() {
		// Killed before its pipe closes, lest it signal a pid that is free again.
		_ = sh.Process.Kill()
		_ = sh.Wait()
		_ = pipe.Close()
	}, nil
}
