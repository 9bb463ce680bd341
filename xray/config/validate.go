package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"netpolicy.dev/netpolicy/diag"
	"netpolicy.dev/netpolicy/xray/link"
)

const (
	// maxConfig bounds the JSON of a configuration; a thousand outbounds have 1 MiB.
	maxConfig = 16 << 20
	// maxDepth bounds how deep it nests; Xray's own settings need about ten.
	maxDepth = 64
)

// Validate says what is wrong with a configuration of Xray, in the order of the
// text's parts. It finds what `xray run -test` takes in silence, and of what the
// core refuses itself the values that links carry; it does not read the core's
// other settings, so that a configuration without findings still wants `-test`.
func Validate(v Version, data []byte) []Finding {
	c := checker{v: v}
	if len(data) > maxConfig {
		c.report(diag.Error, "", "the configuration is larger than 16 MiB", "")
		return c.findings
	}
	if link.JSONDepth(data) > maxDepth {
		c.report(diag.Error, "", "the configuration nests more than 64 deep", "")
		return c.findings
	}
	tree, err := decode(data)
	file, ok := tree.(object)
	if err != nil || !ok {
		c.report(diag.Error, "", "not a JSON object", "comments are not read here")
		return c.findings
	}
	c.keys("", "file", file)
	for i, e := range list(file, "outbounds") {
		if o, ok := e.(object); ok {
			c.outbound(item("", "outbounds", i), o)
		}
	}
	c.file(file)
	return c.findings
}

// file checks what parts of a configuration say of each other.
func (c *checker) file(file object) {
	tags := c.tags(file, "outbounds")
	inbounds := c.tags(file, "inbounds")
	api := child(file, "api")
	if tag := text(api, "tag"); tag != "" {
		inbounds, tags = append(inbounds, tag), append(tags, tag)
	}
	if tag := text(child(file, "metrics"), "tag"); tag != "" {
		inbounds, tags = append(inbounds, tag), append(tags, tag)
	}
	if tag := text(child(file, "dns"), "tag"); tag != "" {
		inbounds = append(inbounds, tag)
	}
	if len(list(file, "outbounds")) == 0 {
		c.report(diag.Error, "outbounds", "there are no outbounds, so that every connection ends", "")
	}
	c.listeners(file)
	c.routing(child(file, "routing"), tags, inbounds)
	for i, e := range list(file, "outbounds") {
		o, _ := e.(object)
		if to := text(child(o, "proxySettings"), "tag"); to != "" && !slices.Contains(tags, to) {
			c.report(diag.Error, at(item("", "outbounds", i), "proxySettings.tag"), "there is no outbound with this tag", "")
		}
		if to := text(child(child(o, "streamSettings"), "sockopt"), "dialerProxy"); to != "" && !slices.Contains(tags, to) {
			c.report(diag.Error, at(item("", "outbounds", i), "streamSettings.sockopt.dialerProxy"), "there is no outbound with this tag", "")
		}
	}
	c.marks(file)
}

// tags returns the tags of a list, and reports those that stand twice.
func (c *checker) tags(file object, key string) (tags []string) {
	for i, e := range list(file, key) {
		o, _ := e.(object)
		tag := text(o, "tag")
		if tag == "" {
			continue
		}
		if slices.Contains(tags, tag) {
			c.report(diag.Error, at(item("", key, i), "tag"), "the tag stands twice", "give each its own")
		}
		tags = append(tags, tag)
	}
	return tags
}

// listeners checks who can reach the inbounds and the API.
func (c *checker) listeners(file object) {
	used := map[string]string{}
	for i, e := range list(file, "inbounds") {
		in, _ := e.(object)
		path := item("", "inbounds", i)
		protocol := strings.ToLower(text(in, "protocol"))
		if protocol == "tun" {
			continue
		}
		listen := text(in, "listen")
		if strings.HasPrefix(listen, "/") || strings.HasPrefix(listen, "@") {
			continue // a unix socket, which has no port
		}
		port, ok := integer(in, "port")
		if _, has := get(in, "port"); !has || ok && (port < 1 || port > 65535) {
			c.report(diag.Error, at(path, "port"), "the port is missing or not from 1 to 65535", "")
			continue
		}
		if v, _ := get(in, "port"); v != nil && ok {
			key := listen + " " + text(child(in, "streamSettings"), "network") + " " + strconv.FormatInt(port, 10)
			if first, twice := used[key]; twice {
				c.report(diag.Error, at(path, "port"), "the same address and port as "+first, "")
			}
			used[key] = path
		}
		open := protocol == "mixed" || protocol == "socks" || protocol == "http"
		auth := strings.EqualFold(text(child(in, "settings"), "auth"), "password") || protocol == "http" && len(list(child(in, "settings"), "accounts")) > 0
		if open && !auth && !loopback(listen) {
			c.report(diag.Warning, at(path, "listen"), "everybody who reaches this address can use the proxy", "listen on 127.0.0.1, or ask for a password")
		}
	}
	if listen := text(child(file, "api"), "listen"); listen != "" && !loopback(listen) {
		c.report(diag.Error, "api.listen", "the API asks nobody for a password and is reachable from outside", "listen on 127.0.0.1")
	}
	_, observatory := get(file, "observatory")
	_, burst := get(file, "burstObservatory")
	if i := slices.IndexFunc(texts(child(file, "api"), "services"), func(s string) bool { return strings.EqualFold(s, "ObservatoryService") }); i >= 0 && !observatory && !burst {
		c.report(diag.Error, item("api", "services", i), "without an observatory Xray does not start with this service", "leave it out, or add an observatory")
	}
	if listen := text(child(file, "metrics"), "listen"); listen != "" && !loopback(listen) {
		c.report(diag.Warning, "metrics.listen", "the figures can be read from outside", "listen on 127.0.0.1")
	}
}

// loopback reports whether an address, with or without a port, is this host's own.
func loopback(listen string) bool {
	if a, err := netip.ParseAddrPort(listen); err == nil {
		return a.Addr().IsLoopback()
	}
	a, err := netip.ParseAddr(strings.Trim(listen, "[]"))
	return err == nil && a.IsLoopback()
}

// routing checks that rules and balancers lead to something that is there.
func (c *checker) routing(routing object, tags, inbounds []string) {
	var balancers []string
	for i, e := range list(routing, "balancers") {
		o, _ := e.(object)
		path := item("routing", "balancers", i)
		balancers = append(balancers, text(o, "tag"))
		selectors := texts(o, "selector")
		if !slices.ContainsFunc(tags, func(tag string) bool {
			return slices.ContainsFunc(selectors, func(s string) bool { return strings.HasPrefix(tag, s) })
		}) {
			c.report(diag.Error, at(path, "selector"), "no outbound's tag begins like this", "")
		}
		if to := text(o, "fallbackTag"); to != "" && !slices.Contains(tags, to) {
			c.report(diag.Error, at(path, "fallbackTag"), "there is no outbound with this tag", "")
		}
	}
	for i, e := range list(routing, "rules") {
		o, _ := e.(object)
		path := item("routing", "rules", i)
		outbound, balancer := text(o, "outboundTag"), text(o, "balancerTag")
		if outbound != "" && !slices.Contains(tags, outbound) {
			c.report(diag.Error, at(path, "outboundTag"), "there is no outbound with this tag", "")
		}
		if balancer != "" && !slices.Contains(balancers, balancer) {
			c.report(diag.Error, at(path, "balancerTag"), "there is no balancer with this tag", "")
		}
		for _, tag := range texts(o, "inboundTag") {
			if !slices.Contains(inbounds, tag) {
				c.report(diag.Warning, at(path, "inboundTag"), "there is no inbound with this tag, so that the rule takes nothing", "")
			}
		}
	}
}

// marks checks that what Xray sends is not led back into it.
func (c *checker) marks(file object) {
	for i, e := range list(file, "inbounds") {
		in, _ := e.(object)
		tproxy := strings.EqualFold(text(child(child(in, "streamSettings"), "sockopt"), "tproxy"), "tproxy")
		if !tproxy && !strings.EqualFold(text(in, "protocol"), "tun") {
			continue
		}
		for k, e := range list(file, "outbounds") {
			out, _ := e.(object)
			switch strings.ToLower(text(out, "protocol")) {
			case "blackhole", "dns", "loopback":
				continue
			}
			sockopt := child(child(out, "streamSettings"), "sockopt")
			if mark, _ := integer(sockopt, "mark"); mark == 0 && text(sockopt, "interface") == "" && text(sockopt, "dialerProxy") == "" {
				c.report(diag.Error, at(item("", "outbounds", k), "streamSettings.sockopt.mark"),
					"without a mark what this outbound sends comes back to "+item("", "inbounds", i), "set one that the host's rules lead past Xray")
			}
		}
		return
	}
}

// IsConfig reports whether a text is a configuration of Xray, or means to be one:
// an object with inbounds or outbounds that have protocols, or with routing.
func IsConfig(data []byte) bool {
	file := readFile(data)
	if _, ok := get(file, "routing"); ok {
		return true
	}
	for _, key := range []string{"inbounds", "outbounds"} {
		for _, e := range list(file, key) {
			o, _ := e.(object)
			if text(o, "protocol") != "" {
				return true
			}
		}
	}
	return false
}

// HasTun reports whether a configuration makes a network device. Xray makes it
// even for `run -test`.
func HasTun(data []byte) bool {
	for _, e := range list(readFile(data), "inbounds") {
		in, _ := e.(object)
		if strings.EqualFold(text(in, "protocol"), "tun") {
			return true
		}
	}
	return false
}

// readFile returns the object that the text is; nil if it is none within the bounds.
func readFile(data []byte) object {
	if len(data) > maxConfig || link.JSONDepth(data) > maxDepth {
		return nil
	}
	tree, err := decode(data)
	if err != nil {
		return nil
	}
	file, _ := tree.(object)
	return file
}
