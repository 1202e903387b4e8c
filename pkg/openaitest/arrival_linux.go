package openaitest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// listen listens on a local port. Its connections know when the kernel received
// what is read from them: a handler is run when the machine finds the time, and
// that says little of how far apart two requests came.
func listen(tb testing.TB) net.Listener {
	tb.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1)
		}), err)
	}}
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	return stampingListener{l}
}

type stampingListener struct{ net.Listener }

func (l stampingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return &stampedConn{TCPConn: tcp, raw: raw}, nil
}

// stampedConn keeps when what was read last was received.
type stampedConn struct {
	*net.TCPConn
	raw syscall.RawConn
	at  atomic.Pointer[time.Time]
}

func (c *stampedConn) received() *time.Time { return c.at.Load() }

// Read implements net.Conn.
func (c *stampedConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	var (
		n, told int
		failed  error
		control [128]byte
	)
	err := c.raw.Read(func(fd uintptr) bool {
		for {
			n, told, _, _, failed = syscall.Recvmsg(int(fd), b, control[:], 0)
			if !errors.Is(failed, syscall.EINTR) {
				return !errors.Is(failed, syscall.EAGAIN)
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("recvmsg", failed)}
	case n == 0:
		return 0, io.EOF
	}
	messages, err := syscall.ParseSocketControlMessage(control[:told])
	for _, m := range messages {
		if err == nil && m.Header.Level == syscall.SOL_SOCKET && m.Header.Type == syscall.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(syscall.Timespec{})) {
			at := time.Unix((*syscall.Timespec)(unsafe.Pointer(&m.Data[0])).Unix()) //nolint:gosec // what the kernel writes there
			c.at.Store(&at)
		}
	}
	return n, nil
}
