package config

import (
	"slices"
	"strings"

	"netpolicy.dev/netpolicy/diag"
)

// confine takes out of a link's objects what is this host's to say: how sockets are
// made, since a mark or a device of the link's own would lead past the policy, and
// which files Xray writes. What would have it read files is refused, and so is a mask
// whose socket can't have a mark. It comes before our own marks.
func (b *builder) confine(v any) {
	switch x := v.(type) {
	case object:
		seen := map[string]bool{}
		for _, key := range sortedKeys(x) {
			if folded := strings.ToLower(strings.ToUpper(key)); seen[folded] {
				b.key(diag.Error, "extra", "two of its keys are one to Xray, which reads the last", "write it once")
			} else {
				seen[folded] = true
			}
			is := func(name string) bool { return strings.EqualFold(name, key) }
			switch {
			case slices.ContainsFunc([]string{"sockopt", "echSockopt", "masterKeyLog"}, is):
				delete(x, key)
				b.key(diag.Warning, "extra", strings.ToLower(key)+" is dropped: sockets and files of this host are not a link's to choose", "")
			case slices.ContainsFunc([]string{"certificateFile", "keyFile"}, is):
				b.key(diag.Error, "extra", strings.ToLower(key)+" names a file of this host", "the certificate itself has to stand in the link, or its pin")
			case is("type") && slices.Contains([]string{"xicmp", "realm"}, strings.ToLower(text(x, "type"))):
				b.key(diag.Error, "fm", "the mask "+strings.ToLower(text(x, "type"))+" makes sockets of its own, on which Xray puts no mark", "the server has to change to another mask")
			default:
				b.confine(x[key])
			}
		}
	case []any:
		for _, e := range x {
			b.confine(e)
		}
	}
}

// sockopts puts the options on every socket that a stream leads to: its own, that of
// another way back of xhttp, for which Xray takes none of those, and that on which a
// key of ECH is asked for.
func sockopts(stream, opt object) {
	stream["sockopt"] = opt
	if tls := child(stream, "tlsSettings"); strings.Contains(text(tls, "echConfigList"), "://") {
		tls["echSockopt"] = opt
	}
	for _, key := range []string{"xhttpSettings", "splithttpSettings"} {
		x := child(stream, key)
		for _, settings := range []object{x, child(x, "extra")} {
			if back := child(settings, "downloadSettings"); back != nil {
				sockopts(back, opt)
			}
		}
	}
}
