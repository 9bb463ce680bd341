package flow

// Status tells how much is known about one fact of a flow.
type Status uint8

const (
	// Unknown is the zero value: the fact may still arrive.
	Unknown Status = iota
	// None means known to be absent: no SNI in the ClientHello, no port in ICMP.
	None
	// Invalid means present but not a legal value, such as a name that IDNA refuses.
	// Predicates treat it like None.
	Invalid
	// Known means present, with a value.
	Known
)

// Value is one fact of type T. The zero Value is unknown. Values are
// comparable, and hold T's zero value unless their status is Known.
type Value[T comparable] struct {
	status Status
	v      T
}

// Some returns a known value.
func Some[T comparable](v T) Value[T] { return Value[T]{Known, v} }

// Absent returns a fact that is known to be absent.
func Absent[T comparable]() Value[T] { return Value[T]{status: None} }

// Bad returns a fact that is present but invalid.
func Bad[T comparable]() Value[T] { return Value[T]{status: Invalid} }

// Status reports how much is known.
func (v Value[T]) Status() Status { return v.status }

// Get returns the value and whether there is one (status Known).
func (v Value[T]) Get() (T, bool) { return v.v, v.status == Known }

// Unknown reports whether the fact may still arrive.
func (v Value[T]) Unknown() bool { return v.status == Unknown }
