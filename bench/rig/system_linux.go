package rig

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of processor time under /proc (USER_HZ), the same on every
// architecture that Go runs on.
const tick = time.Second / 100

// tie has a child die with us, and keeps Ctrl+C, which is for us, from it. The
// thread that starts it must live as long as the child.
func tie(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// CPU is the processor time that a process has used so far, without its
// children; 0 where the system does not tell.
func CPU(pid int) time.Duration {
	s, ok := readStat(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if !ok {
		return 0
	}
	return s.own
}

// TreeCPU is the processor time of a process and its children, those included
// that have ended.
func TreeCPU(pid int) (sum time.Duration) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0
	}
	for _, path := range stats {
		if s, ok := readStat(path); ok && (s.pid == pid || s.parent == pid) {
			sum += s.own + s.ended
		}
	}
	return sum
}

type stat struct {
	pid, parent int
	own, ended  time.Duration // ended: of children that were waited for
}

// readStat reads a process's line, see proc(5). The name, its second field,
// may hold anything, so that fields are counted from its end.
func readStat(path string) (s stat, ok bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, false // it has ended
	}
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return s, false
	}
	fields := strings.Fields(string(b[end+1:])) // the third field is the first here
	if len(fields) < 15 {
		return s, false
	}
	number := func(field int) int {
		n, err := strconv.Atoi(fields[field-3])
		if err != nil {
			return 0
		}
		return n
	}
	s.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
	s.parent = number(4)
	s.own = time.Duration(number(14)+number(15)) * tick
	s.ended = time.Duration(number(16)+number(17)) * tick
	return s, true
}

// PeakMemory is the most that a process has had in memory so far (VmHWM), in
// bytes; 0 where the system does not tell.
func PeakMemory(pid int) int64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "\nVmHWM:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}
