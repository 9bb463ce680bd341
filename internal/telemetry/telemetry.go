// Package telemetry is what the daemon says about itself: logs, metrics, and the
// ring of decision records that `netpolicy tail` reads. It depends on nothing of
// the daemon, holds no globals, and every structure in it is bounded.
package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// NewLogger returns a logger that writes lines to w. format is "json" or
// "text", level one of debug, info, warn, error in any case.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	switch strings.ToLower(level) {
	case "debug":
		l = slog.LevelDebug
	case "info", "":
		l = slog.LevelInfo
	case "warn", "warning":
		l = slog.LevelWarn
	case "error":
		l = slog.LevelError
	default:
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: l}
	switch format {
	case "json", "":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	default:
		return nil, fmt.Errorf("log format %q: want json or text", format)
	}
}

// LogLines is how many lines of the log are kept in memory.
const LogLines = 2000

// Tee returns a logger that writes to log and, as JSON, to the ring.
func Tee(log *slog.Logger, ring *Ring) *slog.Logger {
	least := slog.LevelError
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(context.Background(), l) {
			least = l
			break
		}
	}
	kept := slog.NewJSONHandler(ringWriter{ring}, &slog.HandlerOptions{Level: least})
	return slog.New(slog.NewMultiHandler(log.Handler(), kept))
}

// ringWriter appends what is written, a line each time.
type ringWriter struct{ ring *Ring }

func (w ringWriter) Write(line []byte) (int, error) {
	w.ring.Append(bytes.Clone(bytes.TrimSuffix(line, []byte("\n"))))
	return len(line), nil
}
