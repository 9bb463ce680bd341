package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// chunk is what a transfer sends and gets back before it sends again, and
	// pace the pause between: about 320 KiB/s each way, which the counters show
	// within a second and which no machine here finds hard.
	chunk = 16 << 10
	pace  = 50 * time.Millisecond
	// quietTime is how long a measurement, or a transfer, waits for a transfer to
	// pause. One that hangs on a dead line sends too little to matter.
	quietTime = 2 * time.Second
)

// quiet lets one chunk of a transfer, or one measurement, be under way at a time.
type quiet chan struct{}

func newQuiet() quiet { return make(quiet, 1) }

// measure runs f while no transfer sends.
func (q quiet) measure(f func()) {
	timer := time.NewTimer(quietTime)
	defer timer.Stop()
	select {
	case q <- struct{}{}:
		defer func() { <-q }()
	case <-timer.C:
	}
	f()
}

// Transfer is one connection that keeps exchanging data until it is stopped.
type Transfer struct {
	// Local and Remote are the connection's addresses.
	Local, Remote string

	conn   net.Conn
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	bytes  int64
	last   time.Time
	maxGap time.Duration
	err    error
}

// StartTransfer connects from the client to an echo server and exchanges data
// over the one connection until Stop, ctx's end, or an error.
func (l *Lab) StartTransfer(ctx context.Context, addr string) (*Transfer, error) {
	conn, err := l.Client().Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &Transfer{
		Local: conn.LocalAddr().String(), Remote: conn.RemoteAddr().String(),
		conn: conn, cancel: cancel, done: make(chan struct{}), last: time.Now(),
	}
	go func() {
		defer l.rescue()
		t.run(ctx, conn, l.quiet)
	}()
	return t, nil
}

func (t *Transfer) run(ctx context.Context, conn net.Conn, q quiet) {
	defer close(t.done)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	data, sequence := make([]byte, chunk), uint64(0)
	for ctx.Err() == nil {
		select {
		case q <- struct{}{}:
		case <-ctx.Done():
			return
		}
		for i := 0; i < chunk; i += 8 { // each word is numbered: what is lost or doubled shows
			binary.BigEndian.PutUint64(data[i:], sequence)
			sequence++
		}
		// One that hangs on a dead line keeps the others waiting no longer than a measurement.
		release := sync.OnceFunc(func() { <-q })
		late := time.AfterFunc(quietTime, release)
		err := echoed(conn, data)
		late.Stop()
		release()
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		t.mu.Lock()
		t.maxGap = max(t.maxGap, now.Sub(t.last))
		t.last = now
		if t.err = err; err == nil {
			t.bytes += chunk
		}
		t.mu.Unlock()
		if err != nil || !sleep(ctx, pace) {
			return
		}
	}
}

// Progress returns the bytes that went out and came back, the longest time
// without any, and the error that ended the transfer, if one did.
func (t *Transfer) Progress() (bytes int64, maxGap time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes, max(t.maxGap, time.Since(t.last)), t.err
}

// Stop ends the transfer and returns the error that had ended it before, if any.
func (t *Transfer) Stop() error {
	t.cancel()
	<-t.done
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Alive waits until the transfer has moved on by size bytes.
func (t *Transfer) Alive(ctx context.Context, size int64) error {
	start, _, _ := t.Progress()
	for {
		now, _, err := t.Progress()
		if err != nil {
			return err
		}
		if now-start >= size {
			return nil
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return errors.New("the transfer does not move on")
		}
	}
}
