// Package replay is a source that reads what was recorded: packet captures
// (pcap, pcapng) and NDJSON of flow records or events. Time is the recording's
// own; nothing waits.
package replay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/pcapgo"

	"netpolicy.dev/netpolicy/flow"
	"netpolicy.dev/netpolicy/inspector"
	"netpolicy.dev/netpolicy/inspector/packet"
	"netpolicy.dev/netpolicy/inspector/sniff"
)

const (
	// maxFlows of a capture are followed at a time.
	maxFlows = 1 << 18
	// maxBuffered bytes wait for the rest of their hello, over all connections.
	maxBuffered = 64 << 20
	// idle is how long a connection in a capture may be quiet: captures are
	// often cut down, with long pauses between packets of one connection.
	idle = 12 * time.Hour
	// snapLength is the largest packet read, libpcap's own limit. Some writers
	// put packets into a file that are longer than its header allows.
	snapLength = 262144
)

// Errors of Run that are about the recording itself. What was read before has
// been emitted.
var (
	ErrCut     = errors.New("the recording ends in the middle")
	ErrUnknown = errors.New("neither pcap, pcapng nor NDJSON")
)

// Options say what to read. The zero Options are for a capture or NDJSON.
type Options struct {
	// CaptureOnly refuses NDJSON.
	CaptureOnly bool
	// KeepTunnels reports tunnels instead of the connections inside them.
	KeepTunnels bool
	// Details is sniff.Options.Details.
	Details bool
}

// Counters says what was read.
type Counters struct {
	Packets uint64 // in the capture
	NotIP   uint64 // packets that are not IP, or broken
	Lines   uint64 // of NDJSON
	sniff.Counters
}

// Source is an inspector.Source over one recording. It can be run once.
type Source struct {
	r        io.Reader
	opt      Options
	counters Counters
}

// New returns a source that reads r.
func New(r io.Reader, opt Options) *Source { return &Source{r: r, opt: opt} }

// Name implements inspector.Source.
func (s *Source) Name() string { return "replay" }

// Counters returns what was read. Call it after Run.
func (s *Source) Counters() Counters { return s.counters }

// Run implements inspector.Source. It ends with the recording.
func (s *Source) Run(ctx context.Context, emit func(inspector.Event)) error {
	r := bufio.NewReaderSize(s.r, 1<<16)
	magic, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read recording: %w", err)
	}
	switch {
	case isPcap(magic):
		return s.pcap(ctx, r, emit)
	case bytes.Equal(magic, []byte{0x0a, 0x0d, 0x0d, 0x0a}):
		return s.pcapng(ctx, r, emit)
	case !s.opt.CaptureOnly && (len(magic) == 0 || magic[0] == '{' || magic[0] == '\n' || magic[0] == ' '):
		return s.lines(ctx, r, emit)
	default:
		return ErrUnknown
	}
}

// isPcap knows the four magics: both byte orders, micro- and nanoseconds.
func isPcap(b []byte) bool {
	switch string(b) {
	case "\xa1\xb2\xc3\xd4", "\xd4\xc3\xb2\xa1", "\xa1\xb2\x3c\x4d", "\x4d\x3c\xb2\xa1":
		return true
	}
	return false
}

func (s *Source) pcap(ctx context.Context, r io.Reader, emit func(inspector.Event)) error {
	file, err := pcapgo.NewReader(r)
	if err != nil {
		return cut("read pcap header", err)
	}
	file.SetSnaplen(max(file.Snaplen(), snapLength))
	link := packet.LinkType(file.LinkType())
	return s.packets(ctx, emit, func() ([]byte, gopacket.CaptureInfo, packet.LinkType, error) {
		b, info, err := file.ZeroCopyReadPacketData()
		return b, info, link, err
	})
}

func (s *Source) pcapng(ctx context.Context, r io.Reader, emit func(inspector.Event)) error {
	file, err := pcapgo.NewNgReader(r, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		return cut("read pcapng header", err)
	}
	return s.packets(ctx, emit, func() ([]byte, gopacket.CaptureInfo, packet.LinkType, error) {
		b, info, err := file.ZeroCopyReadPacketData()
		if err != nil {
			return nil, info, 0, err
		}
		ifi, err := file.Interface(info.InterfaceIndex)
		if err != nil {
			return nil, info, 0, fmt.Errorf("interface %d: %w", info.InterfaceIndex, err)
		}
		return b, info, packet.LinkType(ifi.LinkType), nil
	})
}

// packets hands every packet that next gives to a sniffer.
func (s *Source) packets(ctx context.Context, emit func(inspector.Event),
	next func() ([]byte, gopacket.CaptureInfo, packet.LinkType, error),
) error {
	sniffer := sniff.New("replay", sniff.Options{MaxFlows: maxFlows, MaxBuffered: maxBuffered, Idle: idle, Recorded: true, Details: s.opt.Details}, emit)
	var last time.Time
	defer func() {
		sniffer.Flush(last)
		s.counters.Counters = sniffer.Counters
	}()
	for ctx.Err() == nil {
		b, info, link, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return cut(fmt.Sprintf("read packet %d", s.counters.Packets+1), err)
		}
		s.counters.Packets++
		last = info.Timestamp
		p, ok := packet.Decode(link, b, packet.Options{Tunnels: !s.opt.KeepTunnels})
		if !ok {
			s.counters.NotIP++
			continue
		}
		sniffer.Packet(p, info.Timestamp, "")
	}
	return nil
}

// cut tells a recording that ends too soon from other errors.
func cut(doing string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", doing, ErrCut)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// lines reads NDJSON. Empty lines are skipped.
func (s *Source) lines(ctx context.Context, r io.Reader, emit func(inspector.Event)) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 2*flow.MaxRecord)
	for ctx.Err() == nil && scanner.Scan() {
		s.counters.Lines++
		line := bytes.TrimSpace(scanner.Bytes())
		if len(line) == 0 {
			continue
		}
		e, err := inspector.ParseJSON(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", s.counters.Lines, err)
		}
		e.Source = "replay"
		emit(e)
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read line %d: %w", s.counters.Lines+1, err)
	}
	return nil
}
