package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// outputName is what the memory is called that Xray prints into.
	outputName = "netpolicy-xray"
	// freeEvery is how much is read before its memory is given back.
	freeEvery = 64 << 10
	// oldOutput is how much is read of what an adopted Xray printed before, or of what
	// one has printed faster than it is read.
	oldOutput = 1 << 20
)

// Output is what Xray prints: a file in memory, so that it lies on no disk, a full
// one stops nothing, and no pipe breaks when we are killed. Xray appends; what was
// read is given back, so that it stays small as long as somebody reads.
type Output struct {
	file  *os.File
	at    int64 // what was read
	freed int64 // what was given back
}

// NewOutput makes one. A seccomp filter may refuse it later.
func NewOutput() (*Output, error) {
	fd, err := unix.MemfdCreate(outputName, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(outputName, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("make room for what xray prints: %w", err)
	}
	file := os.NewFile(uintptr(fd), outputName)
	if _, err := unix.FcntlInt(file.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
		file.Close()
		return nil, fmt.Errorf("make room for what xray prints: %w", err)
	}
	return &Output{file: file}, nil
}

// openOutput opens that of a process which was started by an earlier run of ours. A
// few lines may come that were read then: memory is given back by pages.
func openOutput(pid int) (*Output, error) {
	path := fmt.Sprintf("/proc/%d/fd/1", pid)
	if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "/memfd:"+outputName) {
		return nil, errors.Join(err, errors.New("xray's output is not what we made for it"))
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	o := &Output{file: file}
	if info, err := file.Stat(); err == nil && info.Size() > oldOutput {
		o.at = info.Size() - oldOutput
	}
	if data, err := unix.Seek(int(file.Fd()), o.at, unix.SEEK_DATA); err == nil {
		o.at = data
	}
	return o, nil
}

// skip passes over what nobody has read: another has, who took over the Xray that
// printed it and knew its secrets.
func (o *Output) skip() {
	if info, err := o.file.Stat(); err == nil {
		o.at = info.Size()
	}
}

// Read implements io.Reader. Of what was printed faster than it is read the newest is
// read, and a line says how much is not.
func (o *Output) Read(b []byte) (int, error) {
	if info, err := o.file.Stat(); err == nil && info.Size()-o.at > 2*oldOutput {
		dropped := info.Size() - o.at - oldOutput
		o.at += dropped
		return copy(b, fmt.Sprintf("\n%d bytes that xray has printed faster than they are read are dropped\n", dropped)), nil
	}
	n, err := o.file.ReadAt(b, o.at)
	o.at += int64(n)
	if o.at-o.freed >= freeEvery {
		// That it can't be given back costs memory and nothing else.
		_ = unix.Fallocate(int(o.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, o.at)
		o.freed = o.at
	}
	if n > 0 {
		return n, nil
	}
	if err == nil {
		err = io.EOF
	}
	return 0, err
}

// Close implements io.Closer.
func (o *Output) Close() error { return o.file.Close() }
