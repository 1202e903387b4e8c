package localpg

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// Windows compiles, and says that it is not supported where a server would be
// started: claiming its directory is the first step.
var errUnsupported = errors.New("PostgreSQL cannot be run from here on Windows; set DATABASE_URL")

type account struct{}

func lockFile(string) (*os.File, error)           { return nil, errUnsupported }
func unlock(*os.File) error                       { return errUnsupported }
func ours(fs.FileInfo) bool                       { return false }
func alive(string) bool                           { return true }
func serverAccount(string) (*account, error)      { return nil, errUnsupported }
func (*account) own(string) error                 { return errUnsupported }
func (*account) attributes() *syscall.SysProcAttr { return nil }
func (*account) explain(err error, _ string) error {
	return err
}
func watch(*exec.Cmd) (func(), error) { return nil, errUnsupported }
