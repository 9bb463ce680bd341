package daemon

import "netpolicy.dev/netpolicy/inspector"

// proxied reports whether the flow may be one that the relay or the forwarder has
// made for a client: what it is for has been decided, and the line's answers must
// come through. What programs of this host open is decided by the table, which marks
// the connection; the mark tells one from the other.
func (c *core) proxied(t *tracked) bool {
	d := &c.live.policy.Daemon
	return c.own[t.key.src.Addr()] && (d.Relay.Used() || len(d.DNS.Listen) > 0) && t.route < 0 && !t.blocked
}

// ours reports whether the flow is one that the daemon's own relay or forwarder has made, which is a part
// of a client's: as far as is known by now, see proxied, and no other program has it.
func (c *core) ours(t *tracked) bool {
	process, known := t.flow.Process.Get()
	return c.proxied(t) && t.source != relayName && (!known || process == c.self)
}

// transparent reports whether an event tells of the relay's socket towards a client whose connection it takes
// on its way: the socket has the server's address, and the connection is the client's, which others tell of.
func (c *core) transparent(e *inspector.Event) bool {
	if e.Source != socketsName && e.Source != localNames || !c.live.policy.Daemon.Relay.Takes() {
		return false
	}
	k, ok := keyOf(&e.Flow)
	return ok && !c.own[k.src.Addr()] && !c.own[k.dst.Addr()]
}
