package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
)

// The subset of linux/netfilter/nfnetlink_queue.h that holding packets needs.
const (
	nfnlSubsysQueue = 3
	nfqnlPacket     = nfnlSubsysQueue << 8
	nfqnlVerdict    = nfnlSubsysQueue<<8 | 1
	nfqnlConfig     = nfnlSubsysQueue<<8 | 2

	nfqaPacketHdr   = 1 // struct nfqnl_msg_packet_hdr: id be32, hw_protocol be16, hook u8
	nfqaVerdictHdr  = 2 // struct nfqnl_msg_verdict_hdr: verdict be32, id be32
	nfqaCfgCmd      = 1 // struct nfqnl_msg_config_cmd: command u8, pad, pf be16
	nfqaCfgParams   = 2 // struct nfqnl_msg_config_params: copy_range be32, copy_mode u8
	nfqaCfgQueueMax = 3

	nfqnlCfgCmdBind = 1
	nfqnlCopyMeta   = 1

	nfDrop   = 0
	nfAccept = 1
)

const (
	// maxHeld bounds the packets held in one direction: 200 ms of 200 Mbit/s in
	// full packets is 3,300. The kernel drops what comes beyond it, and counts.
	maxHeld = 8192
	// holderBuffer is the holder's socket buffer: maxHeld announcements of about 100 bytes and their overhead.
	holderBuffer = 16 << 20
)

// holder delays or drops the packets of one direction of a line: it owns one
// NFQUEUE and gives each packet's verdict when its time has come. Packets stay
// in order, also when the delay shrinks.
type holder struct {
	conn  *netlink.Conn
	queue uint16
	rnd   *rand.Rand // used by receive alone

	delay atomic.Int64 // nanoseconds
	loss  atomic.Int64 // parts per million

	held    chan heldPacket
	stop    chan struct{}
	workers sync.WaitGroup

	dropped, lostOver atomic.Uint64 // by chance; because too many were held
}

type heldPacket struct {
	id  uint32
	due time.Time
}

// newHolder binds the queue inside a namespace and begins to serve it.
func newHolder(s *space, queue uint16, seed uint64) (*holder, error) {
	conn, err := netlink.Dial(syscall.NETLINK_NETFILTER, &netlink.Config{NetNS: int(s.fd)})
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink in %s: %w", s.name, err)
	}
	h := &holder{
		conn: conn, queue: queue, rnd: rand.New(rand.NewPCG(seed, uint64(queue))),
		held: make(chan heldPacket, maxHeld), stop: make(chan struct{}),
	}
	// A smaller buffer than asked for only means more losses under load.
	_ = conn.SetReadBuffer(holderBuffer)
	err = h.configure(nfqaCfgCmd, []byte{nfqnlCfgCmdBind, 0, 0, 0})
	if err == nil {
		err = h.configure(nfqaCfgParams, []byte{0, 0, 0, 0, nfqnlCopyMeta})
	}
	if err == nil {
		err = h.configure(nfqaCfgQueueMax, binary.BigEndian.AppendUint32(nil, maxHeld))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("bind queue %d in %s: %w", queue, s.name, err)
	}
	h.workers.Add(2)
	go h.receive()
	go h.release()
	return h, nil
}

// close gives up the queue; the kernel drops what was still held.
func (h *holder) close() error {
	close(h.stop)
	err := h.conn.Close()
	h.workers.Wait()
	return err
}

func (h *holder) set(delay time.Duration, loss int) {
	h.delay.Store(int64(delay))
	h.loss.Store(int64(loss))
}

// message is one nfnetlink message with one attribute.
func (h *holder) message(kind netlink.HeaderType, flags netlink.HeaderFlags, attr uint16, value []byte) netlink.Message {
	data := []byte{syscall.AF_UNSPEC, 0, byte(h.queue >> 8), byte(h.queue)}
	data = binary.NativeEndian.AppendUint16(data, uint16(4+len(value)))
	data = binary.NativeEndian.AppendUint16(data, attr)
	data = append(data, value...)
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	return netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | flags}, Data: data}
}

func (h *holder) configure(attr uint16, value []byte) error {
	_, err := h.conn.Execute(h.message(nfqnlConfig, netlink.Acknowledge, attr, value))
	return err
}

// verdict answers for one packet. Its errors are the kernel's having dropped
// the packet already, with its device, and are seen, and ignored, by receive.
func (h *holder) verdict(id, verdict uint32) {
	value := binary.BigEndian.AppendUint32(nil, verdict)
	value = binary.BigEndian.AppendUint32(value, id)
	_, _ = h.conn.Send(h.message(nfqnlVerdict, 0, nfqaVerdictHdr, value))
}

// receive takes announcements until the connection closes.
func (h *holder) receive() {
	defer h.workers.Done()
	var last time.Time
	for {
		msgs, err := h.conn.Receive()
		if err != nil {
			select {
			case <-h.stop:
				return
			default:
			}
			if errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOENT) {
				continue // announcements were lost, or a held packet's device went away
			}
			return
		}
		now := time.Now()
		for _, m := range msgs {
			id, ok := packetID(m)
			if !ok {
				continue
			}
			if loss := h.loss.Load(); loss > 0 && h.rnd.Int64N(1_000_000) < loss {
				h.dropped.Add(1)
				h.verdict(id, nfDrop)
				continue
			}
			due := now.Add(time.Duration(h.delay.Load()))
			if due.Before(last) {
				due = last
			}
			last = due
			select {
			case h.held <- heldPacket{id, due}:
			default:
				h.lostOver.Add(1)
				h.verdict(id, nfDrop)
			}
		}
	}
}

// release lets each packet go when it is due.
func (h *holder) release() {
	defer h.workers.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-h.stop:
			return
		case p := <-h.held:
			if wait := time.Until(p.due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-h.stop:
					return
				case <-timer.C:
				}
			}
			h.verdict(p.id, nfAccept)
		}
	}
}

// packetID reads the id out of an announcement.
func packetID(m netlink.Message) (uint32, bool) {
	const header = 4 // struct nfgenmsg
	if m.Header.Type != nfqnlPacket || len(m.Data) < header {
		return 0, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return 0, false
	}
	for ad.Next() {
		if b := ad.Bytes(); ad.Type() == nfqaPacketHdr && len(b) >= 4 {
			return binary.BigEndian.Uint32(b), true
		}
	}
	return 0, false
}
