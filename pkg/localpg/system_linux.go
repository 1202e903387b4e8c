package localpg

import (
	"os/exec"
	"syscall"
)

const hasDeathSignal = true

// setDeathSignal has the kernel signal the child when the thread that started
// it dies, and so when we are killed.
func setDeathSignal(cmd *exec.Cmd, signal syscall.Signal) { cmd.SysProcAttr.Pdeathsig = signal }
