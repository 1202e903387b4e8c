//go:build !linux

package localpg

import (
	"os/exec"
	"syscall"
)

const hasDeathSignal = false

func setDeathSignal(*exec.Cmd, syscall.Signal) {}
