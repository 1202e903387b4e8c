//go:build !linux

package rig

import (
	"os/exec"
	"time"
)

func tie(*exec.Cmd) {}

// CPU is the processor time that a process has used so far, without its
// children; 0 where the system does not tell.
func CPU(int) time.Duration { return 0 }

// TreeCPU is the processor time of a process and its children, those included
// that have ended; 0 where the system does not tell.
func TreeCPU(int) time.Duration { return 0 }

// PeakMemory is the most that a process has had in memory so far, in bytes; 0
// where the system does not tell.
func PeakMemory(int) int64 { return 0 }
